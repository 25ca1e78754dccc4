use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::ElementType;
use super::import::Provenance;
use super::matching::counters;
use crate::checkpoint::write_file;
use crate::ops::with_values;
use crate::{ModelError, Network};

/// How a network is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExportOptions {
    /// Put in front of every name what stood there in the file that the weights came from, `module.` for example. By
    /// default names are those of the network alone, as `load_state_dict` of the network takes them.
    pub original_prefix: bool,
}

/// One tensor of an exported file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Exported {
    /// Its name in the file.
    pub tensor: String,
    /// Type of its numbers.
    pub element: ElementType,
    /// Its sizes.
    pub shape: Vec<usize>,
}

/// What an exported file has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExportReport {
    /// Name of the network.
    pub network: String,
    /// Name of the file that the weights came from, if they were imported.
    pub imported_from: Option<String>,
    /// What stands before the names of the parameters.
    pub prefix: String,
    /// The tensors, in the order of the network; counters of batch normalisation at the end.
    pub exported: Vec<Exported>,
    /// Tensors that came with fewer bits and leave as `F32`, because a number in them has changed.
    pub widened: Vec<String>,
}

/// A file that is being put together.
struct Writer {
    prefix: String,
    header: Map<String, Value>,
    data: Vec<u8>,
    exported: Vec<Exported>,
}

impl Writer {
    /// Names the numbers that were appended to the data since `start`.
    fn name(&mut self, name: &str, element: ElementType, shape: Vec<usize>, start: usize) {
        let tensor = format!("{}{name}", self.prefix);
        let end = self.data.len();
        let entry = json!({ "dtype": element.to_string(), "shape": shape, "data_offsets": [start, end] });
        self.header.insert(tensor.clone(), entry);
        self.exported.push(Exported { tensor, element, shape });
    }

    fn finish(self) -> Vec<u8> {
        let mut header = Value::Object(self.header).to_string().into_bytes();
        header.resize(header.len().next_multiple_of(8), b' '); // the data start aligned
        [&(header.len() as u64).to_le_bytes()[..], &header, &self.data].concat()
    }
}

/// The bytes of a safetensors file with the state dict of a network, for callers that have their own way to write files.
///
/// `metadata` are those of the checkpoint that the network came from. With what [`Import::metadata`](super::Import::metadata)
/// put there, every tensor that has not changed leaves bit for bit as it came. A network that was not imported gets
/// counters of zero for batch normalisation, as a fresh one of PyTorch's has; one that was imported without counters gets
/// none, which `load_state_dict(strict=True)` accepts.
///
/// # Errors
/// [`WeightsFault::Provenance`](super::WeightsFault::Provenance) if those metadata cannot be read, with `path` as the file
/// that is named; [`ModelError::Tensor`] for a tensor that is not `f32` on the CPU.
pub fn export_bytes(
    path: &Path,
    network: &Network,
    metadata: &BTreeMap<String, String>,
    options: ExportOptions,
) -> Result<(Vec<u8>, ExportReport), ModelError> {
    let provenance = Provenance::of(metadata).map_err(|fault| fault.of(path))?;
    let prefix = match &provenance {
        Some(provenance) if options.original_prefix => provenance.prefix.clone(),
        _ => String::new(),
    };
    let header = Map::from_iter([("__metadata__".to_owned(), json!({ "format": "pt" }))]);
    let mut writer = Writer { prefix, header, data: Vec::new(), exported: Vec::new() };
    let (mut widened, mut names) = (Vec::new(), Vec::new());
    // Wider numbers first, so that every tensor starts where its type wants it.
    for size in [8, 4, 2] {
        for (name, var) in network.state() {
            let remembered = provenance.as_ref().and_then(|provenance| provenance.elements.get(&name).copied());
            let start = writer.data.len();
            let element = with_values("export", &var, |values| {
                let fits = |element: &ElementType| element.fits(values);
                let element = remembered.filter(fits).unwrap_or(ElementType::F32);
                if element.size() == Some(size) {
                    element.write(values, &mut writer.data);
                }
                Ok(element)
            })?;
            if element.size() == Some(size) {
                writer.name(&name, element, var.dims().to_vec(), start);
                if remembered.is_some_and(|remembered| remembered != element) {
                    widened.push(name.clone());
                }
                names.push(name);
            }
        }
        if size == 8 {
            write_counters(&mut writer, network, provenance.as_ref());
        }
    }
    let order: BTreeMap<String, usize> =
        network.state().enumerate().map(|(index, (name, _))| (format!("{}{name}", writer.prefix), index)).collect();
    let mut exported = std::mem::take(&mut writer.exported);
    exported.sort_by_key(|row| order.get(&row.tensor).copied().unwrap_or(usize::MAX));
    let report = ExportReport {
        network: network.spec().name.clone(),
        imported_from: provenance.map(|provenance| provenance.file),
        prefix: writer.prefix.clone(),
        exported,
        widened,
    };
    Ok((writer.finish(), report))
}

fn write_counters(writer: &mut Writer, network: &Network, provenance: Option<&Provenance>) {
    let names: Vec<String> = network.state().map(|(name, _)| name).collect();
    for counter in counters(names.iter().map(String::as_str)) {
        let value = match provenance {
            Some(provenance) => provenance.counters.get(&counter).copied(),
            None => Some(0),
        };
        if let Some(value) = value {
            let start = writer.data.len();
            writer.data.extend(value.to_le_bytes());
            writer.name(&counter, ElementType::I64, Vec::new(), start);
        }
    }
}

/// Writes the state dict of a network as a safetensors file, whole or not at all; an existing file is replaced.
///
/// In Python, `model.load_state_dict(safetensors.torch.load_file(path))` takes it. See [`export_bytes`] for what becomes of
/// numbers that came with another type.
///
/// # Errors
/// As [`export_bytes`], and [`ModelError::Io`] if the file cannot be written.
pub fn export(
    path: &Path,
    network: &Network,
    metadata: &BTreeMap<String, String>,
    options: ExportOptions,
) -> Result<ExportReport, ModelError> {
    let (bytes, report) = export_bytes(path, network, metadata, options)?;
    write_file(path, &bytes)?;
    Ok(report)
}
