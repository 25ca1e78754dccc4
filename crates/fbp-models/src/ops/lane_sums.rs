/// Values that are summed side by side; fixed, so that sums are the same bits on every instruction set.
pub(super) const LANES: usize = 16;

/// Two sums.
pub(super) type Sums = [f64; 2];

/// Two sums of `f(x_i, y_i)`, by lanes.
#[inline(always)]
pub(super) fn lane_sums(x: &[f32], y: &[f32], f: impl Fn(f32, f32) -> [f32; 2]) -> Sums {
    lane_sums_of_three(x, y, x, |x, y, _| f(x, y))
}

/// Two sums of `f(x_i, y_i, z_i)`, by lanes.
#[inline(always)]
pub(super) fn lane_sums_of_three(x: &[f32], y: &[f32], z: &[f32], f: impl Fn(f32, f32, f32) -> [f32; 2]) -> Sums {
    let mut lanes = [[0.0_f32; LANES]; 2];
    let (x, y, z) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>(), z.as_chunks::<LANES>());
    for ((x, y), z) in x.0.iter().zip(y.0).zip(z.0) {
        for i in 0..LANES {
            let [first, second] = f(x[i], y[i], z[i]);
            lanes[0][i] += first;
            lanes[1][i] += second;
        }
    }
    for (i, ((&x, &y), &z)) in x.1.iter().zip(y.1).zip(z.1).enumerate() {
        let [first, second] = f(x, y, z);
        lanes[0][i] += first;
        lanes[1][i] += second;
    }
    // A loop, as sums of iterators are not always inlined, and then compiled for narrow registers.
    let mut sums = [0.0; 2];
    for (sum, lanes) in sums.iter_mut().zip(lanes) {
        for lane in lanes {
            *sum += f64::from(lane);
        }
    }
    sums
}
