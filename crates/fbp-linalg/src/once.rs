use std::sync::OnceLock;

/// What a cell holds; it is made at the first use, by tasks that never wait for one another.
///
/// Within [`OnceLock::get_or_init`] work in parallel can deadlock: while a thread of a pool waits for parts of its own
/// work, the pool may hand it another task, which then waits for the cell. Here tasks that come at the same time all
/// make the value, and the first one is kept.
///
/// ```
/// use std::sync::OnceLock;
///
/// let cell = OnceLock::new();
/// assert_eq!(fbp_linalg::get_or_make(&cell, || 3), &3);
/// assert_eq!(fbp_linalg::get_or_make(&cell, || 4), &3);
/// ```
pub fn get_or_make<V>(cell: &OnceLock<V>, make: impl FnOnce() -> V) -> &V {
    if let Some(value) = cell.get() {
        return value;
    }
    let value = make();
    cell.get_or_init(|| value)
}
