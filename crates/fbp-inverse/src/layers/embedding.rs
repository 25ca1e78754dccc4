use faer::{MatMut, MatRef, Par};
use fbp_linalg::{LinalgError, Real, expect_finite};

use super::columns::{column, column_mut, squared_norms};
use crate::{InverseError, expect_batch};

/// Name of the output embedding in errors.
const LAYER: &str = "output embedding";

/// Samples that one task handles.
const BLOCK: usize = 2048;

/// How a label becomes a target for the logits: the top of the reverse chain.
///
/// # Source
/// arXiv:2506.07188 (`Margin(0)`, `MaxAssign`, `OneHot`); the closed form of the projection is an own derivation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum OutputEmbedding {
    /// The nearest logits at which the label wins by this margin, at least 0:
    ///
    /// ```text
    /// argmin_v |v - z|²   subject to   v_y >= v_j + m   for every j != y
    /// ```
    ///
    /// The answer is `v_y = t`, `v_j = min(z_j, t - m)` with `t = max_S mean(z_y, z_j + m for j in S)` over all sets
    /// `S` of other classes. The margin is rounded to the scalar of the logits; the result keeps it exactly.
    Margin(f64),
    /// The label's logit becomes the largest logit; then everything is clamped to `[-10, 10]`.
    MaxAssign,
    /// 1 for the label, 0 for the others.
    OneHot,
}

/// What an embedding did.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct EmbeddingReport {
    /// Number of samples.
    pub samples: usize,
    /// Samples whose logits are right already: their target is the observed logits bit for bit.
    pub satisfied: usize,
    /// `Σ |target - logits|²`.
    pub distance_sq: f64,
    /// `Σ |logits|²`.
    pub observed_sq: f64,
}

/// The views of one embedding.
#[derive(Debug)]
pub struct EmbeddingPass<'a, T> {
    /// Observed logits, `C × N`.
    pub logits: MatRef<'a, T>,
    /// The class of each sample, below `C`.
    pub labels: &'a [usize],
    /// Wanted logits, `C × N`: a point target; write-only.
    pub target: MatMut<'a, T>,
    /// Per sample whether the target is the observed logits; write-only.
    pub satisfied: &'a mut [bool],
}

impl OutputEmbedding {
    /// Checks the margin.
    ///
    /// # Errors
    /// [`InverseError::Parameter`] if it is negative, NaN or infinite.
    pub fn check(&self) -> Result<(), InverseError> {
        match *self {
            Self::Margin(margin) if !(0.0..f64::INFINITY).contains(&margin) => {
                Err(InverseError::Parameter { name: "margin", value: margin, range: "[0, ∞)" })
            }
            _ => Ok(()),
        }
    }

    /// Writes the target of every sample.
    ///
    /// # Errors
    /// [`InverseError::Parameter`] for a bad margin, [`InverseError::Label`] for a label that is not a class,
    /// [`InverseError::Shape`] and [`InverseError::Solve`] if views do not fit or a logit is not finite.
    pub fn embed<T: Real>(&self, pass: EmbeddingPass<'_, T>, par: Par) -> Result<EmbeddingReport, InverseError> {
        self.check()?;
        let (classes, samples) = pass.logits.shape();
        expect_batch(LAYER, "logits", pass.logits, (classes, samples))?;
        expect_batch(LAYER, "target", pass.target.as_ref(), (classes, samples))?;
        for (what, found) in [("labels", pass.labels.len()), ("satisfied", pass.satisfied.len())] {
            if found != samples {
                return Err(InverseError::in_layer(LAYER)(LinalgError::Length { what, expected: samples, found }));
            }
        }
        if let Some((sample, &label)) = pass.labels.iter().enumerate().find(|&(_, &label)| label >= classes) {
            return Err(InverseError::Label { sample, label, classes });
        }
        expect_finite("logits", pass.logits).map_err(InverseError::in_layer(LAYER))?;
        Ok(self.embed_blocks(pass, par))
    }

    fn embed_blocks<T: Real>(&self, pass: EmbeddingPass<'_, T>, par: Par) -> EmbeddingReport {
        let (samples, middle) = (pass.labels.len(), pass.labels.len() / 2);
        if samples <= BLOCK {
            return self.embed_block(pass);
        }
        let (target, target_right) = pass.target.split_at_col_mut(middle);
        let (satisfied, satisfied_right) = pass.satisfied.split_at_mut(middle);
        let (labels, labels_right) = pass.labels.split_at(middle);
        let left = EmbeddingPass { logits: pass.logits.subcols(0, middle), labels, target, satisfied };
        let right = EmbeddingPass {
            logits: pass.logits.subcols(middle, samples - middle),
            labels: labels_right,
            target: target_right,
            satisfied: satisfied_right,
        };
        let (left, right) = match par {
            Par::Seq => (self.embed_blocks(left, par), self.embed_blocks(right, par)),
            Par::Rayon(_) => rayon::join(|| self.embed_blocks(left, par), || self.embed_blocks(right, par)),
        };
        left.merge(right)
    }

    fn embed_block<T: Real>(&self, mut pass: EmbeddingPass<'_, T>) -> EmbeddingReport {
        let mut report = EmbeddingReport { samples: pass.labels.len(), ..EmbeddingReport::default() };
        for (sample, &label) in pass.labels.iter().enumerate() {
            let logits = column(pass.logits, sample);
            let target = column_mut(&mut pass.target, sample);
            match *self {
                Self::Margin(margin) => project_on_margin(logits, label, T::from_f64(margin), target),
                Self::MaxAssign => assign_largest(logits, label, target),
                Self::OneHot => {
                    target.fill(T::ZERO);
                    target[label] = T::ONE;
                }
            }
            pass.satisfied[sample] = logits == target;
            report.satisfied += usize::from(logits == target);
            let (distance, observed) = squared_norms(target, logits);
            report.distance_sq += distance;
            report.observed_sq += observed;
        }
        report
    }
}

impl EmbeddingReport {
    /// Combines the reports of two sets of samples.
    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        Self {
            samples: self.samples + other.samples,
            satisfied: self.satisfied + other.satisfied,
            distance_sq: self.distance_sq + other.distance_sq,
            observed_sq: self.observed_sq + other.observed_sq,
        }
    }
}

/// Projects the logits on `v_y >= v_j + margin`.
fn project_on_margin<T: Real>(logits: &[T], label: usize, margin: T, target: &mut [T]) {
    target.copy_from_slice(logits);
    let (own, margin) = (logits[label].to_f64(), margin.to_f64());
    let others = || logits.iter().enumerate().filter(|&(class, _)| class != label).map(|(_, &v)| v.to_f64());
    if others().all(|v| own - v >= margin) {
        return;
    }
    // t grows to max_S mean(v_y, v_j + m), because only terms below the mean leave the set.
    let (mut level, mut active) = (own, usize::MAX);
    loop {
        let rivals = others().filter(|v| v + margin > level);
        let (sum, count) = rivals.fold((own, 0_usize), |(sum, count), v| (sum + (v + margin), count + 1));
        if count == 0 || count >= active {
            break;
        }
        level = sum / (count + 1) as f64;
        active = count;
    }
    let top = T::from_f64(level);
    let cap = below_by(top, margin);
    for value in target.iter_mut() {
        *value = if *value > cap { cap } else { *value };
    }
    target[label] = top;
}

/// The largest scalar `c` near `top - margin` for which `top - c >= margin` after rounding to `f64`.
fn below_by<T: Real>(top: T, margin: f64) -> T {
    let mut cap = T::from_f64(top.to_f64() - margin);
    let step = T::EPSILON * top.abs().max(cap.abs());
    // One step is at least the spacing at `cap`, so the loop ends after the first or second.
    for _ in 0..4 {
        cap = if top.to_f64() - cap.to_f64() < margin { cap - step } else { cap };
    }
    cap
}

/// Gives the label the largest logit, then clamps.
fn assign_largest<T: Real>(logits: &[T], label: usize, target: &mut [T]) {
    let largest = logits.iter().fold(logits[label], |largest, &v| if v > largest { v } else { largest });
    target.copy_from_slice(logits);
    target[label] = largest;
    let bound = T::from_f64(10.0);
    target.iter_mut().for_each(|value| *value = value.clip(-bound, bound));
}
