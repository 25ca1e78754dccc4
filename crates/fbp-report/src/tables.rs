//! Tables as text.

use std::fmt::Write;

/// Comma-separated values as in RFC 4180: fields with commas, quotes or line breaks are quoted.
pub(super) fn csv(rows: &[Vec<String>]) -> String {
    let quote = |cell: &String| match cell.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", cell.replace('"', "\"\"")),
        false => cell.clone(),
    };
    let mut text = String::new();
    for row in rows {
        text += &row.iter().map(quote).collect::<Vec<_>>().join(",");
        text += "\r\n";
    }
    text
}

/// A Markdown table whose first row is the heading.
pub(super) fn markdown(rows: &[Vec<String>]) -> String {
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        let cells: Vec<_> = row.iter().map(|cell| cell.replace('|', "\\|").replace('\n', " ")).collect();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "| {} |", cells.join(" | "));
        if index == 0 {
            let _ = writeln!(text, "|{}", "---|".repeat(row.len()));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_escaped_as_their_format_asks() {
        let rows = [vec!["a".to_owned(), "b".to_owned()], vec!["1, \"x\"".to_owned(), "p|q".to_owned()]];
        assert_eq!(csv(&rows), "a,b\r\n\"1, \"\"x\"\"\",p|q\r\n");
        assert_eq!(markdown(&rows), "| a | b |\n|---|---|\n| 1, \"x\" | p\\|q |\n");
    }
}
