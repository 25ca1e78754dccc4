//! Which tensor of a file is which parameter of a network.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::{StateDict, WeightsFault};
use crate::error::Mismatch;
use crate::spec::ParamPlan;

/// Names that stand before those of the parameters in many files, in the order in which they are preferred: what wraps the
/// whole dictionary, then what wraps the network, then averages and parts.
const WRAPPERS: [&str; 26] = [
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "module",
    "_orig_mod",
    "net",
    "network",
    "weights",
    "params",
    "teacher",
    "student",
    "ema",
    "model_ema",
    "ema_model",
    "ema_state_dict",
    "state_dict_ema",
    "params_ema",
    "backbone",
    "encoder",
    "visual",
    "trunk",
    "encoder_q",
    "base_encoder",
    "classifier",
    "student_model",
];
/// Name of the counter that PyTorch keeps for batch normalisation.
pub(super) const COUNTER: &str = "num_batches_tracked";
/// Name of a statistic that every such layer has.
const STATISTIC: &str = "running_mean";
/// Most missing names for which similar ones are looked for, most candidates, and their greatest length.
const SOUGHT: usize = 8;
const CANDIDATES: usize = 2000;
const CANDIDATE_LEN: usize = 200;
/// Similarity below which no name is offered.
const SIMILAR: f64 = 0.5;

/// The counters that a network with these parameters has in PyTorch, by the path of their layer.
pub(super) fn counters<'a>(parameters: impl Iterator<Item = &'a str>) -> BTreeSet<String> {
    let layer = |name: &str| name.strip_suffix(STATISTIC).map(|layer| format!("{layer}{COUNTER}"));
    parameters.filter_map(layer).collect()
}

/// The layer of a parameter: its path without its own name.
pub(super) fn layer_of(parameter: &str) -> &str {
    parameter.rsplit_once('.').map_or("", |(layer, _)| layer)
}

/// Where the parameters of a network are in a file.
#[derive(Debug)]
pub(super) struct Matching {
    /// What stands before the name of every parameter.
    pub(super) prefix: String,
    /// Other prefixes under which as many parameters are found.
    pub(super) also: Vec<String>,
    /// Counters that are in the file, under their names in the network.
    pub(super) counters: BTreeSet<String>,
    /// Tensors below the prefix that the new head stands for.
    pub(super) replaced: Vec<String>,
    /// Number of tensors that are not below the prefix.
    pub(super) elsewhere: usize,
}

/// Ends a prefix with a dot.
fn dotted(prefix: &str) -> String {
    if prefix.is_empty() || prefix.ends_with('.') { prefix.to_owned() } else { format!("{prefix}.") }
}

/// How little a prefix is preferred: the ranks of its names; `None` if one of them is not usual.
fn rank(prefix: &str) -> Option<usize> {
    let names = prefix.split_terminator('.');
    names.map(|name| WRAPPERS.iter().position(|wrapper| *wrapper == name).map(|rank| rank + 1)).sum()
}

/// How many parameters are found under each prefix that any name of the file suggests.
fn prefixes(weights: &StateDict, wanted: &HashSet<&str>) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    let longest = wanted.iter().map(|name| name.len()).max().unwrap_or(0);
    for name in weights.tensors().keys() {
        let starts = std::iter::once(0).chain(name.match_indices('.').map(|(dot, _)| dot + 1));
        let starts = starts.filter(|start| name.len() - start <= longest);
        for start in starts.filter(|&start| wanted.contains(&name[start..])) {
            *found.entry(name[..start].to_owned()).or_insert(0) += 1;
        }
    }
    found
}

/// Parameters of the network, and those that the file need not have.
pub(super) struct Wanted<'a> {
    pub(super) network: &'a str,
    pub(super) parameters: &'a [(String, &'a ParamPlan)],
    /// Path of the layer that starts afresh.
    pub(super) fresh: Option<&'a str>,
}

impl Wanted<'_> {
    /// Whether a name of the network belongs to the layer that starts afresh.
    pub(super) fn is_fresh(&self, name: &str) -> bool {
        self.fresh.is_some_and(|layer| layer_of(name) == layer)
    }

    /// Finds every parameter in a file, or says all that keeps it from fitting.
    pub(super) fn find(&self, weights: &StateDict, given: Option<&str>) -> Result<Matching, WeightsFault> {
        let needed = self.parameters.iter().map(|(name, _)| name.as_str()).filter(|name| !self.is_fresh(name));
        let needed: HashSet<&str> = needed.collect();
        let found = prefixes(weights, &needed);
        let (prefix, also) = match given {
            Some(prefix) => (dotted(prefix), Vec::new()),
            None => choose(&found),
        };
        let known = counters(self.parameters.iter().map(|(name, _)| name.as_str()));
        let mut mismatch = Mismatch { network: self.network.to_owned(), prefix: prefix.clone(), ..Mismatch::default() };
        let (mut present, mut replaced, mut elsewhere) = (BTreeSet::new(), Vec::new(), 0);
        for name in weights.tensors().keys() {
            match name.strip_prefix(prefix.as_str()) {
                None => elsewhere += 1,
                Some(own) if needed.contains(own) => {}
                Some(own) if known.contains(own) => drop(present.insert(own.to_owned())),
                Some(own) if self.is_fresh(own) => replaced.push(name.clone()),
                Some(_) => mismatch.left_over.push(name.clone()),
            }
        }
        for (name, param) in self.parameters.iter().filter(|(name, _)| needed.contains(name.as_str())) {
            match weights.tensors().get(&format!("{prefix}{name}")) {
                None => mismatch.missing.push((name.clone(), None)),
                Some(info) if !info.element.is_float() => {
                    mismatch.mistyped.push((name.clone(), info.element.to_string()));
                }
                Some(info) if info.shape != param.dims => {
                    mismatch.misshapen.push((name.clone(), param.dims.clone(), info.shape.clone()));
                }
                Some(_) => mismatch.fitting += 1,
            }
        }
        if mismatch.is_empty() {
            return Ok(Matching { prefix, also, counters: present, replaced, elsewhere });
        }
        suggest(&mut mismatch, weights);
        let here = found.get(&prefix).copied().unwrap_or(0);
        let best = found.into_iter().max_by_key(|(prefix, count)| (*count, std::cmp::Reverse(prefix.len())));
        mismatch.better_prefix = best.filter(|(_, count)| *count > here);
        Err(WeightsFault::Mismatch(Box::new(mismatch)))
    }
}

/// The usual prefix under which most parameters are found, and the others under which as many are.
fn choose(found: &BTreeMap<String, usize>) -> (String, Vec<String>) {
    let usual = found.iter().filter_map(|(prefix, &count)| Some((prefix, count, rank(prefix)?)));
    let mut usual: Vec<_> = usual.collect();
    usual.sort_by_key(|&(prefix, count, rank)| (std::cmp::Reverse(count), rank, prefix.len()));
    let most = usual.first().map_or(0, |&(_, count, _)| count);
    let mut best = usual.into_iter().take_while(|&(_, count, _)| count == most).map(|(prefix, ..)| prefix.clone());
    (best.next().unwrap_or_default(), best.collect())
}

/// For the first missing parameters, what is left over and most like them.
fn suggest(mismatch: &mut Mismatch, weights: &StateDict) {
    let candidates = if mismatch.left_over.is_empty() {
        weights.tensors().keys().take(CANDIDATES).collect::<Vec<_>>()
    } else {
        mismatch.left_over.iter().take(CANDIDATES).collect()
    };
    for (name, nearest) in mismatch.missing.iter_mut().take(SOUGHT) {
        let full = format!("{}{name}", mismatch.prefix);
        let likeness = |candidate: &&String| strsim::normalized_damerau_levenshtein(&full, candidate);
        let short = candidates.iter().copied().filter(|candidate| candidate.len() <= CANDIDATE_LEN);
        let best = short.map(|candidate| (likeness(&candidate), candidate)).max_by(|(a, _), (b, _)| a.total_cmp(b));
        *nearest = best.filter(|(likeness, _)| *likeness >= SIMILAR).map(|(_, candidate)| candidate.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_prefixes_are_preferred_in_their_order() {
        let found = |entries: &[(&str, usize)]| entries.iter().map(|&(p, n)| (p.to_owned(), n)).collect();
        let (prefix, also) = choose(&found(&[("student.", 9), ("teacher.", 9), ("optimizer.", 20)]));
        assert_eq!((prefix.as_str(), also), ("teacher.", vec!["student.".to_owned()]));
        let (prefix, also) = choose(&found(&[("state_dict.module.", 9), ("state_dict_ema.module.", 8), ("", 1)]));
        assert_eq!((prefix.as_str(), also.len()), ("state_dict.module.", 0));
        assert_eq!(choose(&found(&[("", 9), ("model.", 9)])).0, "");
        assert_eq!(choose(&found(&[("foo.", 9)])).0, "");
    }

    #[test]
    fn counters_stand_beside_running_statistics() {
        let names = ["bn1.weight", "bn1.running_mean", "running_mean", "fc.bias"];
        let expected = ["bn1.num_batches_tracked", "num_batches_tracked"];
        assert_eq!(counters(names.into_iter()), expected.map(str::to_owned).into());
        assert_eq!((layer_of("layer1.0.bn.weight"), layer_of("pos_embed")), ("layer1.0.bn", ""));
    }
}
