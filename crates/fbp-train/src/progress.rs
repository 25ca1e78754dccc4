//! How long work tells how far it is.

/// Watches long work: a command line draws a bar, a library user may ignore it.
pub trait Progress: Sync {
    /// Work of `total` units begins, for example `("pretraining", 60000, "images")`.
    fn begin(&self, what: &str, total: usize, unit: &str);
    /// Some units are done.
    fn advance(&self, units: usize);
    /// A line worth reading, for example the accuracy of an epoch.
    fn note(&self, line: &str);
    /// The work that was begun is done, or has failed.
    fn end(&self);
    /// Whether somebody wants the work to end after its current step. Long work asks this between two steps, and ends with
    /// [`TrainError::Stopped`](crate::TrainError::Stopped).
    fn stop_asked(&self) -> bool {
        false
    }
}

/// Shows nothing, but passes on that the work should end: for work within other work.
#[derive(Clone, Copy)]
pub struct Quiet<'a>(pub &'a dyn Progress);

impl Progress for Quiet<'_> {
    fn begin(&self, _: &str, _: usize, _: &str) {}
    fn advance(&self, _: usize) {}
    fn note(&self, _: &str) {}
    fn end(&self) {}

    fn stop_asked(&self) -> bool {
        self.0.stop_asked()
    }
}

/// Shows nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _: &str, _: usize, _: &str) {}
    fn advance(&self, _: usize) {}
    fn note(&self, _: &str) {}
    fn end(&self) {}
}
