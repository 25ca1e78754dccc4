//! Tables as text.

use std::fmt::Write;

/// Comma-separated values as in RFC 4180: fields with commas, quotes or line breaks are quoted.
pub(crate) fn csv(rows: &[Vec<String>]) -> String {
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
pub(crate) fn markdown(rows: &[Vec<String>]) -> String {
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

/// A LaTeX table whose first row is the heading; the first `names` columns and one number, the seeds, stand left of the
/// figures.
pub(crate) fn latex(rows: &[Vec<String>], names: usize) -> String {
    let escape = |text: &String| {
        let mut safe = String::new();
        for character in text.chars() {
            match character {
                '&' | '%' | '$' | '#' | '_' | '{' | '}' => safe.extend(['\\', character]),
                '\\' => safe.push_str("\\textbackslash{}"),
                '~' => safe.push_str("\\textasciitilde{}"),
                '^' => safe.push_str("\\textasciicircum{}"),
                'α' => safe.push_str("$\\alpha$"),
                other => safe.push(other),
            }
        }
        safe
    };
    let columns = rows.first().map_or(0, Vec::len);
    let mut text = format!("\\begin{{tabular}}{{llllllrl{}}}\n\\hline\n", "r".repeat(columns.saturating_sub(names)));
    for (index, row) in rows.iter().enumerate() {
        text += &row.iter().map(escape).collect::<Vec<_>>().join(" & ");
        text += " \\\\\n";
        if index == 0 {
            text += "\\hline\n";
        }
    }
    text + "\\hline\n\\end{tabular}\n"
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
