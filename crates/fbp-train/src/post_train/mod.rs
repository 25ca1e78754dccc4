//! Post-training: ways to go on from a pretrained network, all judged alike.

mod choice;
mod closed_form;
mod goal;
mod head;
mod hierarchical;
mod joint;
mod lbfgs;
mod options;
mod run;
mod softmax_fit;
mod tail;

pub use choice::Chosen;
pub(crate) use goal::check_policy;
pub use goal::{Goal, OutputGoal};
pub(crate) use head::head_of;
pub use hierarchical::SegmentRecord;
pub use options::{Keep, PostTrainOptions};
pub use run::{PostTrainCurves, post_train, stage_of_mode, transitional_stage, transitional_stages};
pub(crate) use softmax_fit::SoftmaxFit;
