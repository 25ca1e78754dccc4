use std::path::Path;

use fbp_train::TrainError;

use crate::ReportError;

/// Finds out before the work whether the page of a command may be written: where there is none, or one beside a record.
///
/// # Errors
/// [`TrainError::Foreign`] for a page without a record, unless `force`.
pub fn check_page(command: &str, page: &Path, record: &Path, force: bool) -> Result<(), ReportError> {
    if page.exists() && !record.exists() && !force {
        return Err(TrainError::Foreign { path: page.to_owned(), command: command.into() }.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_others_are_left_alone() {
        for command in ["adapt", "compress"] {
            let folder = tempfile::tempdir().unwrap();
            let [page, record] = ["c.html", "c.json"].map(|name| folder.path().join(name));
            check_page(command, &page, &record, false).unwrap();
            std::fs::write(&page, "mine").unwrap();
            assert!(check_page(command, &page, &record, false).is_err());
            check_page(command, &page, &record, true).unwrap();
        }
    }
}
