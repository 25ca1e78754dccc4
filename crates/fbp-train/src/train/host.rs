use std::sync::Arc;

use super::state::StateFiles;
use super::sums::LayerSums;
use crate::collective::{Alone, Collective};

/// Where a training is at home: the files of its state, and those who do it together.
#[derive(Clone, Debug)]
pub struct Host<'a> {
    /// Where its state is kept, if it is. Of several ranks the first one keeps it for all; segments that are trained by
    /// several ranks are kept by those who train them.
    pub state: Option<&'a StateFiles>,
    /// Those who do it together.
    pub team: Arc<dyn Collective>,
    /// What several processes have summed up for the closed form, which then sums nothing itself.
    pub sums: Option<&'a LayerSums>,
}

impl Default for Host<'_> {
    /// One process that keeps nothing.
    fn default() -> Self {
        Self { state: None, team: Arc::new(Alone), sums: None }
    }
}

impl<'a> Host<'a> {
    /// One process that keeps the state of its training.
    pub fn alone(state: &'a StateFiles) -> Self {
        Self { state: Some(state), ..Self::default() }
    }

    /// Whether results are for this process to write: always true where it is alone.
    pub(super) fn is_first(&self) -> bool {
        self.team.rank() == 0
    }
}
