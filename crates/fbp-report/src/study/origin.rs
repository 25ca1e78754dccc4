//! How the runs of one start were made.

use super::Runs;
use super::groups::Group;
use crate::page::{duration, escape, grouped, percent, push};

pub(super) fn section(html: &mut String, runs: &Runs) {
    html.push_str("<details><summary>How this was made</summary><div class=\"small\">\n");
    if let Some(record) = &runs.pretrain {
        let s = &record.settings;
        push(
            html,
            format_args!(
                "<p>First training on {}: {} numbers to learn, {} epochs, batches of {}, AdamW with learning rate {:e} ({}), weight \
                 decay {}, seed {}, {} of the training images held back for validation; {} threads, {} in all. Checkpoint \
                 <span class=\"hash\">{}</span>.</p>\n",
                escape(&s.data.name),
                grouped(record.parameters),
                s.epochs,
                s.batch,
                s.learning_rate,
                s.schedule,
                s.weight_decay,
                s.seed,
                percent(s.validation, 0),
                record.threads,
                duration(record.seconds),
                escape(&record.checkpoint_sha256),
            ),
        );
    }
    let groups = Group::all(runs);
    let list = |of: &dyn Fn(&Group<'_>) -> String| {
        let mut values: Vec<String> = Vec::new();
        groups.iter().map(of).filter(|value| value != "–").for_each(|value| {
            if !values.contains(&value) {
                values.push(value);
            }
        });
        values.join(", ")
    };
    if !groups.is_empty() {
        push(
            html,
            format_args!(
                "<p>Post-training: {} epochs, batches of {}, AdamW with learning rates {}, weight decay {}. Where targets stand \
                 beside the usual goal (cross-entropy), the weight of the distance is α times the ratio of the running means \
                 of the two, between 1e-5 and 10.</p>\n",
                list(&|group| group.hyper.epochs.to_string()),
                list(&|group| group.hyper.batch.to_string()),
                list(&|group| group.rate()),
                list(&|group| group.hyper.weight_decay.to_string()),
            ),
        );
    }
    html.push_str("</div></details>\n");
}
