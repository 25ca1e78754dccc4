mod moments;

pub use moments::Moments;

use std::sync::{Mutex, PoisonError};

use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, DType, InplaceOp1, Layout, Result, Tensor, Var, bail};
use faer::Par;

use fbp_linalg::dispatch;
use rayon::prelude::*;

use crate::ops::{par_for, with_values};
use crate::{ModelError, backward};

/// Settings of [`AdamW`].
///
/// | Field | Default | Interval |
/// |---|---|---|
/// | `learning_rate` | 1e-3 | `[0, ∞)` |
/// | `beta1`, `beta2` | 0.9, 0.999 | `[0, 1)` |
/// | `eps` | 1e-8 | `(0, ∞)` |
/// | `weight_decay` | 1e-2 | `[0, ∞)` |
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWParams {
    /// Step size.
    pub learning_rate: f64,
    /// Decay of the average gradient.
    pub beta1: f64,
    /// Decay of the average squared gradient.
    pub beta2: f64,
    /// Added to the root of the average squared gradient.
    pub eps: f64,
    /// Every step multiplies the weights by `1 - learning_rate · weight_decay`.
    pub weight_decay: f64,
}

impl Default for AdamWParams {
    fn default() -> Self {
        Self { learning_rate: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 1e-2 }
    }
}

impl AdamWParams {
    fn check(&self) -> std::result::Result<(), ModelError> {
        let not_negative = 0.0..=f64::MAX;
        let fields = [
            ("learning_rate", self.learning_rate, not_negative.contains(&self.learning_rate), "[0, ∞)"),
            ("beta1", self.beta1, (0.0..1.0).contains(&self.beta1), "[0, 1)"),
            ("beta2", self.beta2, (0.0..1.0).contains(&self.beta2), "[0, 1)"),
            ("eps", self.eps, (f64::MIN_POSITIVE..=f64::MAX).contains(&self.eps), "(0, ∞)"),
            ("weight_decay", self.weight_decay, not_negative.contains(&self.weight_decay), "[0, ∞)"),
        ];
        match fields.into_iter().find(|(_, _, fits, _)| !fits) {
            Some((name, value, _, range)) => Err(ModelError::Parameter { name, value, range }),
            None => Ok(()),
        }
    }
}

/// Adam with decoupled weight decay and bias correction, one pass over memory per variable.
///
/// ```text
/// m ← β₁ m + (1 - β₁) g,   v ← β₂ v + (1 - β₂) g²
/// θ ← θ (1 - η λ) - η · (m / (1 - β₁ᵗ)) / (√(v / (1 - β₂ᵗ)) + ε)
/// ```
///
/// Variables that have no gradient in a step keep their value and their averages.
///
/// # Source
/// Loshchilov & Hutter, *Decoupled Weight Decay Regularization*, ICLR 2019; the same arithmetic as PyTorch's `AdamW`.
#[derive(Debug)]
pub struct AdamW {
    slots: Vec<Slot>,
    params: AdamWParams,
    steps: i32,
}

/// A variable and its running averages.
#[derive(Debug)]
struct Slot {
    var: Var,
    averages: Mutex<Averages>,
}

#[derive(Debug)]
struct Averages {
    first: Vec<f32>,
    second: Vec<f32>,
}

impl AdamW {
    /// Optimiser of the given variables, with averages of zero.
    ///
    /// # Errors
    /// [`ModelError::Parameter`] for a setting outside its range, [`ModelError::InputKind`] for a variable that is not
    /// `f32` on the CPU.
    pub fn new(vars: Vec<Var>, params: AdamWParams) -> std::result::Result<Self, ModelError> {
        params.check()?;
        let slot = |var: Var| {
            if var.dtype() != DType::F32 || !var.device().is_cpu() {
                let found = format!("{:?} on {:?}", var.dtype(), var.device().location());
                return Err(ModelError::InputKind { what: "variable", found });
            }
            let zeros = || vec![0.0; var.elem_count()];
            let averages = Mutex::new(Averages { first: zeros(), second: zeros() });
            Ok(Slot { var, averages })
        };
        Ok(Self { slots: vars.into_iter().map(slot).collect::<std::result::Result<_, _>>()?, params, steps: 0 })
    }

    /// The settings.
    pub fn params(&self) -> &AdamWParams {
        &self.params
    }

    /// Changes the step size, for schedules.
    ///
    /// # Errors
    /// [`ModelError::Parameter`] if it is negative or not finite; it then stays as it was.
    pub fn set_learning_rate(&mut self, learning_rate: f64) -> std::result::Result<(), ModelError> {
        let params = AdamWParams { learning_rate, ..self.params };
        params.check()?;
        self.params = params;
        Ok(())
    }

    /// Computes the gradients of a scalar loss and takes one step.
    ///
    /// # Errors
    /// [`ModelError::Tensor`] if an operation has no gradient.
    pub fn backward_step(&mut self, loss: &Tensor) -> std::result::Result<(), ModelError> {
        self.step(&backward(loss)?)
    }

    /// Takes one step.
    ///
    /// # Errors
    /// [`ModelError::Tensor`] if a gradient does not have the shape of its variable.
    pub fn step(&mut self, grads: &GradStore) -> std::result::Result<(), ModelError> {
        self.steps = self.steps.saturating_add(1);
        for slot in &self.slots {
            if let Some(grad) = grads.get(slot.var.as_tensor()) {
                if grad.dims() != slot.var.dims() {
                    let found = grad.dims().to_vec();
                    let expected = format!("{:?}", slot.var.dims());
                    return Err(ModelError::InputShape { what: "gradient".into(), expected, found });
                }
                with_values(NAME, &grad.contiguous()?, |grad| self.update(slot, grad))?;
            }
        }
        Ok(())
    }

    fn update(&self, slot: &Slot, grad: &[f32]) -> Result<()> {
        slot.var.inplace_op1(&Update { slot, grad, params: &self.params, steps: self.steps })
    }

    /// Puts the gradients of all variables into a list, one variable after the other, and behind them for each variable 1 if
    /// it has a gradient, or 0: sums of such lists are what [`step_listed`](Self::step_listed) takes.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub fn list_gradients(&self, grads: &GradStore, list: &mut Vec<f32>) -> std::result::Result<(), ModelError> {
        list.clear();
        for slot in &self.slots {
            let start = list.len();
            if let Some(grad) = grads.get(slot.var.as_tensor()) {
                with_values(NAME, &grad.contiguous()?, |grad| {
                    list.extend_from_slice(grad);
                    Ok(())
                })?;
            }
            list.resize(start + slot.var.elem_count(), 0.0);
        }
        let has = |slot: &Slot| f32::from(u8::from(grads.get(slot.var.as_tensor()).is_some()));
        list.extend(self.slots.iter().map(has));
        Ok(())
    }

    /// Length of such a list.
    pub fn list_len(&self) -> usize {
        self.slots.iter().map(|slot| slot.var.elem_count() + 1).sum()
    }

    /// Takes one step with gradients from a list.
    ///
    /// # Errors
    /// [`ModelError::InputShape`] for a list of another length.
    pub fn step_listed(&mut self, list: &[f32]) -> std::result::Result<(), ModelError> {
        if list.len() != self.list_len() {
            let (what, expected) = ("list of gradients".into(), format!("{} numbers", self.list_len()));
            return Err(ModelError::InputShape { what, expected, found: vec![list.len()] });
        }
        self.steps = self.steps.saturating_add(1);
        let (mut rest, has) = list.split_at(list.len() - self.slots.len());
        for (slot, has) in self.slots.iter().zip(has) {
            let grad;
            (grad, rest) = rest.split_at(slot.var.elem_count());
            if *has > 0.0 {
                self.update(slot, grad)?;
            }
        }
        Ok(())
    }
}

const NAME: &str = "adamw";

/// Weights that a thread takes at a time.
const RUN: usize = 1 << 14;

struct Update<'a> {
    slot: &'a Slot,
    grad: &'a [f32],
    params: &'a AdamWParams,
    steps: i32,
}

impl InplaceOp1 for Update<'_> {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let (CpuStorage::F32(weights), Some((start, end))) = (storage, layout.contiguous_offsets()) else {
            bail!("{NAME}: a variable is not a contiguous f32 tensor")
        };
        let mut averages = self.slot.averages.lock().unwrap_or_else(PoisonError::into_inner);
        self.apply(&mut weights[start..end], self.grad, &mut averages);
        Ok(())
    }
}

impl Update<'_> {
    fn apply(&self, weights: &mut [f32], grad: &[f32], averages: &mut Averages) {
        let Averages { first, second } = averages;
        if par_for(weights.len()) == Par::Seq {
            return self.apply_run(weights, grad, [first, second]);
        }
        let moments = first.par_chunks_mut(RUN).zip(second.par_chunks_mut(RUN));
        let runs = weights.par_chunks_mut(RUN).zip(grad.par_chunks(RUN)).zip(moments);
        runs.for_each(|((weights, grad), (first, second))| self.apply_run(weights, grad, [first, second]));
    }

    fn apply_run(&self, weights: &mut [f32], grad: &[f32], [first, second]: [&mut [f32]; 2]) {
        let p = self.params;
        let keep = (1.0 - p.learning_rate * p.weight_decay) as f32;
        let step = (p.learning_rate / (1.0 - p.beta1.powi(self.steps))) as f32;
        let root = (1.0 / (1.0 - p.beta2.powi(self.steps)).sqrt()) as f32;
        let (beta1, beta2, eps) = (p.beta1 as f32, p.beta2 as f32, p.eps as f32);
        let (rest1, rest2) = ((1.0 - p.beta1) as f32, (1.0 - p.beta2) as f32);
        dispatch(
            #[inline(always)]
            || {
                let moments = first.iter_mut().zip(second.iter_mut());
                for ((weight, &g), (m, v)) in weights.iter_mut().zip(grad).zip(moments) {
                    *m = beta1 * *m + rest1 * g;
                    *v = beta2 * *v + rest2 * (g * g);
                    *weight = *weight * keep - step * *m / (v.sqrt() * root + eps);
                }
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use candle_nn::optim::{Optimizer, ParamsAdamW};

    use super::*;
    use crate::ops::testing::{assert_close, random, random_var};

    #[test]
    fn agrees_with_candle_to_rounding() {
        let params = AdamWParams { learning_rate: 0.02, weight_decay: 0.1, ..AdamWParams::default() };
        let theirs = ParamsAdamW { lr: 0.02, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1 };
        let (a, b) = (random_var(&[7, 5], 1), random_var(&[7, 5], 1));
        let unused = random_var(&[3], 2);
        let mut ours = AdamW::new(vec![a.clone(), unused.clone()], params).unwrap();
        let mut candle = candle_nn::AdamW::new(vec![b.clone()], theirs).unwrap();
        for step in 0..50 {
            let weights = random(&[7, 5], 100 + step);
            let loss = |x: &Var| {
                let squares = (x.as_tensor() - &weights).unwrap().sqr().unwrap();
                (squares * &weights).unwrap().sum_all().unwrap()
            };
            ours.backward_step(&loss(&a)).unwrap();
            candle.backward_step(&loss(&b)).unwrap();
        }
        assert_close("weights after 50 steps", &a, &b, 50.0 * 4.0 * f64::from(f32::EPSILON));
        assert_close("a variable without gradient", &unused, &random(&[3], 2), 0.0);
    }

    #[test]
    fn settings_are_checked() {
        let with = |change: fn(&mut AdamWParams)| {
            let mut params = AdamWParams::default();
            change(&mut params);
            AdamW::new(vec![random_var(&[1], 1)], params)
        };
        assert!(with(|_| ()).is_ok());
        assert!(with(|p| p.learning_rate = -1e-9).is_err());
        assert!(with(|p| p.learning_rate = f64::NAN).is_err());
        assert!(with(|p| p.beta1 = 1.0).is_err());
        assert!(with(|p| p.beta2 = -0.1).is_err());
        assert!(with(|p| p.eps = 0.0).is_err());
        assert!(with(|p| p.weight_decay = f64::INFINITY).is_err());
        let mut optimiser = with(|_| ()).unwrap();
        assert!(optimiser.set_learning_rate(f64::INFINITY).is_err());
        assert_eq!(optimiser.params().learning_rate, 1e-3);
    }
}
