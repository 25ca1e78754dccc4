//! The scales of the rows of a convolution, by which it is judged what is attained.

use faer::Par;
use faer::dyn_stack::{MemStack, StackReq};

use super::grid::End;
use crate::attained::attained_slack;
use crate::conv_solve::operator::pair::Pair;
use crate::{LinalgError, Real};

/// While at most one row in so many is in doubt they are looked at one by one; the scales of all take one product.
const FEW: usize = 64;

/// One sample that is to be judged.
pub(crate) struct Judged<'a, T> {
    /// The point.
    pub(crate) solution: &'a [T],
    /// Wanted outputs.
    pub(crate) target: &'a [T],
    /// One value per channel of the equations.
    pub(crate) bias: &'a [f64],
    /// What the target wanted of the outputs, and what was done of it.
    pub(crate) wanted: &'a [f64],
    pub(crate) image: &'a [f64],
}

/// A row at a point, without its bias.
struct Row {
    /// `Σ |a_ij v_j|`.
    scale: f64,
    /// Coefficients that are not zero.
    terms: usize,
}

/// The equations of a convolution or of its transpose.
pub(crate) struct Rows<'a> {
    pub(crate) pair: &'a Pair,
    /// Side of the convolution that holds the equations.
    pub(crate) end: End,
}

impl Rows<'_> {
    /// Most products that the evaluation of a row adds, with its bias.
    fn terms(&self) -> usize {
        let g = self.pair.conv.geometry();
        let channels = if self.end == End::Output { g.in_channels_per_group() } else { g.out_channels_per_group() };
        channels * g.kernel()[0] * g.kernel()[1] + 1
    }

    /// Workspace of [`is_missed`](Self::is_missed).
    pub(crate) fn scratch(&self) -> StackReq {
        let g = self.pair.conv.geometry();
        let values = StackReq::new::<f64>(g.weight_len()).and(StackReq::new::<f64>(g.in_len() + g.out_len()));
        values.and(self.pair.scratch(1, Par::Seq)).and(StackReq::new::<[u8; 64]>(4))
    }

    /// Whether an output misses its target by more than [`attained_slack`] of its row.
    ///
    /// No row has a scale below its output or fewer terms than one, which decides for most; the others are looked at one by
    /// one while they are few, or where their scales do not decide.
    pub(crate) fn is_missed<T: Real>(&self, one: &Judged<'_, T>, stack: &mut MemStack) -> Result<bool, LinalgError> {
        let [least, most] = [1, self.terms()].map(|terms| attained_slack::<T>(terms, 1.0));
        let rest = |i: usize| (one.wanted[i] - one.image[i]).abs();
        let doubt = |i: &usize| rest(*i) > least * (one.target[*i].to_f64() - (one.wanted[*i] - one.image[*i])).abs();
        let rows = one.wanted.len();
        let plane = rows / one.bias.len();
        let missed = |i: usize| {
            let Row { scale, terms } = self.row(i, one.solution);
            rest(i) > attained_slack::<T>(terms + 1, scale + one.bias[i / plane].abs())
        };
        if (0..rows).filter(doubt).count() * FEW <= rows {
            return Ok((0..rows).filter(doubt).any(missed));
        }
        // One that misses for sure is enough.
        if (0..rows).find(doubt).is_some_and(missed) {
            return Ok(true);
        }
        let (weight, stack) = stack.make_with(self.pair.weight.len(), |at| self.pair.weight[at].abs());
        let (from, stack) = stack.make_with(one.solution.len(), |at| one.solution[at].to_f64().abs());
        let (mut sums, stack) = stack.make_with(rows, |_| 0.0);
        self.pair.run_with(&weight, self.end == End::Output, (&from, &mut sums), Par::Seq, stack)?;
        let unclear = |i: usize| {
            let scale = sums[i] + one.bias[i / plane].abs();
            rest(i) > most * scale || rest(i) > least * scale && missed(i)
        };
        Ok((0..rows).filter(doubt).any(unclear))
    }

    /// Scale and terms of one row.
    fn row<T: Real>(&self, row: usize, v: &[T]) -> Row {
        let g = self.pair.conv.geometry();
        let (ours, theirs) = match self.end {
            End::Output => (g.out_shape(), g.in_shape()),
            End::Input => (g.in_shape(), g.out_shape()),
        };
        let (co, ci, [kh, kw]) = (g.out_channels_per_group(), g.in_channels_per_group(), g.kernel());
        let (channel, y, x) = (row / ours.plane(), row % ours.plane() / ours.width, row % ours.width);
        // Where a tap meets the other field along one axis.
        let meets = |axis: usize, at: usize, tap: usize, size: usize| {
            let (stride, padding, reach) = (g.stride()[axis], g.padding()[axis], tap * g.dilation()[axis]);
            let place = match self.end {
                End::Output => (at * stride + reach).checked_sub(padding)?,
                End::Input => {
                    let unfolded = (at + padding).checked_sub(reach)?;
                    if unfolded % stride != 0 {
                        return None;
                    }
                    unfolded / stride
                }
            };
            (place < size).then_some(place)
        };
        let (group, others) = if self.end == End::Output { (channel / co, ci) } else { (channel / ci, co) };
        let mut found = Row { scale: 0.0, terms: 0 };
        for other in 0..others {
            let (out, within) =
                if self.end == End::Output { (channel, other) } else { (group * co + other, channel % ci) };
            let (kernel, plane) = ((out * ci + within) * kh * kw, (group * others + other) * theirs.plane());
            for tap in 0..kh {
                let Some(line) = meets(0, y, tap, theirs.height) else { continue };
                for across in 0..kw {
                    let Some(place) = meets(1, x, across, theirs.width) else { continue };
                    let weight = self.pair.weight[kernel + tap * kw + across];
                    found.scale += (weight * v[plane + line * theirs.width + place].to_f64()).abs();
                    found.terms += usize::from(weight != 0.0);
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use faer::dyn_stack::MemBuffer;

    use super::*;
    use crate::assert_close;
    use crate::conv_solve::tests::random_params;
    use crate::conv2d::Conv2d;
    use crate::testkit::{Tol, for_seeds, normal_vec};

    #[test]
    fn a_row_is_the_product_with_magnitudes() {
        for_seeds(30, |rng| {
            let g = random_params(rng).check().unwrap();
            let weight = normal_vec::<f64>(g.weight_len(), rng);
            let magnitudes: Vec<f64> = weight.iter().map(|w| w.abs()).collect();
            for end in [End::Output, End::Input] {
                let pair = Pair { conv: Conv2d::new(g), weight: weight.clone(), near: end };
                let rows = Rows { pair: &pair, end };
                let lens = if end == End::Output { (g.out_len(), g.in_len()) } else { (g.in_len(), g.out_len()) };
                let v = normal_vec::<f64>(lens.1, rng);
                let from: Vec<f64> = v.iter().map(|v| v.abs()).collect();
                let mut memory = MemBuffer::new(pair.scratch(1, Par::Seq));
                let mut sums = vec![f64::NAN; lens.0];
                let pass = (&from[..], &mut sums[..]);
                let stack = MemStack::new(&mut memory);
                pair.run_with(&magnitudes, end == End::Output, pass, Par::Seq, stack).unwrap();
                let found: Vec<f64> = (0..lens.0).map(|row| rows.row(row, &v).scale).collect();
                assert_close!(found, sums, Tol::eps::<f64>().times(rows.terms()));
            }
        });
    }
}
