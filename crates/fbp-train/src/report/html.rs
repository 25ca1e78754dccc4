use std::fmt::Write;

/// Text as HTML: names come from files and may hold anything.
pub(super) fn escape(text: &str) -> String {
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

/// A table; headings and cells are HTML, headings without markup; the first cell of a row is its heading.
pub(super) fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let mut html = String::from("<table><thead><tr>");
    for heading in headings {
        push(&mut html, format_args!("<th scope=\"col\">{heading}</th>"));
    }
    html.push_str("</tr></thead><tbody>");
    for row in rows {
        html.push_str("<tr>");
        for (index, (cell, heading)) in row.iter().zip(headings).enumerate() {
            match index {
                0 => push(&mut html, format_args!("<th scope=\"row\">{cell}</th>")),
                // Narrow screens show a row as a list, each cell behind its heading.
                _ => push(&mut html, format_args!("<td data-label=\"{heading}\">{cell}</td>")),
            }
        }
        html.push_str("</tr>");
    }
    html.push_str("</tbody></table>\n");
    html
}

/// Appends formatted text.
pub(super) fn push(html: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = html.write_fmt(text);
}

/// A share as per cent with `digits` after the point.
pub(super) fn percent(share: f64, digits: usize) -> String {
    format!("{:.digits$} %", 100.0 * share)
}

/// A difference of shares as percentage points with a sign.
pub(super) fn points(difference: f64) -> String {
    format!("{:+.2} pp", 100.0 * difference).replace('-', "−")
}

/// A whole number in groups of three digits.
pub(super) fn grouped(number: usize) -> String {
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
pub(super) fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 0.095 => format!("{:.0} ms", 1e3 * s),
        s if s < 9.95 => format!("{s:.1} s"),
        s if s < 119.5 => format!("{s:.0} s"),
        s => format!("{:.0} min", s / 60.0),
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
    fn numbers_read_well() {
        assert_eq!(grouped(60_000), "60\u{202f}000");
        assert_eq!(grouped(999), "999");
        assert_eq!(points(-0.0123), "−1.23 pp");
        assert_eq!(percent(0.99954, 2), "99.95 %");
        assert_eq!([0.02, 3.13, 42.0, 150.0].map(duration), ["20 ms", "3.1 s", "42 s", "2 min"]);
    }
}
