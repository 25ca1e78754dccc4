use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Spans of the joint iteration: passes of the rest forwards and backwards, and the small problems.
const NAMES: [&str; 3] = ["forward", "products", "nearest"];

/// Nanoseconds of all threads within each of them.
static SPENT: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];

thread_local! {
    /// When the span of this thread began; they do not nest.
    static BEGUN: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Sums the time within the spans.
pub(crate) struct Stopwatch;

impl Subscriber for Stopwatch {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_span() && metadata.target().starts_with("fbp_inverse::joint") && NAMES.contains(&metadata.name())
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let place = NAMES.iter().position(|name| *name == span.metadata().name());
        Id::from_u64(1 + place.unwrap_or(0) as u64)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {}

    fn enter(&self, _: &Id) {
        BEGUN.set(Some(Instant::now()));
    }

    fn exit(&self, span: &Id) {
        if let Some(begun) = BEGUN.take() {
            SPENT[span.into_u64() as usize - 1].fetch_add(begun.elapsed().as_nanos() as u64, Ordering::Relaxed);
        }
    }
}

/// Seconds within each of the spans since the last call.
pub(crate) fn seconds() -> [f64; 3] {
    [0, 1, 2].map(|place: usize| SPENT[place].swap(0, Ordering::Relaxed) as f64 * 1e-9)
}
