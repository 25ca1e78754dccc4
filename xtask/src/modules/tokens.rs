//! Rust text as words and signs, without comments and literals.

/// A word or a sign, with its line from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token<'a> {
    pub(super) text: &'a str,
    pub(super) line: usize,
}

/// Cuts a text up. Words are names and numbers; `::` is one sign, every other character one of its own.
pub(super) fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut cutter = Cutter { text, place: 0, line: 1, tokens: Vec::new() };
    while cutter.place < text.len() {
        cutter.next();
    }
    cutter.tokens
}

struct Cutter<'a> {
    text: &'a str,
    place: usize,
    line: usize,
    tokens: Vec<Token<'a>>,
}

impl<'a> Cutter<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.place..]
    }

    /// Goes on by `len` bytes.
    fn skip(&mut self, len: usize) {
        let part = &self.rest()[..len];
        self.line += part.matches('\n').count();
        self.place += len;
    }

    /// Takes the next `len` bytes as a token.
    fn take(&mut self, len: usize) {
        self.tokens.push(Token { text: &self.rest()[..len], line: self.line });
        self.place += len;
    }

    fn next(&mut self) {
        let rest = self.rest();
        let Some(first) = rest.chars().next() else { return };
        if rest.starts_with("//") {
            self.skip(rest.find('\n').unwrap_or(rest.len()));
        } else if rest.starts_with("/*") {
            self.skip(comment_len(rest));
        } else if let Some(len) = raw_string_len(rest) {
            self.skip(len);
        } else if first == '"' || rest.starts_with("b\"") || rest.starts_with("c\"") {
            self.skip(string_len(rest));
        } else if first == '\'' || rest.starts_with("b'") {
            self.quote();
        } else if is_word(first) {
            self.take(rest.find(|c| !is_word(c)).unwrap_or(rest.len()));
        } else if rest.starts_with("::") {
            self.take(2);
        } else if first.is_whitespace() {
            self.skip(first.len_utf8());
        } else {
            self.take(first.len_utf8());
        }
    }

    /// A character, which is left out, or the mark of a lifetime, which is left out without its name.
    fn quote(&mut self) {
        let start = self.rest().find('\'').map_or(0, |at| at + 1);
        let inner = &self.rest()[start..];
        let mut characters = inner.chars();
        let len = match (characters.next(), characters.next()) {
            // The escaped character itself may be a quote.
            (Some('\\'), Some(escaped)) => {
                let begun = 1 + escaped.len_utf8();
                start + begun + inner[begun..].find('\'').map_or(0, |at| at + 1)
            }
            (Some(character), Some('\'')) => start + character.len_utf8() + 1,
            _ => start,
        };
        self.skip(len);
    }
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// Length of a comment in `/* */`, which may hold others.
fn comment_len(text: &str) -> usize {
    let (mut depth, mut place) = (0_usize, 0);
    while place < text.len() {
        let rest = &text[place..];
        if rest.starts_with("/*") {
            (depth, place) = (depth + 1, place + 2);
        } else if rest.starts_with("*/") {
            (depth, place) = (depth - 1, place + 2);
            if depth == 0 {
                break;
            }
        } else {
            place += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    place
}

/// Length of a string in quotes, its start included.
fn string_len(text: &str) -> usize {
    let start = text.find('"').map_or(0, |at| at + 1);
    let mut escaped = false;
    for (at, character) in text[start..].char_indices() {
        match character {
            '"' if !escaped => return start + at + 1,
            _ => escaped = character == '\\' && !escaped,
        }
    }
    text.len()
}

/// Length of a string such as `r#"…"#`, if there is one.
fn raw_string_len(text: &str) -> Option<usize> {
    let prefix = ["r", "br", "cr"].into_iter().find(|prefix| text.starts_with(prefix))?;
    let hashes = text[prefix.len()..].find(|c| c != '#')?;
    let start = prefix.len() + hashes;
    if !text[start..].starts_with('"') {
        return None;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    Some(text[start + 1..].find(&end).map_or(text.len(), |at| start + 1 + at + end.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_left_out() {
        let text = "a::b // c\n/* d /* e */ f */ \"g \\\" h\" r#\"i \" j\"# 'k' '\\'' b'l' &'m n 'ö' o";
        let found: Vec<_> = tokens(text).into_iter().map(|token| (token.text, token.line)).collect();
        assert_eq!(found, [("a", 1), ("::", 1), ("b", 1), ("&", 2), ("m", 2), ("n", 2), ("o", 2)]);
        assert_eq!(tokens("\"\n\"x")[0].line, 2);
        assert_eq!(tokens("r#type r").iter().map(|token| token.text).collect::<Vec<_>>(), ["r", "#", "type", "r"]);
    }
}
