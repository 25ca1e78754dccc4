use crate::{FeatureShape, LinalgError};

/// Description of a convolution, before it is checked.
///
/// | Field | Default | Range |
/// |---|---|---|
/// | `input` | given | every size at least 1 |
/// | `out_channels` | given | at least 1, a multiple of `groups` |
/// | `kernel` | given | at least 1; `(kernel - 1)·dilation + 1` at most the padded input |
/// | `stride` | `[1, 1]` | at least 1 |
/// | `padding` | `[0, 0]` | any; the same on both sides |
/// | `dilation` | `[1, 1]` | at least 1 |
/// | `groups` | 1 | at least 1; divides both numbers of channels |
///
/// Pairs are `[height, width]`.
///
/// ```
/// use fbp_linalg::{FeatureShape, conv2d::Conv2dParams};
/// let geometry = Conv2dParams::new(FeatureShape::image(1, 28, 28), 3, [5, 5]).check()?;
/// assert_eq!(geometry.out_shape(), FeatureShape::image(3, 24, 24));
/// assert!(Conv2dParams::new(FeatureShape::image(1, 4, 4), 3, [5, 5]).check().is_err());
/// # Ok::<(), fbp_linalg::LinalgError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conv2dParams {
    input: FeatureShape,
    out_channels: usize,
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
    dilation: [usize; 2],
    groups: usize,
}

impl Conv2dParams {
    /// A convolution with stride 1, no padding, no dilation and one group.
    #[must_use]
    pub const fn new(input: FeatureShape, out_channels: usize, kernel: [usize; 2]) -> Self {
        Self { input, out_channels, kernel, stride: [1, 1], padding: [0, 0], dilation: [1, 1], groups: 1 }
    }

    /// Distance between two positions of the kernel, in pixels of the input.
    #[must_use]
    pub const fn stride(self, stride: [usize; 2]) -> Self {
        Self { stride, ..self }
    }

    /// Rows and columns of zeros on each side of the input.
    #[must_use]
    pub const fn padding(self, padding: [usize; 2]) -> Self {
        Self { padding, ..self }
    }

    /// Distance between two taps of the kernel, in pixels of the input.
    #[must_use]
    pub const fn dilation(self, dilation: [usize; 2]) -> Self {
        Self { dilation, ..self }
    }

    /// Number of independent groups of channels; equal to the number of input channels for a depthwise convolution.
    #[must_use]
    pub const fn groups(self, groups: usize) -> Self {
        Self { groups, ..self }
    }

    /// Checks every field against the table above.
    ///
    /// # Errors
    /// [`LinalgError::Geometry`] that says what is wrong, also if a size does not fit the address space.
    pub fn check(self) -> Result<Conv2dGeometry, LinalgError> {
        let FeatureShape { channels, height, width } = self.input;
        for (name, value) in [
            ("input channels", channels),
            ("input height", height),
            ("input width", width),
            ("output channels", self.out_channels),
            ("kernel height", self.kernel[0]),
            ("kernel width", self.kernel[1]),
            ("vertical stride", self.stride[0]),
            ("horizontal stride", self.stride[1]),
            ("vertical dilation", self.dilation[0]),
            ("horizontal dilation", self.dilation[1]),
            ("number of groups", self.groups),
        ] {
            if value == 0 {
                return Err(geometry_error(format!("{name} is 0")));
            }
        }
        for (name, value) in [("input", channels), ("output", self.out_channels)] {
            if value % self.groups != 0 {
                return Err(geometry_error(format!(
                    "{value} {name} channels do not divide into {} groups",
                    self.groups
                )));
            }
        }
        let out = [self.out_size(0, "height", height)?, self.out_size(1, "width", width)?];
        let geometry = Conv2dGeometry { params: self, output: FeatureShape::image(self.out_channels, out[0], out[1]) };
        geometry.check_sizes()?;
        Ok(geometry)
    }

    fn out_size(&self, axis: usize, name: &str, size: usize) -> Result<usize, LinalgError> {
        let too_large = || geometry_error(format!("padded input or dilated kernel {name} overflows"));
        let padded = self.padding[axis].checked_mul(2).and_then(|pad| pad.checked_add(size)).ok_or_else(too_large)?;
        let span = (self.kernel[axis] - 1).checked_mul(self.dilation[axis]).ok_or_else(too_large)?;
        let room = padded.checked_sub(1).and_then(|last| last.checked_sub(span));
        room.map(|room| room / self.stride[axis] + 1).ok_or_else(|| {
            let kernel = span.saturating_add(1);
            geometry_error(format!("kernel {name} {kernel} (with dilation) exceeds padded input {name} {padded}"))
        })
    }
}

fn geometry_error(reason: String) -> LinalgError {
    LinalgError::Geometry { what: "conv2d", reason }
}

/// A convolution that has been checked: every size is positive, and the output exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conv2dGeometry {
    params: Conv2dParams,
    output: FeatureShape,
}

impl Conv2dGeometry {
    /// Shape of one input feature.
    pub const fn in_shape(&self) -> FeatureShape {
        self.params.input
    }

    /// Shape of one output feature.
    pub const fn out_shape(&self) -> FeatureShape {
        self.output
    }

    /// Size of the kernel, `[height, width]`.
    pub const fn kernel(&self) -> [usize; 2] {
        self.params.kernel
    }

    /// Distance between two positions of the kernel.
    pub const fn stride(&self) -> [usize; 2] {
        self.params.stride
    }

    /// Rows and columns of zeros on each side of the input.
    pub const fn padding(&self) -> [usize; 2] {
        self.params.padding
    }

    /// Distance between two taps of the kernel.
    pub const fn dilation(&self) -> [usize; 2] {
        self.params.dilation
    }

    /// Number of groups of channels.
    pub const fn groups(&self) -> usize {
        self.params.groups
    }

    /// Input channels of one group.
    pub const fn in_channels_per_group(&self) -> usize {
        self.params.input.channels / self.params.groups
    }

    /// Output channels of one group.
    pub const fn out_channels_per_group(&self) -> usize {
        self.params.out_channels / self.params.groups
    }

    /// Shape `[out_channels, in_channels / groups, kernel height, kernel width]` of the weights.
    pub const fn weight_shape(&self) -> [usize; 4] {
        let [kh, kw] = self.params.kernel;
        [self.params.out_channels, self.in_channels_per_group(), kh, kw]
    }

    /// Number of weights.
    pub const fn weight_len(&self) -> usize {
        let [co, ci, kh, kw] = self.weight_shape();
        co * ci * kh * kw
    }

    /// Number of entries of one input feature.
    pub const fn in_len(&self) -> usize {
        self.params.input.len()
    }

    /// Number of entries of one output feature.
    pub const fn out_len(&self) -> usize {
        self.output.len()
    }

    /// Multiplications and additions of one pass over `batch` samples, forward or either gradient, in flop.
    ///
    /// Taps that fall on the padding are counted, as is usual.
    pub const fn flops(&self, batch: usize) -> u64 {
        let [_, ci, kh, kw] = self.weight_shape();
        2 * batch as u64 * self.out_len() as u64 * (ci * kh * kw) as u64
    }

    /// Everything that the kernels multiply later fits a quarter of the address space.
    fn check_sizes(&self) -> Result<(), LinalgError> {
        let padded = |axis: usize, size: usize| {
            let span = (self.params.kernel[axis] - 1) * self.params.dilation[axis];
            size.checked_add(2 * self.params.padding[axis])?
                .checked_add(2 * span)?
                .checked_add(self.params.stride[axis])
        };
        let product = |sizes: &[Option<usize>]| {
            let bytes = sizes.iter().try_fold(size_of::<f64>(), |acc, size| acc.checked_mul((*size)?));
            bytes.is_some_and(|bytes| bytes <= isize::MAX as usize / 4)
        };
        let FeatureShape { channels, height, width } = self.params.input;
        let [co, ci, kh, kw] = self.weight_shape();
        let out = self.output;
        let fits = product(&[Some(channels), padded(0, height), padded(1, width)])
            && product(&[Some(co), padded(0, out.height), padded(1, out.width)])
            && product(&[Some(co), Some(ci), Some(kh), Some(kw)]);
        if fits { Ok(()) } else { Err(geometry_error("the sizes exceed the address space".into())) }
    }
}
