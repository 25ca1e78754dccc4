use std::collections::{BTreeMap, HashMap};

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::matching::{Matching, Wanted, layer_of};
use super::{ElementType, Format, IMPORT_KEY, StateDict, WeightsFault};
use crate::spec::ParamPlan;
use crate::{ModelError, Network, NetworkSpec};

/// Where the last layer with parameters gets its numbers from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Head {
    /// From the file, as all others.
    #[default]
    FromFile,
    /// From a seeded generator, as [`Network::new`] would give them, for another number of classes above all. Whatever the
    /// file has for this layer is not read.
    New {
        /// Seed of the generator.
        seed: u64,
    },
}

/// How weights are looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportOptions {
    /// What stands before the names of the parameters in the file. By default the usual wrappers are tried: `state_dict`,
    /// `model`, `module`, `teacher`, `backbone` and others, also within each other.
    pub prefix: Option<String>,
    /// The last layer.
    pub head: Head,
}

/// A network with the weights of a file.
#[derive(Debug)]
pub struct Import {
    /// The network.
    pub network: Network,
    /// What went where.
    pub report: ImportReport,
    /// What the way back needs to know; see [`metadata`](Self::metadata).
    provenance: Provenance,
}

/// One parameter and the tensor that it came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Imported {
    /// Path of the parameter.
    pub parameter: String,
    /// Name of the tensor in the file.
    pub tensor: String,
    /// Type of its numbers in the file.
    pub element: ElementType,
    /// Its sizes.
    pub shape: Vec<usize>,
    /// Whether numbers had to be rounded.
    pub rounded: bool,
}

/// What went where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ImportReport {
    /// Name of the network.
    pub network: String,
    /// Name of the file.
    pub file: String,
    /// Kind of the file.
    pub format: Format,
    /// What stands before the names of the parameters in the file.
    pub prefix: String,
    /// Whether the prefix was found, or given.
    pub prefix_found: bool,
    /// Other prefixes under which as many parameters are.
    pub prefixes_as_good: Vec<String>,
    /// The parameters, in the order of the network.
    pub imported: Vec<Imported>,
    /// Counters of batch normalisation.
    pub counters: usize,
    /// Parameters that start afresh.
    pub fresh: Vec<String>,
    /// Tensors of the old head that were not read.
    pub replaced: Vec<String>,
    /// Number of tensors elsewhere in the file, not below the prefix.
    pub elsewhere: usize,
    /// Numbers in all imported parameters.
    pub numbers: usize,
}

/// What a checkpoint remembers of the file that its weights came from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Provenance {
    /// Name of the file.
    pub(super) file: String,
    /// What stood before the names of the parameters.
    pub(super) prefix: String,
    /// Counters of batch normalisation that were in the file.
    pub(super) counters: BTreeMap<String, i64>,
    /// Types of the tensors that were not `F32` and could be taken without rounding.
    pub(super) elements: BTreeMap<String, ElementType>,
}

impl Provenance {
    /// What the metadata of a checkpoint say; nothing if the network was not imported.
    pub(super) fn of(metadata: &BTreeMap<String, String>) -> Result<Option<Self>, WeightsFault> {
        let read =
            |text: &String| serde_json::from_str(text).map_err(|e| WeightsFault::Provenance { reason: e.to_string() });
        metadata.get(IMPORT_KEY).map(read).transpose()
    }
}

impl Import {
    /// Metadata for the checkpoint of this network and of all that are made of it, so that [`export`](super::export) can
    /// give the file back as it came.
    ///
    /// # Errors
    /// [`ModelError::Syntax`] if they cannot be written as JSON.
    pub fn metadata(&self) -> Result<BTreeMap<String, String>, ModelError> {
        let syntax = |e: serde_json::Error| ModelError::Syntax { format: "JSON", reason: e.to_string() };
        Ok(BTreeMap::from([(IMPORT_KEY.to_owned(), serde_json::to_string(&self.provenance).map_err(syntax)?)]))
    }
}

/// Makes a network of the weights in a file.
///
/// Every parameter of the description is looked up, and its type and shape are compared, before anything is read. Tensors
/// that the description does not know are an error as well, but for those outside the prefix.
///
/// # Errors
/// As [`NetworkSpec::plan`]; [`WeightsFault::Mismatch`] with everything that does not fit; and what can go wrong with a
/// file.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use fbp_models::weights::{ImportOptions, StateDict, import};
/// use fbp_models::{Network, zoo};
///
/// // A file as PyTorch would write it, here with candle.
/// let spec = zoo::spec("mlp")?;
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("model.safetensors");
/// let plan = spec.plan()?;
/// let tensors = plan.parameters().map(|(name, param)| {
///     Ok((format!("module.{name}"), Tensor::ones(param.dims.as_slice(), candle_core::DType::F32, &Device::Cpu)?))
/// });
/// candle_core::safetensors::save(&tensors.collect::<Result<_, candle_core::Error>>()?, &path)?;
///
/// let found = import(&spec, &StateDict::open(&path)?, &ImportOptions::default())?;
/// assert_eq!(found.report.prefix, "module.");
/// assert_eq!(found.network.parameter_count(), 109_386);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn import(spec: &NetworkSpec, weights: &StateDict, options: &ImportOptions) -> Result<Import, ModelError> {
    let plan = spec.plan()?;
    let parameters: Vec<(String, &ParamPlan)> = plan.parameters().collect();
    let last = parameters.last().map(|(name, _)| layer_of(name));
    let (fresh, mut start) = match options.head {
        Head::FromFile => (None, HashMap::new()),
        Head::New { seed } => (last, Network::new(spec, seed)?.state().collect()),
    };
    let wanted = Wanted { network: &spec.name, parameters: &parameters, fresh };
    start.retain(|name, _| wanted.is_fresh(name));
    let found = wanted.find(weights, options.prefix.as_deref()).map_err(|fault| fault.of(weights.path()))?;
    let mut imported = Vec::new();
    let network = Network::build(spec, &mut |name, param| {
        if let Some(start) = start.get(name) {
            return Ok(start.as_detached_tensor().copy()?);
        }
        let tensor = format!("{}{name}", found.prefix);
        let (values, exact) = weights.read_noting_loss(&tensor)?;
        let element = weights.tensors().get(&tensor).map_or(ElementType::F32, |info| info.element);
        let shape = param.dims.clone();
        imported.push(Imported { parameter: name.to_owned(), tensor, element, shape, rounded: !exact });
        Ok(Tensor::from_vec(values, param.dims.as_slice(), &Device::Cpu)?)
    })?;
    let provenance = provenance(weights, &found, &imported)?;
    let fresh = parameters.iter().map(|(name, _)| name).filter(|name| wanted.is_fresh(name)).cloned().collect();
    let numbers = imported.iter().map(|row| row.shape.iter().product::<usize>()).sum();
    let report = ImportReport {
        network: spec.name.clone(),
        file: provenance.file.clone(),
        format: weights.format(),
        prefix: found.prefix,
        prefix_found: options.prefix.is_none(),
        prefixes_as_good: found.also,
        imported,
        counters: provenance.counters.len(),
        fresh,
        replaced: found.replaced,
        elsewhere: found.elsewhere,
        numbers,
    };
    Ok(Import { network, report, provenance })
}

fn provenance(weights: &StateDict, found: &Matching, imported: &[Imported]) -> Result<Provenance, ModelError> {
    let mut counters = BTreeMap::new();
    for name in &found.counters {
        let tensor = format!("{}{name}", found.prefix);
        let is_single = weights.tensors().get(&tensor).is_some_and(|info| info.shape.iter().product::<usize>() == 1);
        let reason = || WeightsFault::Damaged(format!("{tensor} is no single number")).of(weights.path());
        let value = if is_single { weights.read_integers(&tensor)?.first().copied() } else { None };
        counters.insert(name.clone(), value.ok_or_else(reason)?);
    }
    let remembered = |row: &&Imported| row.element != ElementType::F32 && !row.rounded;
    let elements = imported.iter().filter(remembered).map(|row| (row.parameter.clone(), row.element)).collect();
    let file = weights.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Provenance { file, prefix: found.prefix.clone(), counters, elements })
}
