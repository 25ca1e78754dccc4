//! Sweeps: many post-training runs from one description, and what they say when compared.
//!
//! ```toml
//! data = { name = "fashion-mnist" }      # keys as the options of `fbp pretrain`: train_size, ..
//! model = "simple-cnn-mnist-v2"          # of starts that are trained
//! seeds = { from = 0, count = 10 }       # or [0, 1, 2]
//!
//! [[starts]]                             # trained first, once for every seed
//! name = "under-trained"
//! epochs = 2
//!
//! [[starts]]                             # or a file
//! name = "mine"
//! checkpoint = "c.safetensors"
//!
//! [[runs]]                               # every combination of all values
//! mode = "joint"
//! stage = ["conv1", "conv2", "out"]
//! alpha = [0, 0.02, 0.1, 0.3]
//! margin = 1
//!
//! [[runs]]                               # tuned fine-tuning: the summary takes the best rate on the validation part
//! mode = "full"
//! learning_rate = [1e-4, 3e-4, 1e-3, 3e-3, 1e-2]
//! schedule = "cosine"
//! ```
//!
//! The other keys of `[[runs]]` are `starts`, `seeds`, `targets`, `embedding`, `metric`, `policy`, `epochs`, `batch`,
//! `weight_decay`, `keep` and `ema`; those of `[[starts]]` `batch`, `learning_rate`, `schedule`, `weight_decay` and `seed`
//! (that of the run by default); at the top `validation`, `threads_per_run`, `keep_checkpoints` and `keep_targets`.
//! Defaults are those of `fbp pretrain`, `fbp targets` and `fbp post-train`. A key that has no meaning for the mode of a run
//! is ignored in it; one that has none for any mode of its table is refused.
//!
//! With `drop_class` and `recover_class` in `data`, starts are trained on the data without the classes, and runs on the data
//! with those that are given back.
//!
//! Every run writes one record, named by a digest of all its settings, when it is finished: a sweep that is started again
//! does what is missing, and a run that is written down twice is done once. Runs are done in parallel, each on
//! `threads_per_run` threads (1 by default), so that its result does not depend on how many go on at a time.
//!
//! | in the folder | what |
//! |---|---|
//! | `runs/START/post-train_DIGEST.json` | record of one run, which `fbp report --runs` reads too |
//! | `starts/` | checkpoints and records of the starts that were trained |
//! | `targets/` | target stores, one for each start, seed and kind of target; removed when all their runs are done |
//! | `summary.json`, `.csv`, `.md` | the comparisons (`fbp_report::sweep::SweepRow`) |

mod config;
mod grid;
mod list;
mod plan;
mod run;

pub use config::SweepConfig;
pub use plan::PlannedRun;
pub use run::{RUNS_FOLDER, Sweep};
