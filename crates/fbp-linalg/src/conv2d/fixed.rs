use faer::Par;
use faer::dyn_stack::{MemStack, StackReq};

use super::kept::{Kept, Weights};
use super::kernel::expect_len;
use super::{Conv2d, ConvAdjoint, ConvForward, Epilogue};
use crate::{LinalgError, Real};

/// A convolution whose weights stay as they are: they are brought into the order in which the kernel reads them when a direction is
/// first run, and not at every call as by [`Conv2d`].
///
/// That saves most for small batches of layers with many channels. It costs memory: a copy of the weights for each direction that
/// has been run, where a kernel of [`Conv2d::for_networks`] takes fewer products four copies (with channels rounded up to a multiple
/// of 32), and another one with the taps of every pixel for batches of images so small that vectors run along the samples. A clone
/// keeps nothing yet. Results are those of [`Conv2d`] to the bit.
///
/// Immutable for those who use it, and shared by threads: several that run it first on one thread each wait for the one that packs,
/// calls on several threads may pack at the same time, and one result is kept. After that nothing is allocated.
///
/// ```
/// use faer::{Par, dyn_stack::{MemBuffer, MemStack}};
/// use fbp_linalg::{FeatureShape, conv2d::{Conv2d, Conv2dParams, FixedConv2d}};
///
/// let geometry = Conv2dParams::new(FeatureShape::image(1, 2, 3), 1, [1, 2]).check()?;
/// let conv = FixedConv2d::new(Conv2d::new(geometry), vec![-1.0_f32, 1.0])?;
/// let mut output = [0.0; 4];
/// let mut memory = MemBuffer::new(conv.forward_scratch(1, Par::Seq));
/// conv.forward(&[1., 2., 4., 3., 5., 9.], None, &mut output, Par::Seq, MemStack::new(&mut memory))?;
/// assert_eq!(output, [1., 2., 2., 4.]);
/// # Ok::<(), fbp_linalg::LinalgError>(())
/// ```
#[derive(Clone, Debug)]
pub struct FixedConv2d<T> {
    conv: Conv2d,
    weight: Vec<T>,
    forward: Kept<T>,
    adjoint: Kept<T>,
}

impl<T: Real> FixedConv2d<T> {
    /// A kernel with its weights, `[out_channels, C / groups, kernel height, kernel width]`.
    ///
    /// # Errors
    /// [`LinalgError::Length`] if there are more or fewer of them.
    pub fn new(conv: Conv2d, weight: Vec<T>) -> Result<Self, LinalgError> {
        expect_len("conv2d: weight", weight.len(), conv.geometry().weight_len())?;
        Ok(Self { conv, weight, forward: Kept::default(), adjoint: Kept::default() })
    }

    /// The kernel.
    pub fn conv(&self) -> &Conv2d {
        &self.conv
    }

    /// The weights, as they were given.
    pub fn weight(&self) -> &[T] {
        &self.weight
    }

    /// Scratch memory of [`forward`](Self::forward) for up to `batch` samples.
    pub fn forward_scratch(&self, batch: usize, par: Par) -> StackReq {
        self.conv.forward_scratch_without_weights::<T>(batch, par)
    }

    /// [`Conv2d::forward`] with these weights.
    ///
    /// # Errors
    /// [`LinalgError::Length`] if a slice does not have the documented shape.
    ///
    /// # Panics
    /// If `stack` holds less than [`forward_scratch`](Self::forward_scratch).
    pub fn forward(
        &self,
        input: &[T],
        bias: Option<&[T]>,
        output: &mut [T],
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), LinalgError> {
        let args = ConvForward { input, weight: &self.weight, bias, output };
        self.conv.run_forward(args, Some(&self.forward), None, par, stack)
    }

    /// [`Conv2d::forward_to_vec`] with these weights.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), also of an addend that is not as long as the output.
    ///
    /// # Panics
    /// As [`forward`](Self::forward).
    pub fn forward_to_vec(
        &self,
        input: &[T],
        bias: Option<&[T]>,
        epilogue: Option<Epilogue<'_, T>>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<Vec<T>, LinalgError> {
        let weight = Weights { values: &self.weight, kept: Some(&self.forward) };
        self.conv.run_forward_to_vec((input, weight), bias, epilogue, par, stack)
    }

    /// Scratch memory of [`adjoint`](Self::adjoint) for up to `batch` samples.
    pub fn adjoint_scratch(&self, batch: usize, par: Par) -> StackReq {
        self.conv.adjoint_scratch_without_weights::<T>(batch, par)
    }

    /// [`Conv2d::adjoint`] with these weights.
    ///
    /// # Errors
    /// [`LinalgError::Length`] if a slice does not have the documented shape.
    ///
    /// # Panics
    /// If `stack` holds less than [`adjoint_scratch`](Self::adjoint_scratch).
    pub fn adjoint(
        &self,
        cotangent: &[T],
        input_grad: &mut [T],
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), LinalgError> {
        let args = ConvAdjoint { cotangent, weight: &self.weight, input_grad };
        self.conv.run_adjoint(args, Some(&self.adjoint), par, stack)
    }
}

#[cfg(test)]
mod tests {
    use faer::dyn_stack::MemBuffer;

    use super::*;
    use crate::FeatureShape;
    use crate::conv2d::tests::Calls;
    use crate::conv2d::{Conv2dGeometry, Conv2dParams};
    use crate::testkit::{normal_vec, rng};

    /// Enough channels for fewer products, strides and groups, and images so small that vectors run along samples.
    fn geometries() -> Vec<Conv2dGeometry> {
        let params = |channels, size, out, kernel| {
            Conv2dParams::new(FeatureShape::image(channels, size, size), out, [kernel, kernel])
        };
        let all = [
            params(64, 8, 80, 3).padding([1, 1]),
            params(6, 9, 8, 3).stride([2, 2]).padding([1, 1]).groups(2),
            params(5, 4, 7, 3).padding([1, 1]),
            params(16, 6, 8, 1),
        ];
        all.iter().map(|params| params.check().unwrap()).collect()
    }

    fn agrees<T: Real>(conv: Conv2d) {
        let (g, mut random) = (*conv.geometry(), rng(3));
        let weight: Vec<T> = normal_vec(g.weight_len(), &mut random);
        let bias: Vec<T> = normal_vec(g.out_shape().channels, &mut random);
        let fixed = FixedConv2d::new(conv.clone(), weight.clone()).unwrap();
        for par in [Par::Seq, Par::rayon(2)] {
            // Another number of samples may ask for another order of the weights.
            for batch in [0, 1, 5, 40, 3] {
                let (x, y) =
                    (normal_vec(batch * g.in_len(), &mut random), normal_vec(batch * g.out_len(), &mut random));
                let plain = Calls::<T>::of(conv.clone(), par);
                let dirt = T::from_f64(f64::NAN);
                let mut memory =
                    MemBuffer::new(fixed.forward_scratch(batch, par).or(fixed.adjoint_scratch(batch, par)));
                let stack = MemStack::new(&mut memory);
                let mut found = vec![dirt; batch * g.out_len()];
                fixed.forward(&x, Some(&bias), &mut found, par, stack).unwrap();
                let expected = plain.forward(&x, &weight, Some(&bias));
                assert_eq!(found, expected, "{g:?} {batch}");
                assert_eq!(fixed.forward_to_vec(&x, Some(&bias), None, par, stack).unwrap(), expected);
                let mut found = vec![dirt; batch * g.in_len()];
                fixed.adjoint(&y, &mut found, par, stack).unwrap();
                assert_eq!(found, plain.adjoint(&y, &weight), "{g:?} {batch}");
            }
        }
    }

    #[test]
    fn kept_weights_give_the_same_bits() {
        for geometry in geometries() {
            agrees::<f32>(Conv2d::for_networks(geometry));
            agrees::<f32>(Conv2d::new(geometry));
            agrees::<f64>(Conv2d::new(geometry));
        }
    }

    #[test]
    fn threads_share_one_order_of_the_weights() {
        let conv = Conv2d::for_networks(geometries()[0]);
        let weight: Vec<f32> = normal_vec(conv.geometry().weight_len(), &mut rng(4));
        let x = normal_vec(conv.geometry().in_len(), &mut rng(5));
        let expected = Calls::<f32>::of(conv.clone(), Par::Seq).forward(&x, &weight, None);
        let fixed = FixedConv2d::new(conv, weight).unwrap();
        std::thread::scope(|scope| {
            for par in [Par::Seq, Par::rayon(2), Par::Seq, Par::rayon(2)] {
                let (fixed, x, expected) = (&fixed, &x, &expected);
                scope.spawn(move || {
                    let mut memory = MemBuffer::new(fixed.forward_scratch(1, par));
                    let found = fixed.forward_to_vec(x, None, None, par, MemStack::new(&mut memory)).unwrap();
                    assert_eq!(&found, expected);
                });
            }
        });
    }

    #[test]
    fn a_copy_keeps_weights_of_its_own_and_lengths_are_checked() {
        let conv = Conv2d::for_networks(geometries()[0]);
        let weight: Vec<f32> = normal_vec(conv.geometry().weight_len(), &mut rng(4));
        assert!(FixedConv2d::new(conv.clone(), weight[1..].to_vec()).is_err());
        let fixed = FixedConv2d::new(conv, weight).unwrap();
        let mut memory = MemBuffer::new(fixed.forward_scratch(2, Par::Seq));
        let x = normal_vec(2 * fixed.conv().geometry().in_len(), &mut rng(5));
        let mut run = |conv: &FixedConv2d<f32>| {
            conv.forward_to_vec(&x, None, None, Par::Seq, MemStack::new(&mut memory)).unwrap()
        };
        let first = run(&fixed);
        let copy = fixed.clone();
        assert_eq!(run(&copy), first);
        assert!(format!("{copy:?}").contains("FixedConv2d"));
        let (mut stack, mut output) = (MemBuffer::new(fixed.forward_scratch(2, Par::Seq)), vec![0.0; 3]);
        assert!(fixed.forward(&x, None, &mut output, Par::Seq, MemStack::new(&mut stack)).is_err());
    }
}
