use fbp_linalg::conv2d::{Conv2dGeometry, Conv2dParams};
use fbp_linalg::{FeatureShape, LinalgError};

/// Description of a transposed convolution, before it is checked: a layer from `input` to images about `stride` times as
/// large, the adjoint of a convolution the other way round.
///
/// | field | default | range |
/// |---|---|---|
/// | `input` | given | every size at least 1 |
/// | `out_channels` | given | at least 1, a multiple of `groups` |
/// | `kernel` | given | at least 1 |
/// | `stride` | `[1, 1]` | at least 1 |
/// | `padding` | `[0, 0]` | rows and columns cut off on each side of the output |
/// | `output_padding` | `[0, 0]` | rows and columns added on the far side of the output; less than `stride` |
/// | `dilation` | `[1, 1]` | at least 1 |
/// | `groups` | 1 | at least 1; divides both numbers of channels |
///
/// Pairs are `[height, width]`; the output has `(in - 1)·stride - 2·padding + dilation·(kernel - 1) + output_padding + 1`
/// rows, as in PyTorch.
///
/// ```
/// use fbp_inverse::ConvTranspose2dParams;
/// use fbp_linalg::FeatureShape;
///
/// let params = ConvTranspose2dParams::new(FeatureShape::image(8, 7, 7), 4, [3, 3]).stride([2, 2]).padding([1, 1]);
/// // The geometry is that of the convolution that the layer transposes.
/// assert_eq!(params.check()?.in_shape(), FeatureShape::image(4, 13, 13));
/// assert_eq!(params.output_padding([1, 1]).check()?.in_shape(), FeatureShape::image(4, 14, 14));
/// assert!(params.output_padding([2, 2]).check().is_err());
/// # Ok::<(), fbp_linalg::LinalgError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConvTranspose2dParams {
    input: FeatureShape,
    out_channels: usize,
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
    output_padding: [usize; 2],
    dilation: [usize; 2],
    groups: usize,
}

impl ConvTranspose2dParams {
    /// A transposed convolution with stride 1, no padding, no dilation and one group.
    #[must_use]
    pub const fn new(input: FeatureShape, out_channels: usize, kernel: [usize; 2]) -> Self {
        let (one, zero) = ([1, 1], [0, 0]);
        Self { input, out_channels, kernel, stride: one, padding: zero, output_padding: zero, dilation: one, groups: 1 }
    }

    /// Distance in the output of what two neighbouring inputs write.
    #[must_use]
    pub const fn stride(self, stride: [usize; 2]) -> Self {
        Self { stride, ..self }
    }

    /// Rows and columns cut off on each side of the output.
    #[must_use]
    pub const fn padding(self, padding: [usize; 2]) -> Self {
        Self { padding, ..self }
    }

    /// Rows and columns added on the far side of the output.
    #[must_use]
    pub const fn output_padding(self, output_padding: [usize; 2]) -> Self {
        Self { output_padding, ..self }
    }

    /// Distance between two taps of the kernel.
    #[must_use]
    pub const fn dilation(self, dilation: [usize; 2]) -> Self {
        Self { dilation, ..self }
    }

    /// Number of independent groups of channels.
    #[must_use]
    pub const fn groups(self, groups: usize) -> Self {
        Self { groups, ..self }
    }

    /// The geometry of the convolution that this layer transposes: its input is the layer's output.
    ///
    /// # Errors
    /// [`LinalgError::Geometry`] that says what is wrong.
    pub fn check(self) -> Result<Conv2dGeometry, LinalgError> {
        let out = |axis: usize, size: usize| -> Result<usize, LinalgError> {
            let (kernel, stride, dilation) = (self.kernel[axis], self.stride[axis], self.dilation[axis]);
            let name = ["height", "width"][axis];
            if size == 0 || kernel == 0 || stride == 0 || dilation == 0 {
                return Err(error(format!("input, kernel, stride and dilation must be at least 1, in {name} too")));
            }
            if self.output_padding[axis] >= stride {
                let (found, stride) = (self.output_padding[axis], self.stride[axis]);
                return Err(error(format!("output padding {found} must be less than the stride, {stride}")));
            }
            let span = (size - 1).checked_mul(stride).zip((kernel - 1).checked_mul(dilation));
            let whole =
                span.and_then(|(a, b)| a.checked_add(b)?.checked_add(self.output_padding[axis])?.checked_add(1));
            let cut = self.padding[axis].checked_mul(2);
            let (Some(whole), Some(cut)) = (whole, cut) else {
                return Err(error(format!("the output {name} overflows")));
            };
            match whole.checked_sub(cut) {
                Some(out @ 1..) => Ok(out),
                _ => Err(error(format!("padding {} cuts off the whole output {name}, {whole}", self.padding[axis]))),
            }
        };
        let (height, width) = (out(0, self.input.height)?, out(1, self.input.width)?);
        let output = FeatureShape::image(self.out_channels, height, width);
        let convolution = Conv2dParams::new(output, self.input.channels, self.kernel).stride(self.stride);
        let geometry = convolution.padding(self.padding).dilation(self.dilation).groups(self.groups).check()?;
        if geometry.out_shape() != self.input {
            let found = geometry.out_shape();
            return Err(error(format!("takes {found}, not {}", self.input)));
        }
        Ok(geometry)
    }
}

/// Description of a convolution in one dimension, or of a transposed one: a layer on images of height 1.
///
/// | field | default | range |
/// |---|---|---|
/// | `channels`, `len`, `out_channels`, `kernel` | given | at least 1 |
/// | `stride`, `dilation` | 1 | at least 1 |
/// | `padding` | 0 | any; the same at both ends |
/// | `output_padding` | 0 | for transposed layers: less than `stride` |
/// | `groups` | 1 | at least 1; divides both numbers of channels |
///
/// ```
/// use fbp_inverse::Conv1dParams;
/// use fbp_linalg::FeatureShape;
///
/// let line = Conv1dParams { stride: 2, padding: 1, ..Conv1dParams::new(2, 9, 3, 3) };
/// assert_eq!(line.check()?.out_shape(), FeatureShape::image(3, 1, 5));
/// assert_eq!(line.check_transposed()?.in_shape(), FeatureShape::image(3, 1, 17));
/// # Ok::<(), fbp_linalg::LinalgError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conv1dParams {
    /// Channels of the input.
    pub channels: usize,
    /// Length of the input.
    pub len: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Length of the kernel.
    pub kernel: usize,
    /// Distance between two positions of the kernel.
    pub stride: usize,
    /// Zeros at each end of the input; cut off each end of the output of a transposed layer.
    pub padding: usize,
    /// Entries added at the far end of the output of a transposed layer.
    pub output_padding: usize,
    /// Distance between two taps of the kernel.
    pub dilation: usize,
    /// Number of independent groups of channels.
    pub groups: usize,
}

impl Conv1dParams {
    /// A convolution with stride 1, no padding, no dilation and one group.
    #[must_use]
    pub const fn new(channels: usize, len: usize, out_channels: usize, kernel: usize) -> Self {
        Self { channels, len, out_channels, kernel, stride: 1, padding: 0, output_padding: 0, dilation: 1, groups: 1 }
    }

    /// The geometry of the convolution, for [`Conv2dReverse::new`](super::Conv2dReverse::new).
    ///
    /// # Errors
    /// [`LinalgError::Geometry`] that says what is wrong.
    pub fn check(self) -> Result<Conv2dGeometry, LinalgError> {
        if self.output_padding != 0 {
            return Err(error(format!("output padding {} of a layer that is not transposed", self.output_padding)));
        }
        let input = FeatureShape::image(self.channels, 1, self.len);
        let params = Conv2dParams::new(input, self.out_channels, [1, self.kernel]).stride([1, self.stride]);
        params.padding([0, self.padding]).dilation([1, self.dilation]).groups(self.groups).check()
    }

    /// The geometry of the convolution that the layer transposes, for
    /// [`Conv2dReverse::transposed`](super::Conv2dReverse::transposed).
    ///
    /// # Errors
    /// [`LinalgError::Geometry`] that says what is wrong.
    pub fn check_transposed(self) -> Result<Conv2dGeometry, LinalgError> {
        let input = FeatureShape::image(self.channels, 1, self.len);
        let params = ConvTranspose2dParams::new(input, self.out_channels, [1, self.kernel]).stride([1, self.stride]);
        let params = params.padding([0, self.padding]).output_padding([0, self.output_padding]);
        params.dilation([1, self.dilation]).groups(self.groups).check()
    }
}

fn error(reason: String) -> LinalgError {
    LinalgError::Geometry { what: "conv_transpose", reason }
}
