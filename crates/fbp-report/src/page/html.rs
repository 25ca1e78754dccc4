use std::fmt::Write;

use fbp_train::data::FASHION_MNIST_CLASSES;
use fbp_train::settings::Measure;

/// Columns from which on a table becomes a list where the screen is narrow.
const MANY: usize = 6;
/// Signs from which on a cell may be broken into lines.
const LONG: usize = 16;

/// Text as HTML: names come from files and may hold anything.
pub(crate) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}

/// Name of a class, as HTML.
pub(crate) fn class_name(data: &str, label: u32) -> String {
    let fashion = FASHION_MNIST_CLASSES.get(label as usize).filter(|_| data.starts_with("fashion-mnist"));
    fashion.map_or_else(|| format!("class {label}"), |name| (*name).to_owned())
}

/// Name of a class as the data tell it, as HTML.
pub(crate) fn named_class(names: &[String], data: &str, label: u32) -> String {
    names.get(label as usize).map_or_else(|| class_name(data, label), |name| escape(name))
}

/// Text without its tags.
fn untagged(html: &str) -> String {
    let mut parts = html.split('<');
    let mut text = parts.next().unwrap_or_default().to_owned();
    parts.for_each(|part| text.push_str(part.split_once('>').map_or("", |(_, text)| text)));
    text
}

/// Tables of at most `columns` columns each, which all begin with the first one.
pub(crate) fn table_of_parts(name: &str, headings: &[&str], rows: &[Vec<String>], columns: usize) -> String {
    let others: Vec<usize> = (1..headings.len()).collect();
    let part = |columns: &[usize]| {
        let all = || std::iter::once(0).chain(columns.iter().copied());
        let headings: Vec<&str> = all().map(|column| headings[column]).collect();
        let rows: Vec<Vec<String>> = rows.iter().map(|row| all().map(|column| row[column].clone()).collect()).collect();
        table(name, &headings, &rows)
    };
    others.chunks(columns.saturating_sub(1).max(1)).map(part).collect()
}

/// A table in a box of its own; headings and cells are HTML, `name` plain text for those who cannot see it. The first cell
/// of a row is its heading. On a narrow screen a table of many columns becomes a list, in which each cell has its heading.
pub(crate) fn table(name: &str, headings: &[&str], rows: &[Vec<String>]) -> String {
    let name = escape(name);
    let is_list = headings.len() >= MANY;
    let class = if is_list { " class=\"list\"" } else { "" };
    let mut html =
        format!("<div class=\"scroll\" role=\"region\" tabindex=\"0\" aria-label=\"{name}\"><table{class}><thead><tr>");
    for heading in headings {
        push(&mut html, format_args!("<th scope=\"col\">{heading}</th>"));
    }
    html.push_str("</tr></thead><tbody>");
    for row in rows {
        html.push_str("<tr>");
        for (index, cell) in row.iter().enumerate() {
            match index {
                0 => push(&mut html, format_args!("<th scope=\"row\">{cell}</th>")),
                _ => {
                    let class = if untagged(cell).chars().count() > LONG { " class=\"long\"" } else { "" };
                    let heading = headings.get(index).map(|heading| escape(&untagged(heading))).unwrap_or_default();
                    let heading = if is_list { format!(" data-heading=\"{heading}\"") } else { String::new() };
                    push(&mut html, format_args!("<td{class}{heading}>{cell}</td>"));
                }
            }
        }
        html.push_str("</tr>");
    }
    html.push_str("</tbody></table></div>\n");
    html
}

/// Appends formatted text.
pub(crate) fn push(html: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = html.write_fmt(text);
}

/// A share as per cent with `digits` after the point.
pub(crate) fn percent(share: f64, digits: usize) -> String {
    format!("{:.digits$} %", 100.0 * share)
}

/// A difference of shares as percentage points with a sign.
fn points(difference: f64) -> String {
    format!("{:+.2} pp", 100.0 * difference).replace('-', "−")
}

/// A gain as a share, in what it is counted in: percentage points of accuracy, or per cent of the RMSE that are gone.
pub(crate) fn gained(measure: Measure, gain: f64) -> String {
    match measure {
        Measure::Accuracy => points(gain),
        Measure::Rmse => format!("{:+.2} %", 100.0 * gain).replace('-', "−"),
    }
}

/// A number with three digits that count, as people write it.
pub(crate) fn number(value: f64) -> String {
    let text = match value.abs() {
        0.0 => return "0".into(),
        size if !(1e-3..1e5).contains(&size) => format!("{value:.1e}"),
        size => {
            let digits = (2 - size.log10().floor() as i32).clamp(0, 5) as usize;
            format!("{value:.digits$}")
        }
    };
    text.replace('-', "−")
}

/// A number with its sign and `digits` after the point.
pub(crate) fn signed(value: f64, digits: usize) -> String {
    format!("{value:+.digits$}").replace('-', "−")
}

/// A whole number in groups of three digits.
pub(crate) fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// A time in words that people read.
pub(crate) fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 0.095 => format!("{:.0} ms", 1e3 * s),
        s if s < 9.95 => format!("{s:.1} s"),
        s if s < 119.5 => format!("{s:.0} s"),
        s if s < 5400.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_become_markup() {
        assert_eq!(escape("<b a=\"1\">&'"), "&lt;b a=&quot;1&quot;&gt;&amp;&#39;");
    }

    #[test]
    fn cells_of_wide_tables_know_their_heading_and_parts_repeat_the_first_column() {
        let headings = ["layer", "d<sub>z</sub>", "b", "c", "d", "e"];
        let rows = [["conv1", "1", "a very long cell indeed", "3", "4", "5"].map(str::to_owned).to_vec()];
        let wide = table("t", &headings, &rows);
        assert!(
            wide.contains("<td data-heading=\"dz\">1</td>") && wide.contains("<td class=\"long\" data-heading=\"b\">")
        );
        let parts = table_of_parts("t", &headings, &rows, 4);
        assert_eq!((parts.matches("<table>").count(), parts.matches(">conv1</th>").count()), (2, 2));
        assert!(parts.contains("<td>5</td>"), "{parts}");
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!(grouped(60_000), "60\u{202f}000");
        assert_eq!(grouped(999), "999");
        assert_eq!(points(-0.0123), "−1.23 pp");
        assert_eq!(percent(0.99954, 2), "99.95 %");
        assert_eq!([0.02, 3.13, 42.0, 150.0].map(duration), ["20 ms", "3.1 s", "42 s", "2 min"]);
        assert_eq!(
            [0.0, 0.01234, -2.3456, 345.6, 12_345.0, 1e-7].map(number),
            ["0", "0.0123", "−2.35", "346", "12345", "1.0e−7"]
        );
        assert_eq!((signed(0.5, 2), signed(-0.25, 1)), ("+0.50".into(), "−0.2".into()));
        assert_eq!((class_name("fashion-mnist-mini", 6), class_name("idx:x", 6)), ("shirt".into(), "class 6".into()));
    }
}
