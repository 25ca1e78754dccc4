//! Weights in several safetensors files, with an index that says what is where.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use serde::de::{Error, MapAccess, Visitor};

use super::WeightsFault;
use crate::ModelError;

/// End of the name of an index.
pub(super) const INDEX_SUFFIX: &str = ".index.json";
/// Longest index that is read, in bytes.
const MAX_INDEX: u64 = 1 << 24;
/// Most files that one index may name.
const MAX_SHARDS: usize = 4096;

/// Names of tensors, and the file that each is in.
struct WeightMap(BTreeMap<String, String>);

#[derive(Deserialize)]
struct Index {
    weight_map: WeightMap,
}

impl<'de> Deserialize<'de> for WeightMap {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MapVisitor;
        impl<'de> Visitor<'de> for MapVisitor {
            type Value = WeightMap;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the file of every tensor by name")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WeightMap, A::Error> {
                let mut files = BTreeMap::new();
                while let Some((name, file)) = map.next_entry::<String, String>()? {
                    if files.insert(name.clone(), file).is_some() {
                        return Err(A::Error::custom(format!("{name} occurs twice")));
                    }
                }
                Ok(WeightMap(files))
            }
        }
        deserializer.deserialize_map(MapVisitor)
    }
}

/// Reads an index: for every file beside it the tensors that should be there.
pub(super) fn read_index(path: &Path) -> Result<BTreeMap<PathBuf, BTreeSet<String>>, ModelError> {
    let mut text = Vec::new();
    let file = File::open(path).map_err(ModelError::io("open", path))?;
    file.take(MAX_INDEX + 1).read_to_end(&mut text).map_err(ModelError::io("read", path))?;
    if text.len() as u64 > MAX_INDEX {
        return Err(WeightsFault::Limit(format!("an index of more than {MAX_INDEX} bytes")).of(path));
    }
    let index: Index =
        serde_json::from_slice(&text).map_err(|e| WeightsFault::Damaged(format!("index: {e}")).of(path))?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut shards: BTreeMap<PathBuf, BTreeSet<String>> = BTreeMap::new();
    for (tensor, file) in index.weight_map.0 {
        let mut parts = Path::new(&file).components();
        let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
        if !plain || file.contains(['/', '\\', ':']) {
            return Err(WeightsFault::ShardName(file).of(path));
        }
        shards.entry(folder.join(file)).or_default().insert(tensor);
    }
    if shards.len() > MAX_SHARDS {
        return Err(WeightsFault::Limit(format!("an index of {} files", shards.len())).of(path));
    }
    Ok(shards)
}

/// What stands for a folder: its only index, or else its only safetensors file.
pub(super) fn of_folder(folder: &Path) -> Result<PathBuf, ModelError> {
    let (mut indices, mut files) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(folder).map_err(ModelError::io("read", folder))? {
        let path = entry.map_err(ModelError::io("read", folder))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.ends_with(&format!(".safetensors{INDEX_SUFFIX}")) {
            indices.push(path);
        } else if name.ends_with(".safetensors") {
            files.push(path);
        }
    }
    let mut found = if indices.is_empty() { files } else { indices };
    match (found.pop(), found.len()) {
        (Some(path), 0) => Ok(path),
        (None, _) => {
            Err(WeightsFault::Unknown("the folder has no *.safetensors.index.json and no *.safetensors".into())
                .of(folder))
        }
        (Some(_), others) => {
            Err(WeightsFault::Unknown(format!("the folder has {} of them; name one", others + 1)).of(folder))
        }
    }
}
