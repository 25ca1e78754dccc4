use std::sync::{Arc, Mutex, PoisonError};

use bytemuck::cast_slice;
use fbp_linalg::LinalgError;
use fbp_linalg::conv2d::{Conv2d, FixedConv2d};

/// The parameters of a convolution and of the normalisation behind it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parameters<'a> {
    pub(super) weight: &'a [f32],
    pub(super) bias: Option<&'a [f32]>,
    /// Scale and shift of every output channel.
    pub(super) affine: Option<[&'a [f32]; 2]>,
}

/// A convolution with the normalisation folded into its weights, ready to run.
#[derive(Debug)]
pub(super) struct Folded {
    pub(super) conv: FixedConv2d<f32>,
    pub(super) bias: Vec<f32>,
    /// What was folded: weight, scale, shift and bias as far as there are any. The weight is left out if it is that of `conv`.
    origin: [Option<Vec<f32>>; 4],
}

impl Folded {
    fn new(conv: &Conv2d, parameters: Parameters<'_>) -> Result<Self, LinalgError> {
        let Parameters { weight, bias, affine } = parameters;
        let channels = conv.geometry().out_shape().channels;
        let owned = |values: &[f32]| Some(values.to_vec());
        let [scale, shift] = affine.map_or([None; 2], |affine| affine.map(Some));
        let origin =
            [affine.and_then(|_| owned(weight)), scale.and_then(owned), shift.and_then(owned), bias.and_then(owned)];
        let mut bias = bias.map_or_else(|| vec![0.0; channels], <[f32]>::to_vec);
        let mut weight = weight.to_vec();
        if let Some([scale, shift]) = affine {
            let kernel_len = weight.len() / channels;
            let kernels = weight.chunks_exact_mut(kernel_len.max(1));
            for (((kernel, bias), scale), shift) in kernels.zip(&mut bias).zip(scale).zip(shift) {
                kernel.iter_mut().for_each(|w| *w *= scale);
                *bias = scale * *bias + shift;
            }
        }
        Ok(Self { conv: FixedConv2d::new(conv.clone(), weight)?, bias, origin })
    }

    /// Whether it was made of the same bits.
    fn is_of(&self, parameters: Parameters<'_>) -> bool {
        let Parameters { weight, bias, affine } = parameters;
        let [own, scale, shift, own_bias] = self.origin.each_ref().map(Option::as_deref);
        let same = |a: Option<&[f32]>, b: Option<&[f32]>| match (a, b) {
            (Some(a), Some(b)) => cast_slice::<f32, u32>(a) == cast_slice::<f32, u32>(b),
            (None, None) => true,
            _ => false,
        };
        let [new_scale, new_shift] = affine.map_or([None; 2], |affine| affine.map(Some));
        same(scale, new_scale)
            && same(shift, new_shift)
            && same(own_bias, bias)
            && same(own.or(Some(self.conv.weight())), Some(weight))
    }
}

/// The convolution that a layer ran last with constant parameters.
///
/// Parameters are compared bit by bit at every call, as anybody may change them at any time: they are read once more, which costs
/// little beside folding them and bringing them into the order of the kernel.
#[derive(Debug, Default)]
pub(super) struct LastFolded(Mutex<Option<Arc<Folded>>>);

impl LastFolded {
    /// The convolution with these parameters.
    ///
    /// # Errors
    /// [`LinalgError::Length`] for a weight of another length.
    pub(super) fn get(&self, conv: &Conv2d, parameters: Parameters<'_>) -> Result<Arc<Folded>, LinalgError> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(last) = last.filter(|last| last.is_of(parameters)) {
            return Ok(last);
        }
        // Before there is another one, so that both need not have room.
        self.forget();
        let folded = Arc::new(Folded::new(conv, parameters)?);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(folded.clone());
        Ok(folded)
    }

    /// Lets go of it: training would leave it useless, and it takes several times the memory of the parameters.
    pub(super) fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

#[cfg(test)]
mod tests {
    use fbp_linalg::FeatureShape;
    use fbp_linalg::conv2d::Conv2dParams;

    use super::*;

    #[test]
    fn parameters_are_folded_again_when_a_bit_of_them_has_changed() {
        let params = Conv2dParams::new(FeatureShape::image(2, 4, 4), 3, [3, 3]);
        let conv = Conv2d::for_networks(params.check().unwrap());
        let values = |len: usize, at: f32| (0..len).map(|i| i as f32 - at).collect::<Vec<_>>();
        let (weight, scale) = (values(54, 20.0), values(3, -1.0));
        let (shift, bias) = (values(3, 0.5), values(3, 2.0));
        let last = LastFolded::default();
        let of = |weight, scale, shift, bias| Parameters { weight, bias, affine: Some([scale, shift]) };
        let all = of(&weight, &scale, &shift, Some(&bias[..]));
        let first = last.get(&conv, all).unwrap();
        assert!(Arc::ptr_eq(&first, &last.get(&conv, all).unwrap()));
        assert_eq!(first.conv.weight()[18], 2.0 * weight[18]);
        assert_eq!(first.bias, [-2.5, -1.5, 1.5]);
        let change = |values: &[f32]| {
            let mut values = values.to_vec();
            if let Some(value) = values.last_mut() {
                *value = f32::from_bits(value.to_bits() + 1);
            }
            values
        };
        let (new_weight, new_scale) = (change(&weight), change(&scale));
        let (new_shift, new_bias) = (change(&shift), change(&bias));
        let others = [
            of(&new_weight, &scale, &shift, Some(&bias)),
            of(&weight, &new_scale, &shift, Some(&bias)),
            of(&weight, &scale, &new_shift, Some(&bias)),
            of(&weight, &scale, &shift, Some(&new_bias)),
            of(&weight, &scale, &shift, None),
            Parameters { affine: None, ..all },
            Parameters { affine: None, bias: None, ..all },
        ];
        for other in others {
            let before = last.get(&conv, all).unwrap();
            let after = last.get(&conv, other).unwrap();
            assert!(!Arc::ptr_eq(&before, &after), "{other:?}");
            assert!(Arc::ptr_eq(&after, &last.get(&conv, other).unwrap()), "{other:?}");
        }
        let before = last.get(&conv, all).unwrap();
        last.forget();
        assert!(!Arc::ptr_eq(&before, &last.get(&conv, all).unwrap()));
        assert!(last.get(&conv, of(&weight[1..], &scale, &shift, None)).is_err());
    }
}
