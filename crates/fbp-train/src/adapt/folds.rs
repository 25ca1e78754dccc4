use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::TrainError;
use crate::data::Dataset;

/// Random streams of one seed, apart from those of splits and epochs.
const DRAW_STREAM: u64 = u64::MAX - 4096;
const FOLD_STREAM: u64 = u64::MAX - 4097;

/// The samples of every class in random order.
fn of_classes(data: &Dataset, seed: u64, stream: u64) -> Vec<Vec<usize>> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    let mut classes = vec![Vec::new(); data.classes()];
    for (sample, &label) in data.labels().iter().enumerate() {
        classes[usize::from(label)].push(sample);
    }
    classes.iter_mut().for_each(|samples| samples.shuffle(&mut rng));
    classes
}

/// Draws labelled samples, ascending: one of every class in turn, so that no class has more than one more than another, as far as
/// there are enough. Without a number all of them.
///
/// # Errors
/// [`TrainError::Setting`] for fewer labels than classes or more than there are.
pub fn balanced_labels(data: &Dataset, labels: Option<usize>, seed: u64) -> Result<Vec<usize>, TrainError> {
    let count = labels.unwrap_or(data.len());
    let classes = of_classes(data, seed, DRAW_STREAM);
    let there = classes.iter().filter(|samples| !samples.is_empty()).count();
    let refused = |reason: String| Err(TrainError::Setting { name: "labels", value: count.to_string(), reason });
    if count < there {
        return refused(format!("is less than the {there} classes of {}: every class needs a label", data.name()));
    }
    if count > data.len() {
        return refused(format!("is more than the {} training samples of {}", data.len(), data.name()));
    }
    let most = classes.iter().map(Vec::len).max().unwrap_or(0);
    let in_turn = (0..most).flat_map(|rank| classes.iter().filter_map(move |samples| samples.get(rank)));
    let mut drawn: Vec<usize> = in_turn.copied().take(count).collect();
    drawn.sort_unstable();
    Ok(drawn)
}

/// Number of folds for some labels: with few of them, each is worth more to the fits.
pub fn default_folds(labels: usize) -> usize {
    match labels {
        0..50 => labels.min(10),
        50..300 => 5,
        _ => 3,
    }
}

/// Deals all samples into folds, each class evenly: no two folds differ by more than one sample, in all and of any class.
///
/// # Errors
/// [`TrainError::Setting`] for more folds than samples, or fewer than two.
pub fn stratified_folds(data: &Dataset, folds: usize, seed: u64) -> Result<Vec<Vec<usize>>, TrainError> {
    if folds > data.len() || folds < 2 {
        let reason = format!("makes no sense for {} labels: 2 to the number of labels", data.len());
        return Err(TrainError::Setting { name: "folds", value: folds.to_string(), reason });
    }
    let mut dealt = vec![Vec::new(); folds];
    // The next class goes on where the last one ended.
    let all = of_classes(data, seed, FOLD_STREAM).into_iter().flatten();
    all.enumerate().for_each(|(place, sample)| dealt[place % folds].push(sample));
    dealt.iter_mut().for_each(|fold| fold.sort_unstable());
    Ok(dealt)
}
