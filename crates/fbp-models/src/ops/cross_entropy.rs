use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use super::softmax::softmax_row;
use super::{values, with_values};
use crate::ModelError;

/// Mean over the batch of `ln Σ exp(z) - z_label`, a scalar, with the gradient `(softmax(z) - onehot(label)) / N`.
///
/// # Shapes
/// `logits`: `[N, classes]`; one label per sample. The loss of an empty batch is 0.
///
/// # Errors
/// [`ModelError::Label`] for a label that is no class, [`ModelError::Tensor`] if the number of labels is not `N` or the
/// logits are not a contiguous `f32` matrix on the CPU.
pub fn cross_entropy(logits: &Tensor, labels: &[u32]) -> std::result::Result<Tensor, ModelError> {
    let (_, classes) = logits.dims2()?;
    if let Some((sample, &label)) = labels.iter().enumerate().find(|&(_, &label)| label as usize >= classes) {
        return Err(ModelError::Label { sample, label, classes });
    }
    Ok(logits.contiguous()?.apply_op1(CrossEntropy { labels: labels.to_vec() })?)
}

const NAME: &str = "cross_entropy";

struct CrossEntropy {
    labels: Vec<u32>,
}

impl CustomOp1 for CrossEntropy {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let &[n, classes] = layout.dims() else { bail!("{NAME}: expected [N, classes], found {:?}", layout.dims()) };
        if self.labels.len() != n {
            bail!("{NAME}: {} labels for {n} samples", self.labels.len());
        }
        let z = values(NAME, storage, layout)?;
        let mut probabilities = vec![0.0; classes];
        let mut sum = 0.0_f64;
        for (z, &label) in z.chunks_exact(classes.max(1)).zip(&self.labels) {
            sum += f64::from(softmax_row(z, &mut probabilities) - z[label as usize]);
        }
        Ok((CpuStorage::F32(vec![(sum / n.max(1) as f64) as f32]), Shape::from(())))
    }

    fn bwd(&self, arg: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let classes = arg.dim(1)?.max(1);
        let scale = grad.to_scalar::<f32>()? / self.labels.len().max(1) as f32;
        let mut out = vec![0.0; arg.elem_count()];
        with_values(NAME, arg, |z| {
            for ((z, out), &label) in z.chunks_exact(classes).zip(out.chunks_exact_mut(classes)).zip(&self.labels) {
                softmax_row(z, out);
                out[label as usize] -= 1.0;
                out.iter_mut().for_each(|v| *v *= scale);
            }
            Ok(())
        })?;
        Tensor::from_vec(out, arg.shape(), arg.device()).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::ops::testing::{assert_close, gradients, random_var};

    #[test]
    fn agrees_with_candle() {
        let z = random_var(&[12, 10], 1);
        let labels: Vec<u32> = (0..12).map(|i| i * 7 % 10).collect();
        let ours = cross_entropy(&(z.as_tensor() * 5.0).unwrap(), &labels).unwrap();
        let target = Tensor::from_slice(&labels, 12, &Device::Cpu).unwrap();
        let theirs = candle_nn::loss::cross_entropy(&(z.as_tensor() * 5.0).unwrap(), &target).unwrap();
        let tol = 16.0 * f64::from(f32::EPSILON);
        assert_close("value", &ours, &theirs, tol);
        let weight = Tensor::new(0.3_f32, &Device::Cpu).unwrap();
        assert_close("gradient", &gradients(&ours, &weight, &[&z])[0], &gradients(&theirs, &weight, &[&z])[0], tol);
    }

    #[test]
    fn extreme_logits_and_faulty_labels() {
        let z = Tensor::new(&[[1000.0_f32, 0.0], [0.0, -1000.0]], &Device::Cpu).unwrap();
        let loss = cross_entropy(&z, &[0, 1]).unwrap().to_scalar::<f32>().unwrap();
        assert_eq!(loss, 500.0);
        let error = cross_entropy(&z, &[0, 2]).unwrap_err();
        assert!(matches!(error, ModelError::Label { sample: 1, label: 2, classes: 2 }));
        assert!(cross_entropy(&z, &[0]).is_err());
        let nan = Tensor::new(&[[f32::NAN, 0.0]], &Device::Cpu).unwrap();
        assert!(cross_entropy(&nan, &[0]).unwrap().to_scalar::<f32>().unwrap().is_nan());
    }
}
