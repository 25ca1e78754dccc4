use fbp_models::LayerSpec;
use fbp_models::spec::{LayerPlan, Padding};

/// Which pixels of an image the outputs of a convolution are made of: a matrix with a row for every tap of every channel and a column
/// for every output position.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Patches {
    /// Channels, height and width.
    pub(crate) input: [usize; 3],
    /// Height and width.
    pub(crate) output: [usize; 2],
    pub(crate) kernel: [usize; 2],
    pub(crate) stride: [usize; 2],
    pub(crate) padding: [usize; 2],
    pub(crate) dilation: [usize; 2],
}

impl Patches {
    /// Those of a planned layer, if it is a convolution.
    pub(crate) fn of(plan: &LayerPlan) -> Option<Self> {
        let LayerSpec::Conv2d { kernel, stride, padding, dilation, .. } = plan.spec else { return None };
        let (input, output) = (plan.input.shape, plan.output.shape);
        Some(Self {
            input: [input.channels, input.height, input.width],
            output: [output.height, output.width],
            kernel: kernel.dims(),
            stride: stride.dims(),
            // A planned convolution has the same padding on both sides.
            padding: match padding {
                Padding::Sides { top, left, .. } => [top, left],
                Padding::Same => [0, 0],
            },
            dilation: dilation.dims(),
        })
    }

    /// Entries of a patch in one channel.
    pub(crate) fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Output positions.
    pub(crate) fn positions(&self) -> usize {
        self.output[0] * self.output[1]
    }

    /// Row number `row` of the channels from `first_channel` on, at every output position; what lies outside the image is 0.
    pub(crate) fn row(&self, image: &[f32], first_channel: usize, row: usize, into: &mut [f32]) {
        let Self { input: [_, height, width], output, kernel, stride, padding, dilation } = *self;
        let taps = self.taps();
        let (channel, tap) = (first_channel + row / taps, row % taps);
        let (ky, kx) = (tap / kernel[1] * dilation[0], tap % kernel[1] * dilation[1]);
        let plane = &image[channel * height * width..][..height * width];
        for (oy, line) in into.chunks_exact_mut(output[1]).enumerate() {
            let Some(y) = (oy * stride[0] + ky).checked_sub(padding[0]).filter(|&y| y < height) else {
                line.fill(0.0);
                continue;
            };
            let source = &plane[y * width..][..width];
            // Output columns whose input column lies within the image.
            let first = padding[1].saturating_sub(kx).div_ceil(stride[1]).min(output[1]);
            let last = (width + padding[1]).saturating_sub(kx).div_ceil(stride[1]).clamp(first, output[1]);
            line[..first].fill(0.0);
            line[last..].fill(0.0);
            if first == last {
                continue;
            }
            let start = first * stride[1] + kx - padding[1];
            if stride[1] == 1 {
                line[first..last].copy_from_slice(&source[start..][..last - first]);
            } else {
                let strided = source[start..].iter().step_by(stride[1]);
                line[first..last].iter_mut().zip(strided).for_each(|(to, from)| *to = *from);
            }
        }
    }
}
