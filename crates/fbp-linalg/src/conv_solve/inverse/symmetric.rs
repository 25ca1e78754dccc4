use std::ops::Range;

use faer::dyn_stack::{MemStack, StackReq};
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use pulp::Simd;
use rayon::prelude::*;

use crate::Real;

/// Columns up to which a product reads the lower triangle once, for all of them together.
const FEW: usize = 4;
/// Columns of the matrix that one pass over the vectors takes.
const PANEL: usize = 4;
/// Entries that are summed side by side.
const LANES: usize = 16;
/// Order below which one thread is quicker.
const SHARED: usize = 512;

/// Threads that share a product.
fn parts(order: usize, par: Par) -> usize {
    if order < SHARED { 1 } else { par.degree().max(1) }
}

/// Workspace of [`symmetric_times`].
pub(crate) fn symmetric_scratch<P: Real>(order: usize, cols: usize, par: Par) -> StackReq {
    StackReq::new::<P>(order * cols.min(FEW) * parts(order, par))
}

/// `out <- S x` for a symmetric `S`, of which only the lower triangle is read where `x` has few columns.
///
/// Such a product is as fast as the matrix comes from memory; half of it, once for all columns, is the least there is.
pub(crate) fn symmetric_times<P: Real>(
    s: MatRef<'_, P>,
    x: MatRef<'_, P>,
    out: MatMut<'_, P>,
    par: Par,
    stack: &mut MemStack,
) {
    match x.ncols() {
        1 => few::<P, 1>(s, x, out, par, stack),
        2 => few::<P, 2>(s, x, out, par, stack),
        3 => few::<P, 3>(s, x, out, par, stack),
        FEW => few::<P, FEW>(s, x, out, par, stack),
        _ => matmul(out, Accum::Replace, s, x, P::ONE, par),
    }
}

fn few<P: Real, const J: usize>(
    s: MatRef<'_, P>,
    x: MatRef<'_, P>,
    mut out: MatMut<'_, P>,
    par: Par,
    stack: &mut MemStack,
) {
    let (order, parts) = (s.nrows(), parts(s.nrows(), par));
    if order == 0 {
        return;
    }
    let (mut sums, _) = stack.make_with(order * J * parts, |_| P::ZERO);
    let part = |(index, sums): (usize, &mut [P])| add_columns::<P, J>(s, x, sums, range(order, index, parts));
    if parts > 1 {
        sums.par_chunks_exact_mut(order * J).enumerate().for_each(part);
    } else {
        sums.chunks_exact_mut(order * J).enumerate().for_each(part);
    }
    for j in 0..J {
        for i in 0..order {
            out[(i, j)] = sums.chunks_exact(order * J).map(|part| part[j * order + i]).sum();
        }
    }
}

/// Columns of the lower triangle with about the same number of entries for every part.
fn range(order: usize, index: usize, parts: usize) -> Range<usize> {
    let cut = |share: usize| {
        let left = 1.0 - share as f64 / parts as f64;
        let at = (order as f64 * (1.0 - left.sqrt())) as usize;
        if share == parts { order } else { at / PANEL * PANEL }
    };
    cut(index)..cut(index + 1)
}

/// Adds what some columns of the lower triangle, and their mirror images, contribute.
fn add_columns<P: Real, const J: usize>(s: MatRef<'_, P>, x: MatRef<'_, P>, sums: &mut [P], columns: Range<usize>) {
    let order = s.nrows();
    let arch = pulp::Arch::new();
    let vectors: [Option<&[P]>; J] = std::array::from_fn(|j| x.col(j).try_as_col_major().map(|x| x.as_slice()));
    let mut start = columns.start;
    while start < columns.end {
        let width = PANEL.min(columns.end - start);
        // The triangle on the diagonal, then what lies below it.
        for i in start..start + width {
            for k in start..=i {
                for (j, sums) in sums.chunks_exact_mut(order).enumerate() {
                    sums[i] += s[(i, k)] * x[(k, j)];
                    if k < i {
                        sums[k] += s[(i, k)] * x[(i, j)];
                    }
                }
            }
        }
        let below = start + width;
        let rows: [Option<&[P]>; PANEL] = std::array::from_fn(|c| {
            (c < width).then(|| s.col(start + c).try_as_col_major().map(|col| &col.as_slice()[below..])).flatten()
        });
        if let ([Some(a), Some(b), Some(c), Some(d)], true) = (rows, vectors.iter().all(Option::is_some)) {
            let vectors = vectors.map(|x| x.unwrap_or_default());
            let heads = vectors.map(|x| std::array::from_fn(|c| x[start + c]));
            let mut tails = sums.chunks_exact_mut(order);
            let tails: [&mut [P]; J] =
                std::array::from_fn(|_| tails.next().map_or(&mut [] as &mut [P], |sums| &mut sums[below..]));
            let below = vectors.map(|x| &x[below..]);
            let dots = arch.dispatch(Strip { rows: [a, b, c, d], x: below, heads, sums: tails });
            for (sums, dots) in sums.chunks_exact_mut(order).zip(dots) {
                sums[start..][..PANEL].iter_mut().zip(dots).for_each(|(sum, dot)| *sum += dot);
            }
        } else {
            for i in below..order {
                for k in start..below {
                    for (j, sums) in sums.chunks_exact_mut(order).enumerate() {
                        sums[i] += s[(i, k)] * x[(k, j)];
                        sums[k] += s[(i, k)] * x[(i, j)];
                    }
                }
            }
        }
        start += width;
    }
}

/// Four columns below their diagonal: `sums += rows heads`, and `rowsᵀ x` is returned.
struct Strip<'a, P, const J: usize> {
    rows: [&'a [P]; PANEL],
    x: [&'a [P]; J],
    heads: [[P; PANEL]; J],
    sums: [&'a mut [P]; J],
}

impl<P: Real, const J: usize> pulp::WithSimd for Strip<'_, P, J> {
    type Output = [[P; PANEL]; J];

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Self::Output {
        let Self { rows, x, heads, sums } = self;
        let len = rows[0].len();
        let whole = len / LANES * LANES;
        let mut dots = [[[P::ZERO; LANES]; PANEL]; J];
        let mut at = 0;
        while at < whole {
            let s: [[P; LANES]; PANEL] = std::array::from_fn(|c| lanes(&rows[c][at..]));
            for j in 0..J {
                let x: [P; LANES] = lanes(&x[j][at..]);
                let mut sum: [P; LANES] = lanes(&sums[j][at..]);
                for c in 0..PANEL {
                    for l in 0..LANES {
                        dots[j][c][l] = s[c][l].mul_add(x[l], dots[j][c][l]);
                        sum[l] = s[c][l].mul_add(heads[j][c], sum[l]);
                    }
                }
                sums[j][at..at + LANES].copy_from_slice(&sum);
            }
            at += LANES;
        }
        let mut out = [[P::ZERO; PANEL]; J];
        for j in 0..J {
            for c in 0..PANEL {
                out[j][c] = dots[j][c].iter().copied().sum();
                for i in whole..len {
                    out[j][c] += rows[c][i] * x[j][i];
                    sums[j][i] += rows[c][i] * heads[j][c];
                }
            }
        }
        out
    }
}

#[inline(always)]
fn lanes<P: Real>(values: &[P]) -> [P; LANES] {
    let mut out = [P::ZERO; LANES];
    out.copy_from_slice(&values[..LANES]);
    out
}

#[cfg(test)]
mod tests {
    use faer::Mat;
    use faer::dyn_stack::MemBuffer;

    use super::*;
    use crate::testkit::{normal_mat, rng};

    fn check<P: Real>(order: usize, cols: usize, par: Par) {
        let (nan, mut rng) = (P::from_f64(f64::NAN), rng(order as u64));
        let half = normal_mat::<P>(order, order, &mut rng);
        let s = Mat::from_fn(order, order, |i, j| half[(i.max(j), i.min(j))]);
        let x = normal_mat::<P>(order, cols, &mut rng);
        let mut memory = MemBuffer::new(symmetric_scratch::<P>(order, cols, par));
        let mut out = Mat::from_fn(order, cols, |_, _| nan);
        // The upper triangle is never read where there are few columns.
        let read = if cols <= FEW {
            Mat::from_fn(order, order, |i, j| if j > i { nan } else { s[(i, j)] })
        } else {
            s.clone()
        };
        symmetric_times(read.as_ref(), x.as_ref(), out.as_mut(), par, MemStack::new(&mut memory));
        for i in 0..order {
            for j in 0..cols {
                let terms = || (0..order).map(|k| s[(i, k)].to_f64() * x[(k, j)].to_f64());
                let (exact, size): (f64, f64) = (terms().sum(), terms().map(f64::abs).sum());
                let bound = order as f64 * P::EPSILON.to_f64() * size;
                assert!((out[(i, j)].to_f64() - exact).abs() <= bound, "{order} {cols}: ({i}, {j})");
            }
        }
    }

    #[test]
    fn products_follow_the_definition() {
        for order in [0, 1, 3, 4, 5, 17, 64, 83, SHARED + 7] {
            for cols in [1, 2, 3, 4, 5] {
                for par in [Par::Seq, Par::rayon(2), Par::rayon(5)] {
                    check::<f32>(order, cols, par);
                    check::<f64>(order, cols, par);
                }
            }
        }
    }
}
