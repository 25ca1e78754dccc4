use super::options::Method;
use super::prepared::Prepared;
use crate::TrainError;
use crate::data::Dataset;
use crate::evaluate::EvalSet;

/// How a candidate did on labels that it was not fitted to, label by label.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Score {
    pub(super) right: Vec<bool>,
    /// Cross-entropies.
    losses: Vec<f64>,
    /// Whether it gave a network in every fold.
    pub(super) is_whole: bool,
}

/// Which labels a network got right, and their cross-entropies; none of what is no network.
pub(super) type Judged = Option<(Vec<bool>, Vec<f64>)>;

/// Judges a network on the labels held back.
///
/// # Errors
/// [`TrainError::Model`] if the samples do not fit the network.
pub(super) fn judge(data: &Dataset, held: &[usize], fitted: Option<&Prepared>) -> Result<Judged, TrainError> {
    let Some(Prepared { network, normalization }) = fitted else { return Ok(None) };
    let set = EvalSet::new(data, normalization, Some(held))?;
    match set.right(network).and_then(|right| Ok((right, set.losses(network)?))) {
        // A network whose outputs overflow is none.
        Err(TrainError::NonFiniteOutput) => Ok(None),
        judged => judged.map(Some),
    }
}

impl Score {
    pub(super) fn new(labels: usize) -> Self {
        Self { right: vec![false; labels], losses: vec![0.0; labels], is_whole: true }
    }

    /// Takes what a network did on the labels held back; without one they all count as wrong.
    pub(super) fn put(&mut self, held: &[usize], judged: Judged) {
        let Some((right, losses)) = judged else {
            self.is_whole = false;
            held.iter().for_each(|&sample| self.losses[sample] = f64::INFINITY);
            return;
        };
        for ((&sample, right), loss) in held.iter().zip(right).zip(losses) {
            (self.right[sample], self.losses[sample]) = (right, loss);
        }
    }

    pub(super) fn count(&self) -> usize {
        self.right.iter().filter(|right| **right).count()
    }

    pub(super) fn accuracy(&self) -> f64 {
        self.count() as f64 / self.right.len().max(1) as f64
    }

    /// Standard error of the accuracy, that of a share of independent labels.
    pub(super) fn error(&self) -> f64 {
        let share = self.accuracy();
        (share * (1.0 - share) / self.right.len().max(1) as f64).sqrt()
    }

    /// Mean cross-entropy.
    pub(super) fn loss(&self) -> f64 {
        self.losses.iter().sum::<f64>() / self.losses.len().max(1) as f64
    }

    /// Whether it is right more often than another by no more than `errors` times the standard error of that: with `w` labels that it
    /// alone gets right and `l` that the other alone does, `(w - l)² ≤ errors² (w + l)`.
    ///
    /// # Source
    /// McNemar, Psychometrika 12 (1947).
    fn leads_by_noise(&self, other: &Self, errors: f64) -> bool {
        let alone = |a: &Self, b: &Self| a.right.iter().zip(&b.right).filter(|(a, b)| **a && !**b).count();
        let (won, lost) = (alone(self, other), alone(other, self));
        (won.abs_diff(lost) as f64).powi(2) <= errors.powi(2) * (won + lost) as f64
    }

    /// By how much it is better than another, and the standard error of that, label by label.
    pub(super) fn gain(&self, other: &Self) -> (f64, f64) {
        let count = self.right.len().max(1) as f64;
        let differences = || self.right.iter().zip(&other.right).map(|(a, b)| f64::from(*a) - f64::from(*b));
        let mean = differences().sum::<f64>() / count;
        let variance = differences().map(|d| (d - mean).powi(2)).sum::<f64>() / (count - 1.0).max(1.0);
        (mean, (variance / count).sqrt())
    }
}

/// By how many standard errors a candidate has to be better than the network as it is to take its place. Over 240 runs on
/// `cnn-mnist-large` one costs nothing in the mean, and lets ten of them end more than a point below the network as it is (7.4 at worst);
/// with one and a half it is two (3.3) for 0.03 points in the mean, with two still two, for 0.4.
const SURE: f64 = 1.5;
/// By how many the most often right candidate may lead for another one to be as good.
const NEAR: f64 = 1.0;

/// The candidate to take: of those better than the network as it is, and within a standard error of the most often right one, that of
/// the smallest cross-entropy; the network as it is if there is none. Better is what is right more often, and if `surely`, by more than
/// [`SURE`] standard errors of that.
///
/// Accuracies of few labels tie, or differ by what their noise alone would do; the cross-entropy tells the tied ones apart with much
/// less noise.
pub(super) fn choose(scores: &[(Method, &Score)], surely: bool) -> usize {
    let whole = || scores.iter().enumerate().filter(|(_, (_, score))| score.is_whole);
    let as_it_is = whole().find(|(_, (method, _))| *method == Method::Leave);
    let is_better = |score: &Score| {
        as_it_is.is_none_or(|(_, (_, start))| {
            score.count() > start.count() && !(surely && score.leads_by_noise(start, SURE))
        })
    };
    let better = || whole().filter(|(_, (method, score))| *method != Method::Leave && is_better(score));
    let fallback = as_it_is.map_or(0, |(place, _)| place);
    let Some((_, (_, best))) = better().max_by_key(|(place, (_, score))| (score.count(), usize::MAX - place)) else {
        return fallback;
    };
    let near = better().filter(|(_, (_, score))| best.leads_by_noise(score, NEAR));
    near.min_by(|(_, (_, a)), (_, (_, b))| a.loss().total_cmp(&b.loss())).map_or(fallback, |(place, _)| place)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(right: &str, loss: f64) -> Score {
        let right: Vec<bool> = right.chars().map(|c| c == '1').collect();
        Score { losses: vec![loss; right.len()], right, is_whole: true }
    }

    fn chosen(scores: &[(Method, Score)]) -> usize {
        choose(&scores.iter().map(|(method, score)| (*method, score)).collect::<Vec<_>>(), false)
    }

    fn surely_chosen(scores: &[(Method, Score)]) -> usize {
        choose(&scores.iter().map(|(method, score)| (*method, score)).collect::<Vec<_>>(), true)
    }

    #[test]
    fn only_what_is_right_more_often_takes_the_place_of_the_network_as_it_is() {
        let leave = || (Method::Leave, score("1111000000", 1.0));
        assert_eq!(chosen(&[leave(), (Method::Full, score("1111000000", 0.1))]), 0);
        assert_eq!(chosen(&[leave(), (Method::Full, score("0111000000", 0.1))]), 0);
        assert_eq!(chosen(&[leave(), (Method::Full, score("1111100000", 9.0))]), 1);
        // Two labels more are what noise does, three more are not.
        assert_eq!(surely_chosen(&[leave(), (Method::Full, score("1111110000", 0.1))]), 0);
        assert_eq!(surely_chosen(&[leave(), (Method::Full, score("1111111000", 9.0))]), 1);
        let broken = Score { is_whole: false, ..score("1111111111", 0.0) };
        assert_eq!(chosen(&[leave(), (Method::Full, broken)]), 0);
        // Alone, a method is taken whatever it does.
        assert_eq!(chosen(&[(Method::Full, score("0000000000", 9.0))]), 0);
    }

    #[test]
    fn of_those_that_accuracy_does_not_tell_apart_the_smallest_loss_counts() {
        let leave = (Method::Leave, score("0000000000", 1.0));
        // One label of ten: a difference of 0.1 with an error of 0.1.
        let (more, less) = (score("1111111100", 0.9), score("1111111000", 0.5));
        let (gain, error) = more.gain(&less);
        assert!((gain - 0.1).abs() <= f64::EPSILON && (error - 0.1).abs() <= f64::EPSILON, "{gain} {error}");
        let far = score("1100000000", 0.1);
        let list = [leave, (Method::Head, far), (Method::Full, more), (Method::Tail, less)];
        assert_eq!(chosen(&list), 3);
        // Of equals in everything the first, the smaller change.
        let same = || score("1110000000", 0.5);
        assert_eq!(chosen(&[(Method::Head, same()), (Method::Full, same())]), 0);
    }

    #[test]
    fn errors_are_those_of_shares() {
        let score = score("1111111100", 0.0);
        assert!((score.error() - (0.16_f64 / 10.0).sqrt()).abs() <= f64::EPSILON);
        assert_eq!(score.gain(&score), (0.0, 0.0));
    }
}
