//! Names that people know for class folders that are called by WordNet's numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The classes of Imagenette and Imagewoof, whose archives name them nowhere.
const KNOWN: [(&str, &str); 20] = [
    ("n01440764", "tench"),
    ("n02102040", "English springer"),
    ("n02979186", "cassette player"),
    ("n03000684", "chain saw"),
    ("n03028079", "church"),
    ("n03394916", "French horn"),
    ("n03417042", "garbage truck"),
    ("n03425413", "gas pump"),
    ("n03445777", "golf ball"),
    ("n03888257", "parachute"),
    ("n02086240", "Shih-Tzu"),
    ("n02087394", "Rhodesian ridgeback"),
    ("n02088364", "beagle"),
    ("n02089973", "English foxhound"),
    ("n02093754", "Border terrier"),
    ("n02096294", "Australian terrier"),
    ("n02099601", "golden retriever"),
    ("n02105641", "Old English sheepdog"),
    ("n02111889", "Samoyed"),
    ("n02115641", "dingo"),
];

/// Names of the classes: of folders called by number the word in `words.txt` (`NUMBER <tab> word, other words`), as in
/// Tiny-ImageNet, or the known one; the name of the folder for others and where two classes would have one name.
pub(super) fn readable(root: &Path, folders: &[String]) -> Vec<String> {
    let text = fs::read_to_string(root.join("words.txt")).unwrap_or_default();
    let mut words: BTreeMap<&str, &str> = KNOWN.into_iter().collect();
    for (number, line) in text.lines().filter_map(|line| line.split_once('\t')) {
        words.insert(number.trim(), line.split(',').next().unwrap_or(line).trim());
    }
    let names: Vec<&str> =
        folders.iter().map(|folder| *words.get(folder.as_str()).unwrap_or(&folder.as_str())).collect();
    let (mut seen, mut twice) = (BTreeSet::new(), BTreeSet::new());
    for name in &names {
        if !seen.insert(*name) {
            twice.insert(*name);
        }
    }
    names
        .iter()
        .zip(folders)
        .map(|(name, folder)| if twice.contains(name) { folder } else { *name }.to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_get_words_unless_two_classes_would_have_one() {
        let root = tempfile::tempdir().unwrap();
        let folders = ["cat", "n01440764", "n02012849", "n03126707", "n03445777"].map(str::to_owned);
        assert_eq!(readable(root.path(), &folders)[1..], ["tench", "n02012849", "n03126707", "golf ball"]);
        let words = "n02012849\tcrane, bird\nn03126707\tcrane\nn01440764\ttench, Tinca tinca\nodd line\n";
        fs::write(root.path().join("words.txt"), words).unwrap();
        let expected = ["cat", "tench", "n02012849", "n03126707", "golf ball"];
        assert_eq!(readable(root.path(), &folders), expected);
    }
}
