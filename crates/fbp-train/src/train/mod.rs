//! Training: from scratch, and ways to go on from a pretrained network, all judged alike.

mod aim;
mod choice;
mod closed_form;
mod curves;
mod epochs;
mod files;
mod goal;
mod head;
mod host;
mod joint;
mod lbfgs;
mod losses;
mod moments;
mod options;
mod pace;
mod parcel;
mod pretrain;
mod record;
mod run;
mod segments;
mod session;
mod slices;
mod softmax_fit;
mod source;
mod state;
mod sums;
mod tail;

pub use choice::Chosen;
pub(crate) use closed_form::accumulate;
pub use curves::{PostTrainCurves, SegmentRecord};
pub(crate) use files::RECORD_PREFIX;
pub use files::{
    EXAMPLES_FILE, PRETRAIN_FILE, TARGETS_FILE, check_same_origin, find_finished, is_record_name, post_train_records,
    record_name,
};
pub use goal::{Goal, check_policy};
pub(crate) use head::head_of;
pub use host::Host;
pub use options::PostTrainOptions;
pub use pretrain::{PretrainOptions, Pretrained, pretrain, pretrain_by_team, pretrain_to_file, pretrain_watched};
pub use record::{PostTrainRecord, PostTrainSettings, PretrainRecord, PretrainSettings};
pub use run::{ALL_STAGES, closed_form_sums, post_train, post_train_kept, stage_of_mode};
pub(crate) use softmax_fit::SoftmaxFit;
pub use state::{SaveEvery, StateFiles};
pub use sums::{LayerSums, SumFiles};
