//! Tables for people, no wider than their terminal.

use console::{Term, measure_text_width};

use crate::common::{Out, say};
use crate::error::CliError;

/// Width of a terminal that does not tell, and of files.
const WIDTH: usize = 80;
/// Blanks between columns.
const GAP: usize = 2;

/// Writes a table whose first row is the heading. The first column is text, the others are numbers; where they are too many
/// for the terminal, the table is folded: the rest stands below, with the first column again.
pub(crate) fn print_table(rows: &[Vec<String>], out: Out<'_>) -> Result<(), CliError> {
    let width = Term::stdout().size_checked().map_or(WIDTH, |(_, columns)| usize::from(columns));
    for line in lines(rows, width) {
        say(out, format_args!("{line}"))?;
    }
    Ok(())
}

/// The lines of a table, none of them longer than `room`, unless the first column and one more are.
fn lines(rows: &[Vec<String>], room: usize) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let cell = |row: &Vec<String>, column: usize| row.get(column).cloned().unwrap_or_default();
    let widths: Vec<usize> = (0..columns)
        .map(|column| rows.iter().map(|row| measure_text_width(&cell(row, column))).max().unwrap_or(0))
        .collect();
    let mut lines = Vec::new();
    let mut next = 1;
    while next < columns || lines.is_empty() {
        let first = next;
        let mut taken = widths.first().copied().unwrap_or(0);
        while next < columns && (next == first || taken + GAP + widths[next] <= room) {
            taken += GAP + widths[next];
            next += 1;
        }
        if !lines.is_empty() {
            lines.push(String::new());
        }
        for row in rows {
            let name = cell(row, 0);
            let mut line = format!("{name}{}", " ".repeat(widths[0] - measure_text_width(&name)));
            for (column, width) in widths.iter().enumerate().take(next).skip(first) {
                let text = cell(row, column);
                line += &" ".repeat(GAP + width - measure_text_width(&text));
                line += &text;
            }
            lines.push(line.trim_end().to_owned());
        }
        if columns <= 1 {
            break;
        }
    }
    lines
}

/// `3 dress`, or the number alone.
pub(crate) fn class_name(class: usize, names: &[String]) -> String {
    names.get(class).map_or_else(|| class.to_string(), |name| format!("{class} {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Vec<Vec<String>> {
        let row = |cells: [&str; 4]| cells.map(str::to_owned).to_vec();
        vec![row(["stage", "right", "moved by", "missed"]), row(["conv1", "99.5 %", "1.84 %", "0"])]
    }

    #[test]
    fn a_table_that_fits_is_one_block() {
        assert_eq!(lines(&table(), 80), ["stage   right  moved by  missed", "conv1  99.5 %    1.84 %       0"]);
        assert_eq!(lines(&table(), 31).len(), 2);
    }

    #[test]
    fn a_wider_one_is_folded_and_never_wraps() {
        let folded = lines(&table(), 30);
        assert_eq!(
            folded,
            ["stage   right  moved by", "conv1  99.5 %    1.84 %", "", "stage  missed", "conv1       0"]
        );
        for width in 13..40 {
            assert!(lines(&table(), width).iter().all(|line| line.len() <= width.max(15)), "{width}");
        }
        assert_eq!(lines(&[vec!["one".into()]], 80), ["one"]);
        assert!(lines(&[], 80).is_empty() || lines(&[], 80) == [""]);
    }
}
