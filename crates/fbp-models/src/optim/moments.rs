//! What an optimiser has gathered, so that a training can go on later.

use std::sync::PoisonError;

use super::{AdamW, Averages};
use crate::ModelError;

/// What an [`AdamW`] has gathered in its steps.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    /// Number of steps.
    pub steps: u32,
    /// Average gradient and average squared gradient of every variable, in the order of the variables.
    pub averages: Vec<[Vec<f32>; 2]>,
}

impl AdamW {
    /// A copy of what it has gathered so far.
    pub fn moments(&self) -> Moments {
        let of = |averages: &Averages| [averages.first.clone(), averages.second.clone()];
        let slots = self.slots.iter();
        let averages = slots.map(|slot| of(&slot.averages.lock().unwrap_or_else(PoisonError::into_inner))).collect();
        Moments { steps: self.steps.unsigned_abs(), averages }
    }

    /// Goes on from what another optimiser of the same variables has gathered.
    ///
    /// # Errors
    /// [`ModelError::InputShape`] if the variables have other sizes; everything then stays as it was.
    pub fn set_moments(&mut self, moments: Moments) -> Result<(), ModelError> {
        let sizes = |[first, second]: &[Vec<f32>; 2]| [first.len(), second.len()];
        let found: Vec<_> = moments.averages.iter().map(sizes).collect();
        let expected: Vec<_> = self.slots.iter().map(|slot| [slot.var.elem_count(); 2]).collect();
        if found != expected {
            let (what, found) = ("moments of an optimiser".to_owned(), found.into_iter().flatten().collect());
            return Err(ModelError::InputShape { what, expected: format!("{expected:?}"), found });
        }
        self.steps = i32::try_from(moments.steps).unwrap_or(i32::MAX);
        for (slot, [first, second]) in self.slots.iter().zip(moments.averages) {
            *slot.averages.lock().unwrap_or_else(PoisonError::into_inner) = Averages { first, second };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Tensor;

    use super::*;
    use crate::AdamWParams;
    use crate::ops::testing::{random, random_var};

    #[test]
    fn steps_go_on_with_the_same_bits() {
        let loss = |var: &candle_core::Var, seed: u64| -> Tensor {
            (var.as_tensor() * random(&[6], seed)).unwrap().sqr().unwrap().sum_all().unwrap()
        };
        let (whole, cut) = (random_var(&[6], 1), random_var(&[6], 1));
        let mut one = AdamW::new(vec![whole.clone()], AdamWParams::default()).unwrap();
        let mut first = AdamW::new(vec![cut.clone()], AdamWParams::default()).unwrap();
        for step in 0..3 {
            one.backward_step(&loss(&whole, step)).unwrap();
            first.backward_step(&loss(&cut, step)).unwrap();
        }
        let moments = first.moments();
        assert_eq!((moments.steps, moments.averages.len()), (3, 1));
        let mut second = AdamW::new(vec![cut.clone()], AdamWParams::default()).unwrap();
        second.set_moments(moments.clone()).unwrap();
        for step in 3..6 {
            one.backward_step(&loss(&whole, step)).unwrap();
            second.backward_step(&loss(&cut, step)).unwrap();
        }
        let bits =
            |var: &candle_core::Var| var.to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect::<Vec<_>>();
        assert_eq!(bits(&whole), bits(&cut));
        assert_eq!(one.moments(), second.moments());
        let short = Moments { averages: vec![[vec![0.0; 5], vec![0.0; 6]]], ..moments };
        assert!(second.set_moments(short).is_err());
        assert_eq!(one.moments(), second.moments());
    }
}
