//! Which cells and weights every output pixel needs, and in which layout they are read.

use super::Conv2dGeometry;
use super::correlate::{Correlation, Job, Tap};
use super::sample_wise::{PixelTaps, SampleWise, SampleWiseSizes};
use super::source::{Axis, Source, TapCell};
use super::weight_grad::{Vectors, WeightGrad};
use crate::FeatureShape;
use crate::lanes::MAX_LANES;

/// Output pixels `origin, origin + step, ...` of one axis, and the taps that they need.
struct Phase {
    origin: usize,
    count: usize,
    /// Index of a tap in the kernel and the first cell that it needs, in pixels of the source.
    taps: Vec<(usize, isize)>,
}

/// One axis of a correlation, before its cells are laid out.
struct AxisPlan {
    phases: Vec<Phase>,
    /// Distance between the cells of two neighbouring outputs of a phase, in pixels of the source.
    read_step: usize,
    /// Distance between two neighbouring outputs of a phase.
    write_step: usize,
}

/// One output of an axis.
struct AxisPixel {
    place: usize,
    /// Index of a tap in the kernel, and the pixel of the source that it needs.
    taps: Vec<(usize, usize)>,
}

/// A layout of the cells of an axis, with the place of every tap of every phase.
struct AxisLayout {
    axis: Axis,
    taps: Vec<Vec<(usize, TapCell)>>,
}

impl AxisPlan {
    /// `y[i] = Σ_k w[k] x[i·s + k·d - p]`.
    fn forward(g: &Conv2dGeometry, axis: usize, out_size: usize) -> Self {
        let first = |k: usize| (k * g.dilation()[axis]) as isize - g.padding()[axis] as isize;
        let taps = (0..g.kernel()[axis]).map(|k| (k, first(k))).collect();
        Self { phases: vec![Phase { origin: 0, count: out_size, taps }], read_step: g.stride()[axis], write_step: 1 }
    }

    /// `x[i] = Σ w[k] y[j]` over `i + p = j·s + k·d`. Pixels `i = s·q + φ - p` of phase `φ` share their taps, those with
    /// `k·d = φ (mod s)`, and read `y[q - (k·d - φ)/s]`.
    fn adjoint(g: &Conv2dGeometry, axis: usize, in_size: usize) -> Self {
        let (stride, padding, dilation) = (g.stride()[axis], g.padding()[axis], g.dilation()[axis]);
        let phase = |origin: usize| {
            let (first, phase) = ((origin + padding) / stride, (origin + padding) % stride);
            let taps = (0..g.kernel()[axis]).filter(|k| k * dilation % stride == phase);
            Phase {
                origin,
                count: (in_size - origin).div_ceil(stride),
                taps: taps.map(|k| (k, first as isize - (k * dilation / stride) as isize)).collect(),
            }
        };
        let phases = (0..stride.min(in_size)).map(phase).collect();
        Self { phases, read_step: 1, write_step: stride }
    }

    /// Every output of the axis, with its taps that lie within the source of `size` pixels.
    fn pixels(&self, size: usize) -> Vec<AxisPixel> {
        let pixel = |phase: &Phase, i: usize| {
            let source = |first: isize| usize::try_from(first + (i * self.read_step) as isize).ok();
            let taps = phase.taps.iter().filter_map(|&(k, first)| Some((k, source(first).filter(|at| *at < size)?)));
            AxisPixel { place: phase.origin + i * self.write_step, taps: taps.collect() }
        };
        self.phases.iter().flat_map(|phase| (0..phase.count).map(move |i| pixel(phase, i))).collect()
    }

    /// Every cell once: one variant per residue of the first cells modulo the step.
    fn compact(&self) -> AxisLayout {
        let step = self.read_step as isize;
        let firsts = || self.phases.iter().flat_map(|phase| phase.taps.iter().map(|tap| tap.1));
        let mut starts: Vec<isize> = Vec::new();
        for first in firsts() {
            match starts.iter_mut().find(|start| (**start - first) % step == 0) {
                Some(start) => *start = first.min(*start),
                None => starts.push(first),
            }
        }
        self.lay_out(starts, |starts, first| {
            let variant = starts.iter().position(|start| (start - first) % step == 0).unwrap_or(0);
            TapCell { variant, shift: ((first - starts[variant]) / step) as usize }
        })
    }

    /// Every tap with its own copy of its cells, so that the rows of a plane follow each other without a gap.
    fn shifted(&self) -> AxisLayout {
        let mut starts: Vec<isize> = Vec::new();
        for (_, first) in self.phases.iter().flat_map(|phase| &phase.taps) {
            if !starts.contains(first) {
                starts.push(*first);
            }
        }
        self.lay_out(starts, |starts, first| TapCell {
            variant: starts.iter().position(|start| *start == first).unwrap_or(0),
            shift: 0,
        })
    }

    fn lay_out(&self, mut starts: Vec<isize>, cell: impl Fn(&[isize], isize) -> TapCell) -> AxisLayout {
        if starts.is_empty() {
            starts.push(0);
        }
        let taps: Vec<Vec<_>> = self
            .phases
            .iter()
            .map(|phase| phase.taps.iter().map(|&(k, first)| (k, cell(&starts, first))).collect())
            .collect();
        let ends = self
            .phases
            .iter()
            .zip(&taps)
            .map(|(phase, taps)| phase.count + taps.iter().map(|(_, cell)| cell.shift).max().unwrap_or(0));
        let cells = ends.max().unwrap_or(1);
        AxisLayout { axis: Axis { starts, step: self.read_step, cells }, taps }
    }
}

/// The forward pass as a correlation over the input.
pub(super) fn forward(g: &Conv2dGeometry) -> Correlation {
    let [_, ci, kh, kw] = g.weight_shape();
    let out = g.out_shape();
    let plan = Plan {
        input: g.in_shape(),
        output: out,
        groups: g.groups(),
        rows: AxisPlan::forward(g, 0, out.height),
        cols: AxisPlan::forward(g, 1, out.width),
        kernel_width: kw,
        sum_stride: kh * kw,
        channel_stride: ci * kh * kw,
        group_stride: g.out_channels_per_group() * ci * kh * kw,
    };
    plan.fastest()
}

/// The adjoint as a correlation over the cotangent.
pub(super) fn adjoint(g: &Conv2dGeometry) -> Correlation {
    let [_, ci, kh, kw] = g.weight_shape();
    let input = g.in_shape();
    let plan = Plan {
        input: g.out_shape(),
        output: input,
        groups: g.groups(),
        rows: AxisPlan::adjoint(g, 0, input.height),
        cols: AxisPlan::adjoint(g, 1, input.width),
        kernel_width: kw,
        sum_stride: ci * kh * kw,
        channel_stride: kh * kw,
        group_stride: g.out_channels_per_group() * ci * kh * kw,
    };
    plan.fastest()
}

/// The weight gradient in the layout with the lowest estimated time.
pub(super) fn weight_grad(g: &Conv2dGeometry) -> WeightGrad {
    let (input, output) = (g.in_shape(), g.out_shape());
    let rows = AxisPlan::forward(g, 0, output.height).compact();
    let cols = AxisPlan::forward(g, 1, output.width);
    let plan = |vectors: Vectors, cols: AxisLayout| {
        let source = Source::new(input, rows.axis.clone(), cols.axis, true);
        let offsets = (0..g.in_channels_per_group()).flat_map(|channel| {
            let taps =
                rows.taps.iter().flatten().flat_map(|row| cols.taps.iter().flatten().map(move |col| (row.1, col.1)));
            taps.map(|(row, col)| channel * source.channel_len() + source.offset(row, col)).collect::<Vec<_>>()
        });
        let pitch = if vectors == Vectors::Pixels { source.pitch() } else { output.width };
        let whole = |cells: usize| Axis { starts: vec![0], step: 1, cells };
        let cotangent = Source::new(output, whole(output.height), whole(pitch), true);
        WeightGrad { vectors, offsets: offsets.collect(), source, cotangent, input, output, groups: g.groups() }
    };
    let cheaper = |a: WeightGrad, b: WeightGrad| if b.cost() < a.cost() { b } else { a };
    let pixels = cheaper(plan(Vectors::Pixels, cols.shifted()), plan(Vectors::Pixels, cols.compact()));
    cheaper(pixels, plan(Vectors::Channels, cols.compact()))
}

struct Plan {
    input: FeatureShape,
    output: FeatureShape,
    groups: usize,
    rows: AxisPlan,
    cols: AxisPlan,
    kernel_width: usize,
    /// Distance between the weights of two channels that are summed over.
    sum_stride: usize,
    channel_stride: usize,
    group_stride: usize,
}

impl Plan {
    /// The layout with the lowest estimated time.
    fn fastest(&self) -> Correlation {
        let compact = self.correlation(&self.rows.compact(), &self.cols.compact());
        let shifted = self.correlation(&self.rows.compact(), &self.cols.shifted());
        let mut fastest = if shifted.cost() < compact.cost() { shifted } else { compact };
        fastest.sample_wise =
            self.sample_wise().and_then(|plan| plan.faster_than(fastest.cost(), fastest.weight_len()));
        fastest
    }

    /// The same with vectors of samples, unless it has too many taps.
    fn sample_wise(&self) -> Option<SampleWise> {
        let (rows, cols) = (self.rows.pixels(self.input.height), self.cols.pixels(self.input.width));
        let count = |pixels: &[AxisPixel]| pixels.iter().map(|pixel| pixel.taps.len()).sum::<usize>();
        let channels = self.input.channels / self.groups;
        let sizes = SampleWiseSizes {
            input: self.input,
            output: self.output,
            groups: self.groups,
            channel_stride: self.channel_stride,
            group_stride: self.group_stride,
        };
        if !sizes.allows(channels.saturating_mul(count(&rows)).saturating_mul(count(&cols))) {
            return None;
        }
        let pixels = rows.iter().flat_map(|row| cols.iter().map(move |col| (row, col)));
        let pixels = pixels.map(|(row, col)| {
            let (mut cells, mut weights) = (Vec::new(), Vec::new());
            for channel in 0..channels {
                for &(k, y) in &row.taps {
                    for &(l, x) in &col.taps {
                        cells.push(channel * self.input.plane() + y * self.input.width + x);
                        weights.push(channel * self.sum_stride + k * self.kernel_width + l);
                    }
                }
            }
            PixelTaps { pixel: row.place * self.output.width + col.place, cells, weights }
        });
        Some(SampleWise::new(sizes, pixels))
    }

    fn correlation(&self, rows: &AxisLayout, cols: &AxisLayout) -> Correlation {
        let pitch = cols.axis.cells;
        let counts = |axis: &AxisPlan| axis.phases.iter().map(|phase| phase.count).min().unwrap_or(1);
        let long_reads = (counts(&self.rows) - 1) * pitch + counts(&self.cols) >= MAX_LANES;
        let source = Source::new(self.input, rows.axis.clone(), cols.axis.clone(), long_reads);
        let phases = |axis: &'_ AxisPlan| (0..axis.phases.len()).collect::<Vec<_>>();
        let mut jobs = Vec::new();
        for i in phases(&self.rows) {
            for j in phases(&self.cols) {
                jobs.push(self.job(
                    &source,
                    (&self.rows.phases[i], &rows.taps[i]),
                    (&self.cols.phases[j], &cols.taps[j]),
                ));
            }
        }
        Correlation {
            source,
            jobs,
            input: self.input,
            output: self.output,
            groups: self.groups,
            channel_stride: self.channel_stride,
            group_stride: self.group_stride,
            sample_wise: None,
        }
    }

    fn job(&self, source: &Source, row: (&Phase, &[(usize, TapCell)]), col: (&Phase, &[(usize, TapCell)])) -> Job {
        let mut taps = Vec::new();
        for channel in 0..self.input.channels / self.groups {
            for &(k, row) in row.1 {
                for &(l, col) in col.1 {
                    taps.push(Tap {
                        offset: channel * source.channel_len() + source.offset(row, col),
                        weight: channel * self.sum_stride + k * self.kernel_width + l,
                    });
                }
            }
        }
        let width = self.output.width;
        let origin = row.0.origin * width + col.0.origin;
        let step = [self.rows.write_step * width, self.cols.write_step];
        Job::new(taps.into_iter(), [row.0.count, col.0.count], origin, step)
    }
}
