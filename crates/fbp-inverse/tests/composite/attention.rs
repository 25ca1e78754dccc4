//! Attention against plain loops in double precision.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::{Mat, Par};
use fbp_inverse::joint::TapeMemory;
use fbp_inverse::{Attention, DifferentiableOperator, JvpPass, ReverseOperator, VjpPass};
use fbp_linalg::testkit::{Tol, normal_mat, rng};
use fbp_linalg::{Real, assert_close};

/// Sizes of a case: tokens, heads, width of a head.
type Sizes = (usize, usize, usize);

/// Probabilities of one sample and head by the definition: `p[t][s]`.
fn probabilities(input: &[f64], (count, heads, width): Sizes, head: usize) -> Vec<Vec<f64>> {
    let (dim, scale) = (heads * width, 1.0 / (width as f64).sqrt());
    let entry = |part: usize, t: usize, i: usize| input[t * 3 * dim + part * dim + head * width + i];
    (0..count)
        .map(|t| {
            let score = |s: usize| scale * (0..width).map(|i| entry(0, t, i) * entry(1, s, i)).sum::<f64>();
            let weights: Vec<f64> = (0..count).map(|s| score(s).exp()).collect();
            let total: f64 = weights.iter().sum();
            weights.into_iter().map(|w| w / total).collect()
        })
        .collect()
}

fn forward(input: &[f64], sizes: Sizes) -> Vec<f64> {
    let (count, heads, width) = sizes;
    let dim = heads * width;
    let mut output = vec![0.0; count * dim];
    for head in 0..heads {
        let p = probabilities(input, sizes, head);
        for t in 0..count {
            for i in 0..width {
                let value = |s: usize| input[s * 3 * dim + 2 * dim + head * width + i];
                output[t * dim + head * width + i] = (0..count).map(|s| p[t][s] * value(s)).sum();
            }
        }
    }
    output
}

/// The adjoint, one partial derivative after the other: `∂o/∂v = p`, `∂p_ts/∂z_tr = p_ts (δ_sr - p_tr)`.
fn vjp(input: &[f64], weights: &[f64], sizes: Sizes) -> Vec<f64> {
    let (count, heads, width) = sizes;
    let (dim, scale) = (heads * width, 1.0 / (width as f64).sqrt());
    let at = |part: usize, t: usize, head: usize, i: usize| t * 3 * dim + part * dim + head * width + i;
    let mut sums = vec![0.0; 3 * dim * count];
    for head in 0..heads {
        let p = probabilities(input, sizes, head);
        for t in 0..count {
            for i in 0..width {
                let weight = weights[t * dim + head * width + i];
                for s in 0..count {
                    sums[at(2, s, head, i)] += weight * p[t][s];
                    for r in 0..count {
                        let slope = p[t][s] * (f64::from(u8::from(s == r)) - p[t][r]);
                        let share = weight * input[at(2, s, head, i)] * slope * scale;
                        for k in 0..width {
                            sums[at(0, t, head, k)] += share * input[at(1, r, head, k)];
                            sums[at(1, r, head, k)] += share * input[at(0, t, head, k)];
                        }
                    }
                }
            }
        }
    }
    sums
}

fn check<T: Real>(sizes: Sizes, batch: usize, par: Par) {
    let (count, heads, width) = sizes;
    let layer = Attention::<T>::new("attention", count, heads, width).unwrap();
    let (inputs, outputs) = (layer.in_shape().len(), layer.out_shape().len());
    let mut random = rng(count as u64 + 10 * heads as u64);
    let input = normal_mat::<T>(inputs, batch, &mut random);
    let weights = normal_mat::<T>(outputs, batch, &mut random);
    let mut output = Mat::<T>::full(outputs, batch, T::from_f64(f64::NAN));
    let mut taped = output.clone();
    let mut product = Mat::<T>::full(inputs, batch, T::from_f64(f64::NAN));
    let mut product_on_tape = product.clone();
    let scratch = layer.forward_scratch(batch, par).or(layer.derivative_scratch(batch, par));
    let mut memory = MemBuffer::new(scratch);
    let stack = MemStack::new(&mut memory);
    layer.forward(input.as_ref(), output.as_mut(), par, stack).unwrap();
    let lens = layer.tape_lens().to_vec();
    let mut tape = TapeMemory::<T>::new(lens.iter().sum(), batch);
    layer.forward_on_tape(input.as_ref(), taped.as_mut(), tape.view_mut(&lens, batch), par, stack).unwrap();
    assert_eq!(output, taped);
    let pass = VjpPass { at: input.as_ref(), cotangent_out: weights.as_ref(), cotangent_in: product.as_mut() };
    layer.vjp(pass, par, stack).unwrap();
    let pass = VjpPass { at: input.as_ref(), cotangent_out: weights.as_ref(), cotangent_in: product_on_tape.as_mut() };
    layer.vjp_on_tape(pass, tape.view(&lens, batch), par, stack).unwrap();
    assert_eq!(product, product_on_tape);
    // <J v, w> = <v, Jᵀ w> on the tape.
    let direction = normal_mat::<T>(inputs, batch, &mut random);
    let mut tangent = Mat::<T>::full(outputs, batch, T::from_f64(f64::NAN));
    let pass = JvpPass { at: input.as_ref(), tangent_in: direction.as_ref(), tangent_out: tangent.as_mut() };
    layer.jvp_on_tape(pass, tape.view(&lens, batch), par, stack).unwrap();
    for j in 0..batch {
        let wide = |m: &Mat<T>| (0..m.nrows()).map(|i| m[(i, j)].to_f64()).collect::<Vec<_>>();
        // Terms of the scores, of the softmax and of the sum over the tokens.
        let tolerance = Tol::eps::<T>().times(8 * (count + width)).scale(1.0);
        assert_close!(wide(&output), forward(&wide(&input), sizes), tolerance);
        let expected = vjp(&wide(&input), &wide(&weights), sizes);
        let size = expected.iter().fold(1.0_f64, |m, x| m.max(x.abs()));
        assert_close!(wide(&product), expected, Tol::eps::<T>().times(16 * (count + width)).scale(size));
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let (left, right) = (dot(&wide(&tangent), &wide(&weights)), dot(&wide(&direction), &wide(&product)));
        let norm = |m: &Mat<T>| dot(&wide(m), &wide(m)).sqrt();
        let size = norm(&tangent) * norm(&weights);
        assert_close!([left], [right], Tol::eps::<T>().times(16 * (count + width)).scale(size));
    }
}

#[test]
fn forward_and_adjoint_are_those_of_plain_loops() {
    // Less than a run of lanes, whole runs, and what is left behind them.
    let sizes = [
        ((1, 1, 1), 2),
        ((3, 2, 2), 3),
        ((5, 3, 4), 1),
        ((16, 1, 3), 2),
        ((17, 2, 8), 2),
        ((31, 1, 4), 2),
        ((33, 1, 5), 4),
    ];
    for (sizes, batch) in sizes {
        for par in [Par::Seq, Par::rayon(2)] {
            check::<f64>(sizes, batch, par);
            check::<f32>(sizes, batch, par);
        }
    }
}

#[test]
fn large_scores_stay_finite() {
    for count in [4, 20] {
        let layer = Attention::<f32>::new("attention", count, 1, 2).unwrap();
        let end = 6 * count;
        let middle = end as f32 / 2.0;
        let input: Vec<f32> = (0..end).map(|i| if i % 6 < 4 { 1e10 * (i as f32 - middle) } else { i as f32 }).collect();
        let output = fbp_inverse::forward_one(&layer, &input).unwrap();
        assert!(output.iter().all(|y| (4.0..end as f32).contains(y)), "{output:?}");
    }
}
