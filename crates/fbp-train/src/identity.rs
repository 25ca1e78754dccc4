//! What tells data and files apart.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::TrainError;
use crate::hash::hex;

/// Which data a result was made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataIdentity {
    /// Name as given on the command line, for example `fashion-mnist`.
    pub name: String,
    /// SHA-256 over the images and labels, those of the test set too: records hold accuracies on it.
    pub sha256: String,
    /// Number of training samples.
    pub samples: usize,
}

/// SHA-256 of a file, in hexadecimal.
///
/// # Errors
/// [`TrainError::Read`] if it cannot be read.
pub fn file_sha256(path: &Path) -> Result<String, TrainError> {
    let mut file = File::open(path).map_err(TrainError::reading(path))?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = file.read(&mut buffer).map_err(TrainError::reading(path))?;
        if count == 0 {
            return Ok(hex(&digest.finalize()));
        }
        digest.update(&buffer[..count]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sha256_of_a_file_is_that_of_the_standard() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("abc");
        std::fs::write(&path, b"abc").unwrap();
        // FIPS 180-2, appendix B.1.
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(file_sha256(&path).unwrap(), expected);
        assert!(matches!(file_sha256(&folder.path().join("none")), Err(TrainError::Read { .. })));
    }
}
