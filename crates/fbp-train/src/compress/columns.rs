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
            Form::Conv(patches) => patches.positions(),
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
        let Form::Conv(patches) = self.form else {
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
        };
        let first_channel = group * (patches.input[0] / self.groups);
        for (place, sample) in samples.enumerate() {
            for (row, taps) in columns.chunks_exact_mut(count).take(self.inputs).enumerate() {
                patches.row(inputs.of(sample), first_channel, row, &mut taps[place * positions..][..positions]);
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
}
