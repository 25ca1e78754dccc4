//! Logits and features of inputs in a file, into a file, batch by batch.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Instant;

use candle_core::{Device, Tensor};
use fbp_models::weights::{Format, StateDict};
use fbp_models::{ModelError, Network};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::TrainError;
use crate::atomic::NewFile;
use crate::metrics::{all_finite, argmax};
use crate::progress::Progress;

/// Key of the origin in the header of the file.
const ORIGIN: &str = "fbp.predict";
/// Name of the tensor that is read.
pub const INPUTS: &str = "inputs";
/// Most bytes of a header, as the format says.
const MOST_HEADER: u64 = 100_000_000;
/// Name of the tensor with the outputs.
pub const LOGITS: &str = "logits";

/// What to compute.
#[derive(Clone, Debug)]
pub struct PredictOptions {
    /// A safetensors file (or one of PyTorch's) with the tensor `inputs`, prepared as the network takes them: `[N, C, H, W]`,
    /// or one row for each input.
    pub inputs: PathBuf,
    /// Stages whose outputs are written as well, each as the tensor `features.STAGE`.
    pub features: Vec<String>,
    /// Inputs that are computed at a time, from 1.
    pub batch: usize,
    /// What the result depends on, in a form of the caller's: kept in the file, for [`is_result`].
    pub origin: Option<String>,
}

/// One tensor that was written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Predicted {
    /// Its name.
    pub tensor: String,
    /// Its sizes.
    pub shape: Vec<usize>,
}

/// What was computed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PredictRecord {
    /// Name of the network.
    pub model: String,
    /// Name of the file with the inputs.
    pub inputs: String,
    /// The tensors, in the order in which they lie in the file.
    pub tensors: Vec<Predicted>,
    /// Inputs of each class that the network decides for.
    pub decisions: Vec<usize>,
    /// Time that it took.
    pub seconds: f64,
}

/// A tensor of the output file.
struct Column {
    /// The stage whose output it is.
    stage: usize,
    name: String,
    shape: Vec<usize>,
    /// Bytes of one row, and where the first one is.
    row: usize,
    start: u64,
}

/// Writes logits and features of all inputs of a file; the output appears whole or not at all.
///
/// Neither the inputs nor the outputs are ever in memory as a whole, unless the inputs come in a file of PyTorch's.
///
/// # Errors
/// [`TrainError::Model`] for inputs that cannot be read or have another shape, and for an unknown stage;
/// [`TrainError::Parameter`] for a batch of 0 or a file without inputs; [`TrainError::NonFiniteOutput`]; [`TrainError::Write`].
pub fn predict(
    network: &Network,
    options: &PredictOptions,
    out: &Path,
    progress: &dyn Progress,
) -> Result<PredictRecord, TrainError> {
    let begun = Instant::now();
    if options.batch == 0 {
        return Err(TrainError::Parameter { name: "batch", value: "0".into(), range: "1 or more" });
    }
    let inputs = StateDict::open(&options.inputs)?;
    let file = || options.inputs.display().to_string();
    let Some(info) = inputs.tensors().get(INPUTS) else {
        let range = "the files with a tensor called inputs";
        return Err(TrainError::Parameter { name: INPUTS, value: file(), range });
    };
    let shape = info.shape.clone();
    let Some((&count, sample)) = shape.split_first().filter(|(count, _)| **count > 0) else {
        return Err(TrainError::Parameter { name: INPUTS, value: file(), range: "the files with at least one input" });
    };
    check_shape(network, &shape)?;
    let (header, columns) = layout(network, options, count)?;
    let whole = match inputs.format() {
        Format::Safetensors | Format::ShardedSafetensors => None,
        _ => Some(inputs.read(INPUTS)?),
    };
    let mut file = NewFile::create(out)?;
    file.write(&header)?;
    let len: usize = sample.iter().product();
    let mut decisions = vec![0; network.spec().classes];
    progress.begin("predicting", count, "inputs");
    for start in (0..count).step_by(options.batch) {
        let rows = start..count.min(start + options.batch);
        let values = match &whole {
            Some(values) => values[rows.start * len..rows.end * len].to_vec(),
            None => inputs.read_rows(INPUTS, rows.clone())?,
        };
        let dims: Vec<usize> = std::iter::once(rows.len()).chain(sample.iter().copied()).collect();
        let batch = Tensor::from_vec(values, dims, &Device::Cpu)?;
        write_batch(network, batch, &columns, start, &mut file, &mut decisions)?;
        progress.advance(rows.len());
    }
    progress.end();
    file.finish()?;
    Ok(PredictRecord {
        model: network.spec().name.clone(),
        inputs: options.inputs.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        tensors: columns.into_iter().map(|column| Predicted { tensor: column.name, shape: column.shape }).collect(),
        decisions,
        seconds: begun.elapsed().as_secs_f64(),
    })
}

/// Whether a file was written with this origin, by its header.
pub fn is_result(path: &Path, origin: &str) -> bool {
    let header = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let mut len = [0; 8];
        file.read_exact(&mut len)?;
        let mut text = Vec::new();
        file.take(u64::from_le_bytes(len).min(MOST_HEADER)).read_to_end(&mut text)?;
        Ok(text)
    };
    let parsed = header().ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok());
    parsed.is_some_and(|header| header["__metadata__"][ORIGIN] == origin)
}

/// Finds out before the work whether the network takes inputs of this shape.
fn check_shape(network: &Network, shape: &[usize]) -> Result<(), TrainError> {
    let [channels, height, width] = network.spec().input;
    let len = channels * height * width;
    if shape[1..] == [channels, height, width] || shape[1..] == [len] {
        return Ok(());
    }
    Err(ModelError::InputShape {
        what: "inputs".into(),
        expected: format!("images of {channels}×{height}×{width}"),
        found: shape.to_vec(),
    }
    .into())
}

/// The header of the file, and what comes where in it.
fn layout(network: &Network, options: &PredictOptions, count: usize) -> Result<(Vec<u8>, Vec<Column>), TrainError> {
    let mut wanted = vec![(network.stages().len() - 1, LOGITS.to_owned())];
    for name in &options.features {
        let stage = network.stage_index(name)?;
        let name = format!("features.{name}");
        if wanted.iter().all(|(_, other)| *other != name) {
            wanted.push((stage, name));
        }
    }
    let mut header = Map::new();
    if let Some(origin) = &options.origin {
        header.insert("__metadata__".into(), json!({ ORIGIN: origin }));
    }
    let mut columns = Vec::new();
    let mut end = 0;
    for (stage, name) in wanted {
        let output = network.stages()[stage].output();
        let (shape, row) = (output.tensor_dims(count), output.len() * size_of::<f32>());
        let start = end;
        end += row * count;
        header.insert(name.clone(), json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, end] }));
        columns.push(Column { stage, name, shape, row, start: start as u64 });
    }
    let mut text = Value::Object(header).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' '); // the data start aligned
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.append(&mut text);
    columns.iter_mut().for_each(|column| column.start += bytes.len() as u64);
    Ok((bytes, columns))
}

fn write_batch(
    network: &Network,
    batch: Tensor,
    columns: &[Column],
    first: usize,
    file: &mut NewFile,
    decisions: &mut [usize],
) -> Result<(), TrainError> {
    let mut feature = batch;
    for stage in 0..network.stages().len() {
        feature = network.infer_stages(stage..stage + 1, &feature)?;
        for column in columns.iter().filter(|column| column.stage == stage) {
            let values = feature.flatten_all()?.to_vec1::<f32>()?;
            if !all_finite(&values) {
                return Err(TrainError::NonFiniteOutput);
            }
            if column.name == LOGITS {
                for row in values.chunks_exact(network.spec().classes) {
                    decisions[argmax(row)] += 1;
                }
            }
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            file.write_at(column.start + (first * column.row) as u64, &bytes)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use fbp_models::zoo;

    use super::*;
    use crate::progress::Silent;

    fn folder_with_inputs(count: usize) -> (tempfile::TempDir, Tensor) {
        let folder = tempfile::tempdir().unwrap();
        let values: Vec<f32> = (0..count * 784).map(|k| ((k * 37) % 101) as f32 / 100.0).collect();
        let inputs = Tensor::from_vec(values, (count, 1, 28, 28), &Device::Cpu).unwrap();
        candle_core::safetensors::save(&HashMap::from([(INPUTS, inputs.clone())]), folder.path().join("x")).unwrap();
        (folder, inputs)
    }

    #[test]
    fn batches_of_any_size_give_the_features_of_the_network() {
        let (folder, inputs) = folder_with_inputs(7);
        let network = Network::new(&zoo::spec("simple-cnn-mnist-v2").unwrap(), 3).unwrap();
        let trace = network.forward_recorded(&inputs).unwrap();
        for batch in [1, 3, 100] {
            let features = vec!["conv2".to_owned(), "conv2".to_owned()];
            let origin = Some("mine".to_owned());
            let options = PredictOptions { inputs: folder.path().join("x"), features, batch, origin };
            let out = folder.path().join("y.safetensors");
            let record = predict(&network, &options, &out, &Silent).unwrap();
            assert_eq!(record.decisions.iter().sum::<usize>(), 7);
            let found = candle_core::safetensors::load(&out, &Device::Cpu).unwrap();
            assert_eq!(found.len(), 2);
            assert!(is_result(&out, "mine") && !is_result(&out, "other") && !is_result(&options.inputs, "mine"));
            let stage = network.stage_index("conv2").unwrap();
            for (name, expected) in [(LOGITS, trace.logits()), ("features.conv2", trace.stage_output(stage).unwrap())] {
                assert_eq!(found[name].dims(), expected.dims());
                let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                for (a, b) in values(&found[name]).iter().zip(values(expected)) {
                    // Another number of columns may add up in another order: at most 400 products and their rounding.
                    assert!((a - b).abs() <= 400.0 * f32::EPSILON * (1.0 + b.abs()), "{name}: {a} and {b}");
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_computed_leaves_no_file() {
        let (folder, _) = folder_with_inputs(2);
        let network = Network::new(&zoo::spec("simple-cnn-cifar-v1").unwrap(), 3).unwrap();
        let out = folder.path().join("y.safetensors");
        let options = PredictOptions { inputs: folder.path().join("x"), features: Vec::new(), batch: 4, origin: None };
        let text = |error: TrainError| error.to_string();
        assert!(text(predict(&network, &options, &out, &Silent).unwrap_err()).contains("3×32×32"));
        let network = Network::new(&zoo::spec("mlp").unwrap(), 3).unwrap();
        let unknown = PredictOptions { features: vec!["nonsense".into()], ..options.clone() };
        assert!(text(predict(&network, &unknown, &out, &Silent).unwrap_err()).contains("nonsense"));
        let none = PredictOptions { batch: 0, ..options };
        assert!(predict(&network, &none, &out, &Silent).is_err());
        assert!(!out.exists());
    }
}
