use crate::FeatureShape;
use crate::conv2d::Conv2dGeometry;

/// An input that no output depends on, or an output that depends on no input.
pub(crate) const NOWHERE: u32 = u32::MAX;

/// One axis of the circular form: `N` cells, and where pixels and taps lie among them.
///
/// A padded pixel `i + p = s·q + φ` is cell `q` of phase `φ`; a tap `k·d = s·q' + φ'` reads cell `j + q'` of phase `φ'`
/// for output `j`. `N` is the smallest period for which no tap wraps around to an existing cell.
#[derive(Clone, Debug)]
struct Axis {
    cells: usize,
    /// Cells that an output reads.
    reach: usize,
    /// Phases that some tap reads, in ascending order.
    phases: Vec<usize>,
    stride: usize,
    padding: usize,
    dilation: usize,
    /// Whether some output reads the pixel.
    read: Vec<bool>,
    /// Whether the output reads some pixel.
    fed: Vec<bool>,
}

impl Axis {
    fn new(g: &Conv2dGeometry, axis: usize, (size, out): (usize, usize)) -> Self {
        let (stride, padding) = (g.stride()[axis], g.padding()[axis]);
        let (dilation, kernel) = (g.dilation()[axis], g.kernel()[axis]);
        let reach = (kernel - 1) * dilation / stride + 1;
        let (first, last) = (padding / stride, (padding + size - 1) / stride);
        let cells = out.max(last + 1).max((out + reach - 1).saturating_sub(first));
        let mut phases: Vec<_> = (0..kernel).map(|k| k * dilation % stride).collect();
        phases.sort_unstable();
        phases.dedup();
        let (mut read, mut fed) = (vec![false; size], vec![false; out]);
        for (j, k) in (0..out).flat_map(|j| (0..kernel).map(move |k| (j, k))) {
            if let Some(i) = (j * stride + k * dilation).checked_sub(padding).filter(|i| *i < size) {
                (read[i], fed[j]) = (true, true);
            }
        }
        Self { cells, reach, phases, stride, padding, dilation, read, fed }
    }

    /// Index of the phase and cell of a pixel, if an output reads it.
    fn pixel(&self, i: usize) -> Option<(usize, usize)> {
        if !self.read[i] {
            return None;
        }
        let padded = i + self.padding;
        let phase = self.phases.binary_search(&(padded % self.stride)).ok()?;
        Some((phase, padded / self.stride))
    }

    /// Index of the phase and the cell of the circular kernel of a tap.
    fn tap(&self, k: usize) -> (usize, usize) {
        let at = k * self.dilation;
        let phase = self.phases.binary_search(&(at % self.stride)).unwrap_or(0);
        (phase, (self.cells - at / self.stride % self.cells) % self.cells)
    }
}

fn axes(g: &Conv2dGeometry) -> [Axis; 2] {
    let (shape, out) = (g.in_shape(), g.out_shape());
    [Axis::new(g, 0, (shape.height, out.height)), Axis::new(g, 1, (shape.width, out.width))]
}

/// Rows and columns of a grid.
fn sides([rows, cols]: &[Axis; 2], turned: bool) -> [usize; 2] {
    if turned { [cols.cells, rows.cells] } else { [rows.cells, cols.cells] }
}

/// The cell that belongs to a row and a column of the image.
fn cell([rows, cols]: &[Axis; 2], turned: bool, [qh, qw]: [usize; 2]) -> usize {
    if turned { qw * rows.cells + qh } else { qh * cols.cells + qw }
}

/// Which side of a convolution a field lives on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The input of the convolution.
    Input,
    /// Its output.
    Output,
}

/// The other field.
pub(crate) fn opposite(end: End) -> End {
    match end {
        End::Input => End::Output,
        End::Output => End::Input,
    }
}

/// Where the entries of one group of a feature lie on the periodic grid.
#[derive(Clone, Debug)]
pub(crate) struct Sites {
    /// Planes of the grid: channels times phases.
    pub(crate) planes: usize,
    /// Index `plane·cells + cell` of every entry, or [`NOWHERE`].
    pub(crate) index: Vec<u32>,
    /// Indices that belong to no entry, in ascending order.
    pub(crate) missing: Vec<u32>,
    /// Rows of the grid whose cells are all missing, as `plane·rows + row`, in ascending order.
    pub(crate) lines: Vec<u32>,
    /// Missing indices that lie in none of these rows, in ascending order.
    pub(crate) others: Vec<u32>,
}

impl Sites {
    fn new(planes: usize, [rows, cols]: [usize; 2], index: Vec<u32>) -> Self {
        let mut taken = vec![false; planes * rows * cols];
        for &at in index.iter().filter(|&&at| at != NOWHERE) {
            taken[at as usize] = true;
        }
        let missing: Vec<u32> = (0..taken.len()).filter(|&at| !taken[at]).map(|at| at as u32).collect();
        let empty: Vec<bool> = taken.chunks_exact(cols).map(|row| !row.contains(&true)).collect();
        let lines = (0..empty.len()).filter(|&line| empty[line]).map(|line| line as u32).collect();
        let others = missing.iter().copied().filter(|&at| !empty[at as usize / cols]).collect();
        Self { planes, index, missing, lines, others }
    }

    /// Whether every entry takes part in the convolution.
    pub(crate) fn all_used(&self) -> bool {
        !self.index.contains(&NOWHERE)
    }

    /// Entries of one group.
    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }
}

/// The circular normal form of one group of a convolution: `A = R_O C R_Iᵀ` with `C` circulant.
///
/// It is turned where fewer sites are missing outside whole rows then.
///
/// # Source
/// Own derivation: polyphase decomposition of the stride, then the smallest period without wrap-around.
#[derive(Clone, Debug)]
pub(crate) struct Grid {
    axes: [Axis; 2],
    /// Whether rows of the grid are columns of the image.
    turned: bool,
    pub(crate) input: Sites,
    pub(crate) output: Sites,
    kernel: [usize; 2],
    in_channels: usize,
}

impl Grid {
    pub(crate) fn new(g: &Conv2dGeometry) -> Self {
        let (plain, turned) = (Self::oriented(g, false), Self::oriented(g, true));
        if turned.boundary() < plain.boundary() { turned } else { plain }
    }

    /// Entries of the larger one of the two fields of a group.
    pub(crate) fn entries(g: &Conv2dGeometry) -> usize {
        let [rows, cols] = axes(g);
        let planes = g.out_channels_per_group().max(g.in_channels_per_group() * rows.phases.len() * cols.phases.len());
        planes * rows.cells * cols.cells
    }

    fn oriented(g: &Conv2dGeometry, turned: bool) -> Self {
        let (shape, out) = (g.in_shape(), g.out_shape());
        let axes = axes(g);
        let [rows, cols] = &axes;
        let size = sides(&axes, turned);
        let cell = |q| cell(&axes, turned, q);
        let cells = rows.cells * cols.cells;
        let phases = rows.phases.len() * cols.phases.len();
        let (ci, co) = (g.in_channels_per_group(), g.out_channels_per_group());
        let entry = |at: usize| u32::try_from(at).expect("fewer than 2^32 entries: checked by `ConvSystem::check`");
        let each = |channels: usize, shape: FeatureShape| {
            (0..channels * shape.plane())
                .map(move |at| (at / shape.plane(), at % shape.plane() / shape.width, at % shape.width))
        };
        let input = each(ci, shape).map(|(c, i, j)| match (rows.pixel(i), cols.pixel(j)) {
            (Some((ph, qh)), Some((pw, qw))) => {
                let plane = c * phases + ph * cols.phases.len() + pw;
                entry(plane * cells + cell([qh, qw]))
            }
            _ => NOWHERE,
        });
        let output = each(co, out)
            .map(|(o, i, j)| if rows.fed[i] && cols.fed[j] { entry(o * cells + cell([i, j])) } else { NOWHERE });
        let (input, output) = (input.collect(), output.collect());
        Self {
            input: Sites::new(ci * phases, size, input),
            output: Sites::new(co, size, output),
            axes,
            turned,
            kernel: g.kernel(),
            in_channels: ci,
        }
    }

    /// Rows and columns of the grid.
    pub(crate) fn size(&self) -> [usize; 2] {
        sides(&self.axes, self.turned)
    }

    pub(crate) fn cells(&self) -> usize {
        self.axes[0].cells * self.axes[1].cells
    }

    /// Rows and columns of cells that an output reads.
    pub(crate) fn reach(&self) -> [usize; 2] {
        let [rows, cols] = &self.axes;
        if self.turned { [cols.reach, rows.reach] } else { [rows.reach, cols.reach] }
    }

    pub(crate) fn sites(&self, end: End) -> &Sites {
        match end {
            End::Input => &self.input,
            End::Output => &self.output,
        }
    }

    /// Missing sites.
    pub(crate) fn missing(&self) -> usize {
        self.input.missing.len() + self.output.missing.len()
    }

    /// Order of the boundary system that is left when whole missing rows are eliminated by frequency.
    pub(crate) fn boundary(&self) -> usize {
        self.input.others.len() + self.output.others.len()
    }

    /// Whole missing rows.
    pub(crate) fn lines(&self) -> usize {
        self.input.lines.len() + self.output.lines.len()
    }

    /// Flop of eliminating the whole missing rows of one group.
    pub(crate) fn elimination_flops(&self) -> f64 {
        let [_, cols] = self.size();
        let touched = |sites: &Sites| {
            let mut rows: Vec<_> = sites.others.iter().map(|at| *at as usize / cols).collect();
            rows.dedup();
            rows.len() as f64
        };
        let (lines, rows) = (self.lines() as f64, touched(&self.input) + touched(&self.output));
        // An inverse and two products for every frequency.
        (cols / 2 + 1) as f64 * 8.0 * lines * (2.0 * lines * lines + lines * rows + rows * rows)
    }

    /// Writes the circular kernel from input plane to output channel `o` of a group with these weights
    /// (`[out, in, kh, kw]` of the group), one plane of cells after the other.
    pub(crate) fn kernel_planes(&self, weight: &[f64], o: usize, planes: &mut [f64]) {
        let [kh, kw] = self.kernel;
        let cells = self.cells();
        let [rows, cols] = &self.axes;
        let phases = rows.phases.len() * cols.phases.len();
        planes.fill(0.0);
        for (index, w) in weight[o * self.in_channels * kh * kw..][..self.in_channels * kh * kw].iter().enumerate() {
            let (c, k, l) = (index / (kh * kw), index / kw % kh, index % kw);
            let ((ph, qh), (pw, qw)) = (rows.tap(k), cols.tap(l));
            let plane = c * phases + ph * cols.phases.len() + pw;
            planes[plane * cells + cell(&self.axes, self.turned, [qh, qw])] += w;
        }
    }
}
