//! What the process does with freed memory.

use std::sync::Once;

/// Makes the C library keep freed memory for the next tensors instead of giving it back after every operation.
///
/// Every tensor operation allocates its result. glibc returns the end of the heap to the system whenever it holds more
/// than a threshold, and asks for it again right away; the page faults then cost more than the arithmetic of a small
/// network (a ReLU gradient of 110,592 numbers: 0.66 ms instead of 0.05 ms). The threshold follows the largest block that was
/// ever freed, up to 32 MiB, so one block that is never touched raises it. The process may keep up to 64 MiB more than
/// it uses. Other allocators are not affected.
pub(crate) fn keep_freed_memory() {
    static ONCE: Once = Once::new();
    // Just below the largest block size that glibc learns from.
    ONCE.call_once(|| drop(std::hint::black_box(vec![0_u8; (32 << 20) - (64 << 10)])));
}
