//! Register tiles of the weight gradient: many sums of products over the pixels of a block of images.
#![expect(clippy::needless_range_loop, reason = "constant ranges over several arrays are unrolled")]

use pulp::{Simd, WithSimd};

use crate::Real;
use crate::lanes::MAX_LANES;

/// Most output channels and most taps of a [`DotTile`] with that many channels.
///
/// 24 accumulators of 32 registers, or 12 of 16, leave room for the operands.
pub(super) const fn dot_shape<S: Simd>(channels: usize) -> (usize, usize) {
    if S::REGISTER_COUNT >= 32 {
        (4, if channels <= 3 { 8 } else { 6 })
    } else {
        match channels {
            1 => (3, 8),
            _ => (3, 4),
        }
    }
}

/// Most taps and most vectors of channels of an [`OuterTile`].
pub(super) const fn outer_shape<S: Simd>() -> (usize, usize) {
    if S::REGISTER_COUNT >= 32 { (6, 4) } else { (6, 2) }
}

/// `out[c][t] += Σ a[c, i] b[offsets[t] + i]` over the pixels `i` of every image; vectors run along the pixels.
pub(super) struct DotTile<'a, T> {
    pub(super) a: &'a [T],
    /// Distance between two images of `a`.
    pub(super) a_image: usize,
    /// Distance between two channels of `a`.
    pub(super) a_plane: usize,
    pub(super) b: &'a [T],
    pub(super) b_image: usize,
    pub(super) offsets: &'a [usize],
    pub(super) images: usize,
    pub(super) pixels: usize,
    pub(super) out: &'a mut [T],
    /// Distance between the results of two channels.
    pub(super) out_stride: usize,
}

impl<T: Real> DotTile<'_, T> {
    #[inline(always)]
    pub(super) fn run<S: Simd>(self, simd: S, channels: usize) {
        match channels {
            1 => self.run_channels::<S, 1>(simd),
            2 => self.run_channels::<S, 2>(simd),
            3 => self.run_channels::<S, 3>(simd),
            4 if const { dot_shape::<S>(4).0 >= 4 } => self.run_channels::<S, 4>(simd),
            _ => debug_assert!(false, "no tile of {channels} channels"),
        }
    }

    #[inline(always)]
    fn run_channels<S: Simd, const C: usize>(self, simd: S) {
        let taps = self.offsets.len();
        // The condition is constant, so that no tile is compiled for too few registers.
        macro_rules! tile {
            ($($v:literal)*) => {
                match taps {
                    $($v if const { $v <= dot_shape::<S>(C).1 } => simd.vectorize(Dot::<T, C, $v>(self)),)*
                    _ => debug_assert!(false, "no tile of {C} channels and {taps} taps"),
                }
            };
        }
        tile!(1 2 3 4 6 8)
    }
}

struct Dot<'a, T, const C: usize, const V: usize>(DotTile<'a, T>);

impl<T: Real, const C: usize, const V: usize> WithSimd for Dot<'_, T, C, V> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let tile = self.0;
        let Some(offsets) = tile.offsets.first_chunk::<V>() else { return };
        let (lanes, pixels) = (T::lanes::<S>(), tile.pixels);
        let zero = T::splat(simd, T::ZERO);
        let mut acc = [[zero; V]; C];
        for image in 0..tile.images {
            let (a, b) = (&tile.a[image * tile.a_image..], &tile.b[image * tile.b_image..]);
            let mut a_planes = [a; C];
            let mut b_planes = [b; V];
            for (c, plane) in a_planes.iter_mut().enumerate() {
                *plane = &a[c * tile.a_plane..][..pixels];
            }
            for (plane, offset) in b_planes.iter_mut().zip(offsets) {
                *plane = &b[*offset..][..pixels];
            }
            if pixels < lanes {
                let (a, b) = (fill_lanes(&a_planes), fill_lanes(&b_planes));
                let (a, b) = (a.each_ref().map(|x| &x[..]), b.each_ref().map(|x| &x[..]));
                acc = Planes { a: &a, b: &b, at: 0 }.accumulate::<S, false>(simd, 0, acc);
                continue;
            }
            let mut i = 0;
            while i + lanes <= pixels {
                let planes = Planes { a: &a_planes, b: &b_planes, at: i };
                acc = planes.accumulate::<S, false>(simd, 0, acc);
                i += lanes;
            }
            if i < pixels {
                // The last vector overlaps its neighbour, whose pixels must not count twice.
                let planes = Planes { a: &a_planes, b: &b_planes, at: pixels - lanes };
                acc = planes.accumulate::<S, true>(simd, i + lanes - pixels, acc);
            }
        }
        // By way of memory: sums over lanes are too long to be unrolled, and only then do accumulators stay in registers.
        let mut sums = [[[T::ZERO; MAX_LANES]; V]; C];
        for c in 0..C {
            for v in 0..V {
                T::store(simd, &mut sums[c][v], acc[c][v]);
            }
        }
        for (c, sums) in sums.iter().enumerate() {
            for (sum, out) in sums.iter().zip(&mut tile.out[c * tile.out_stride..]) {
                *out += T::sum_lanes(simd, T::load(simd, sum));
            }
        }
    }
}

/// Planes of less than a vector, continued with zeros.
#[inline(never)]
fn fill_lanes<T: Real, const N: usize>(planes: &[&[T]; N]) -> [[T; MAX_LANES]; N] {
    planes.map(|plane| std::array::from_fn(|i| plane.get(i).copied().unwrap_or(T::ZERO)))
}

/// One vector of pixels of a [`DotTile`].
struct Planes<'a, 'b, T, const C: usize, const V: usize> {
    a: &'b [&'a [T]; C],
    b: &'b [&'a [T]; V],
    /// First pixel.
    at: usize,
}

impl<T: Real, const C: usize, const V: usize> Planes<'_, '_, T, C, V> {
    /// Adds the products; where `SKIP`, without those of the first `skip` lanes.
    #[inline(always)]
    fn accumulate<S: Simd, const SKIP: bool>(
        self,
        simd: S,
        skip: usize,
        mut acc: [[T::Vector<S>; V]; C],
    ) -> [[T::Vector<S>; V]; C] {
        let lanes = T::lanes::<S>();
        let mut x = [T::splat(simd, T::ZERO); C];
        for c in 0..C {
            x[c] = T::load(simd, &self.a[c][self.at..][..lanes]);
            if SKIP {
                x[c] = T::keep_lanes(simd, T::mask_lanes(simd, skip, lanes), x[c]);
            }
        }
        for v in 0..V {
            let y = T::load(simd, &self.b[v][self.at..][..lanes]);
            for c in 0..C {
                acc[c][v] = T::mul_add_lanes(simd, x[c], y, acc[c][v]);
            }
        }
        acc
    }
}

/// `out[t][c] += Σ a[offsets[t] + i] b[i, c]` over the pixels `i` of every image; vectors run along the channels `c`.
pub(super) struct OuterTile<'a, T> {
    pub(super) a: &'a [T],
    /// Distance between two images of `a`.
    pub(super) a_image: usize,
    /// Distance between two rows of an image of `a`.
    pub(super) a_pitch: usize,
    pub(super) offsets: &'a [usize],
    /// `[pixel][channel]`.
    pub(super) b: &'a [T],
    pub(super) b_image: usize,
    /// Distance between two pixels of `b`, and between the results of two taps.
    pub(super) b_pitch: usize,
    /// First channel.
    pub(super) first: usize,
    pub(super) images: usize,
    /// Rows and columns of pixels.
    pub(super) grid: [usize; 2],
    pub(super) out: &'a mut [T],
}

impl<T: Real> OuterTile<'_, T> {
    #[inline(always)]
    pub(super) fn run<S: Simd>(self, simd: S, vectors: usize) {
        match vectors {
            // Six sums are too few to hide how long a product takes: those of every second pixel are kept apart.
            1 => self.run_vectors::<S, 1, 2>(simd),
            2 => self.run_vectors::<S, 2, 1>(simd),
            3 if const { outer_shape::<S>().1 >= 3 } => self.run_vectors::<S, 3, 1>(simd),
            4 if const { outer_shape::<S>().1 >= 4 } => self.run_vectors::<S, 4, 1>(simd),
            _ => debug_assert!(false, "no tile of {vectors} vectors"),
        }
    }

    #[inline(always)]
    fn run_vectors<S: Simd, const V: usize, const P: usize>(self, simd: S) {
        match self.offsets.len() {
            1 => simd.vectorize(Outer::<T, 1, V, P>(self)),
            2 => simd.vectorize(Outer::<T, 2, V, P>(self)),
            3 => simd.vectorize(Outer::<T, 3, V, P>(self)),
            4 => simd.vectorize(Outer::<T, 4, V, P>(self)),
            6 => simd.vectorize(Outer::<T, 6, V, P>(self)),
            taps => debug_assert!(false, "no tile of {taps} taps"),
        }
    }
}

/// A tile of `C` taps and `V` vectors, with sums of their own for each of `P` neighbouring pixels.
struct Outer<'a, T, const C: usize, const V: usize, const P: usize>(OuterTile<'a, T>);

impl<T: Real, const C: usize, const V: usize, const P: usize> WithSimd for Outer<'_, T, C, V, P> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let tile = self.0;
        let Some(offsets) = tile.offsets.first_chunk::<C>() else { return };
        let lanes = T::lanes::<S>();
        let zero = T::splat(simd, T::ZERO);
        let mut acc = [[[zero; V]; C]; P];
        let [rows, cols] = tile.grid;
        for image in 0..tile.images {
            let (a, b) = (&tile.a[image * tile.a_image..], &tile.b[image * tile.b_image..]);
            for row in 0..rows {
                let mut a_rows = [a; C];
                for (cells, offset) in a_rows.iter_mut().zip(offsets) {
                    *cells = &a[offset + row * tile.a_pitch..][..cols];
                }
                let pixels = &b[row * cols * tile.b_pitch..][..cols * tile.b_pitch];
                macro_rules! add_pixel {
                    ($i:expr, $p:expr) => {
                        let pixel = &pixels[$i * tile.b_pitch + tile.first..][..V * lanes];
                        let mut y = [zero; V];
                        for v in 0..V {
                            y[v] = T::load(simd, &pixel[v * lanes..][..lanes]);
                        }
                        for c in 0..C {
                            let x = T::splat(simd, a_rows[c][$i]);
                            for v in 0..V {
                                acc[$p][c][v] = T::mul_add_lanes(simd, x, y[v], acc[$p][c][v]);
                            }
                        }
                    };
                }
                let whole = cols / P * P;
                for first in (0..whole).step_by(P) {
                    for p in 0..P {
                        add_pixel!(first + p, p);
                    }
                }
                for i in whole..cols {
                    add_pixel!(i, 0);
                }
            }
        }
        for p in 1..P {
            for c in 0..C {
                for v in 0..V {
                    acc[0][c][v] = T::add_lanes(simd, acc[0][c][v], acc[p][c][v]);
                }
            }
        }
        macro_rules! add {
            ($($c:literal)*) => {
                $(if $c < C {
                    let out = &mut tile.out[$c * tile.b_pitch + tile.first..][..V * lanes];
                    for v in 0..V {
                        let out = &mut out[v * lanes..][..lanes];
                        let sum = T::add_lanes(simd, T::load(simd, out), acc[0][$c][v]);
                        T::store(simd, out, sum);
                    }
                })*
            };
        }
        // A loop over taps would be too long to be unrolled, and the accumulators would live in memory.
        add!(0 1 2 3 4 5);
    }
}
