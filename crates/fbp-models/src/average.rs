use candle_core::{CpuStorage, InplaceOp2, Layout, Result, Var, bail};

use crate::{ModelError, Network};

/// Running average of all weights and statistics of a network: `a ← d · a + (1 - d) · w` after every step.
///
/// It begins with the weights at its creation.
///
/// # Source
/// Polyak & Juditsky, "Acceleration of stochastic approximation by averaging", SIAM J. Control Optim. 30 (1992), with the
/// exponential weights that are common practice.
#[derive(Debug)]
pub struct WeightAverage {
    average: Network,
    /// The averaged tensor and the one that is trained.
    pairs: Vec<(Var, Var)>,
    decay: f32,
}

impl WeightAverage {
    /// Average of the weights of `network`, from now on. It follows the variables that the network has now.
    ///
    /// # Errors
    /// [`ModelError::Parameter`] unless `0 < decay < 1`, [`ModelError::Tensor`] if a weight cannot be copied.
    pub fn new(network: &Network, decay: f64) -> std::result::Result<Self, ModelError> {
        if !(decay > 0.0 && decay < 1.0) {
            return Err(ModelError::Parameter { name: "decay", value: decay, range: "(0, 1)" });
        }
        let average = network.duplicate()?;
        // Both are built from one description, so their tensors come in the same order.
        let pairs = average.state().zip(network.state()).map(|((_, own), (_, other))| (own, other)).collect();
        Ok(Self { average, pairs, decay: decay as f32 })
    }

    /// Takes the present weights into the average.
    ///
    /// # Errors
    /// [`ModelError::Tensor`] if a tensor is not a contiguous `f32` one on the CPU.
    pub fn update(&self) -> std::result::Result<(), ModelError> {
        for (own, other) in &self.pairs {
            own.inplace_op2(other, &MoveTowards { share: 1.0 - self.decay })?;
        }
        Ok(())
    }

    /// The network with the averaged weights.
    pub fn network(&self) -> &Network {
        &self.average
    }

    /// Gives the network with the averaged weights away.
    pub fn into_network(self) -> Network {
        self.average
    }
}

/// `a ← a + share · (w - a)`.
struct MoveTowards {
    share: f32,
}

impl InplaceOp2 for MoveTowards {
    fn name(&self) -> &'static str {
        "weight average"
    }

    fn cpu_fwd(&self, own: &mut CpuStorage, own_layout: &Layout, other: &CpuStorage, layout: &Layout) -> Result<()> {
        match (own, own_layout.contiguous_offsets(), other, layout.contiguous_offsets()) {
            (CpuStorage::F32(own), Some((a, b)), CpuStorage::F32(other), Some((c, d))) if b - a == d - c => {
                for (own, other) in own[a..b].iter_mut().zip(&other[c..d]) {
                    *own += self.share * (other - *own);
                }
                Ok(())
            }
            _ => bail!("{}: expected contiguous f32 tensors of one size", self.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zoo;

    fn first_weight(network: &Network) -> f32 {
        network.vars_of(0..1).unwrap()[0].flatten_all().unwrap().to_vec1::<f32>().unwrap()[0]
    }

    #[test]
    fn the_average_follows_the_weights_with_its_decay() {
        let network = Network::new(&zoo::spec("simple-cnn-mnist-v1").unwrap(), 1).unwrap();
        let before = first_weight(&network);
        let average = WeightAverage::new(&network, 0.75).unwrap();
        for var in network.vars_of(0..2).unwrap() {
            var.set(&(var.as_tensor() + 8.0).unwrap()).unwrap();
        }
        average.update().unwrap();
        assert!((first_weight(average.network()) - (before + 2.0)).abs() < 1e-5);
        average.update().unwrap();
        assert!((first_weight(average.network()) - (before + 3.5)).abs() < 1e-5);
        assert!((first_weight(&network) - (before + 8.0)).abs() < 1e-5);
        for decay in [0.0, 1.0, -0.5, f64::NAN] {
            assert!(WeightAverage::new(&network, decay).is_err(), "{decay}");
        }
    }
}
