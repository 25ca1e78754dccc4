use std::ops::Range;

use faer::MatRef;

use super::layers::{Form, MatrixLayer};

/// Memory for the columns of some samples, used again and again.
#[derive(Debug, Default)]
pub(super) struct ColumnBuffer {
    columns: Vec<f32>,
    outputs: Vec<f32>,
}

/// Values of some samples before or after a layer, one sample after the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Samples<'a> {
    pub(super) values: &'a [f32],
    pub(super) count: usize,
}

impl<'a> Samples<'a> {
    fn of(&self, sample: usize) -> &'a [f32] {
        let len = self.values.len() / self.count.max(1);
        &self.values[sample * len..][..len]
    }
}

impl MatrixLayer {
    /// Columns that a sample gives.
    pub(super) fn positions(&self, input_len: usize) -> usize {
        match self.form {
            Form::Rows => input_len / self.inputs,
            Form::Conv { output, .. } => output[0] * output[1],
        }
    }

    /// Length of a column with its constant.
    pub(super) fn column_len(&self) -> usize {
        self.inputs + usize::from(self.has_constant())
    }

    /// Columns of one group, `column_len × positions` per sample, the last row constant, and outputs of the group beside them,
    /// `outputs × positions` per sample.
    pub(super) fn columns<'b>(
        &self,
        (inputs, outputs): (Samples<'_>, Samples<'_>),
        samples: Range<usize>,
        group: usize,
        buffer: &'b mut ColumnBuffer,
    ) -> (MatRef<'b, f32>, MatRef<'b, f32>) {
        let positions = self.positions(inputs.values.len() / inputs.count.max(1));
        let (count, len) = (samples.len() * positions, self.column_len());
        buffer.columns.resize(count * len, 0.0);
        buffer.outputs.resize(count * self.outputs, 0.0);
        let (columns, results) = (&mut buffer.columns[..count * len], &mut buffer.outputs[..count * self.outputs]);
        if let Form::Rows = self.form {
            for (place, sample) in samples.enumerate() {
                let own = &mut columns[place * positions * len..][..positions * len];
                for (column, row) in own.chunks_exact_mut(len).zip(inputs.of(sample).chunks_exact(self.inputs)) {
                    column[..self.inputs].copy_from_slice(row);
                    column[self.inputs..].fill(1.0);
                }
                let width = positions * self.outputs;
                results[place * width..][..width].copy_from_slice(outputs.of(sample));
            }
            return (
                MatRef::from_column_major_slice(columns, len, count),
                MatRef::from_column_major_slice(results, self.outputs, count),
            );
        }
        for (place, sample) in samples.enumerate() {
            for (row, taps) in columns.chunks_exact_mut(count).take(self.inputs).enumerate() {
                self.tap(inputs.of(sample), group, row, &mut taps[place * positions..][..positions]);
            }
            let own = outputs.of(sample);
            for (output, row) in results.chunks_exact_mut(count).enumerate() {
                let start = (group * self.outputs + output) * positions;
                row[place * positions..][..positions].copy_from_slice(&own[start..][..positions]);
            }
        }
        columns[self.inputs * count..].fill(1.0);
        (MatRef::from_row_major_slice(columns, len, count), MatRef::from_row_major_slice(results, self.outputs, count))
    }

    /// One entry of the columns of a convolution, at every output position of a sample.
    fn tap(&self, image: &[f32], group: usize, row: usize, into: &mut [f32]) {
        let Form::Conv { input: [channels, height, width], output, kernel, stride, padding, dilation } = self.form
        else {
            return;
        };
        let taps = kernel[0] * kernel[1];
        let (channel, tap) = (group * (channels / self.groups) + row / taps, row % taps);
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
