//! How images are prepared for a network, as an option.

use std::path::Path;

use fbp_models::Preprocessing;
use fbp_train::TrainError;

use crate::error::CliError;

/// What `--preprocess` says: `imagenet`, a JSON file, or means and deviations, `0.5,0.5,0.5/0.25,0.25,0.25`.
pub(crate) fn preprocessing(text: &str, input: [usize; 3]) -> Result<Preprocessing, CliError> {
    if text == "imagenet" {
        return Ok(Preprocessing::imagenet(input[1], input[2])?);
    }
    if let Some((mean, std)) = numbers(text) {
        let spread = |values: Vec<f64>| if values.len() == 1 { vec![values[0]; input[0]] } else { values };
        return Ok(Preprocessing::new(input, spread(mean), spread(std))?);
    }
    let path = Path::new(text);
    if !path.exists() {
        let known =
            "imagenet, a JSON file, or MEAN/DEVIATION for each channel such as 0.5,0.5,0.5/0.25,0.25,0.25".into();
        return Err(TrainError::UnknownChoice { setting: "preprocess", value: text.into(), known }.into());
    }
    let json = std::fs::read(path).map_err(TrainError::reading(path))?;
    serde_json::from_slice(&json).map_err(|source| {
        TrainError::Json { path: path.to_owned(), what: "description of the preprocessing of images", source }.into()
    })
}

/// Two lists of numbers with a slash between them.
fn numbers(text: &str) -> Option<(Vec<f64>, Vec<f64>)> {
    let list = |text: &str| text.split(',').map(|number| number.trim().parse().ok()).collect::<Option<Vec<f64>>>();
    let (mean, std) = text.split_once('/')?;
    Some((list(mean)?, list(std)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_forms_are_understood() {
        let input = [3, 8, 8];
        assert_eq!(preprocessing("imagenet", input).unwrap(), Preprocessing::imagenet(8, 8).unwrap());
        let one = preprocessing("0.5/0.25", input).unwrap();
        assert_eq!((one.mean(), one.std()), (&[0.5; 3][..], &[0.25; 3][..]));
        assert_eq!(preprocessing("0.1, 0.2,0.3/1,2,3", input).unwrap().mean(), [0.1, 0.2, 0.3]);
        let file = tempfile::NamedTempFile::new().unwrap();
        let written = one.clone().with_classes(vec!["a".into(), "b".into()]);
        std::fs::write(file.path(), serde_json::to_string(&written).unwrap()).unwrap();
        assert_eq!(preprocessing(&file.path().display().to_string(), input).unwrap(), written);
    }

    #[test]
    fn what_is_not_understood_is_told() {
        let text = |option: &str| fbp_train::one_line(&preprocessing(option, [3, 8, 8]).unwrap_err());
        assert!(text("nonsense").contains("imagenet, a JSON file"), "{}", text("nonsense"));
        assert!(text("0.5/0").contains("positive"));
        assert!(text("1,2/1,2").contains("3 channels"));
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(text(&file.path().display().to_string()).contains("preprocessing"));
    }
}
