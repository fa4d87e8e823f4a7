//! Rust as a row of tokens, and the names in its paths: as much as the rules need.
//!
//! What stands in a comment or in a literal is never taken for code.

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// An identifier, a keyword, a number or a lifetime's name.
    Word,
    /// A string literal with its quotes.
    Text,
    /// `::`, or any other single character.
    Sign,
}

#[derive(Clone, Copy)]
pub(super) struct Token<'a> {
    pub(super) line: usize,
    pub(super) kind: Kind,
    pub(super) text: &'a str,
}

/// Cuts Rust into tokens, without comments, character literals and white space. A literal's line is
/// that of its first quote.
pub(super) fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut found = Vec::new();
    let (mut rest, mut line) = (text, 1);
    while let Some(first) = rest.chars().next() {
        let (kind, length) = if rest.starts_with("//") {
            (None, rest.find('\n').unwrap_or(rest.len()))
        } else if rest.starts_with("/*") {
            (None, comment_length(rest))
        } else if first.is_whitespace() {
            (None, first.len_utf8())
        } else if let Some(length) = string_length(rest) {
            (Some(Kind::Text), length)
        } else if let Some(length) = character_length(rest) {
            (None, length)
        } else if first.is_alphanumeric() || first == '_' {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
            (Some(Kind::Word), end.unwrap_or(rest.len()))
        } else if rest.starts_with("::") {
            (Some(Kind::Sign), 2)
        } else {
            (Some(Kind::Sign), first.len_utf8())
        };
        let (token, after) = rest.split_at(length);
        found.extend(kind.map(|kind| Token { line, kind, text: token }));
        line += token.matches('\n').count();
        rest = after;
    }
    found
}

/// The length of a block comment, which may hold others.
fn comment_length(text: &str) -> usize {
    let mut depth = 0;
    for (place, two) in text.as_bytes().windows(2).enumerate() {
        match two {
            b"/*" => depth += 1,
            b"*/" => depth -= 1,
            _ => continue,
        }
        if depth == 0 {
            return place + 2;
        }
    }
    text.len()
}

/// The length of the string literal that the text begins with, if it does: plain, byte, C or raw.
fn string_length(text: &str) -> Option<usize> {
    let prefix = text.find(|c| !matches!(c, 'b' | 'c' | 'r'))?;
    let hashes = text[prefix..].find(|c| c != '#')?;
    let open = prefix + hashes;
    let inside = text[open..].strip_prefix('"')?;
    if text[..prefix].ends_with('r') {
        let close = format!("\"{}", "#".repeat(hashes));
        return Some(open + 1 + inside.find(&close)? + close.len());
    }
    let mut escaped = false;
    let end = inside.find(|c| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    });
    Some(open + 1 + end? + 1)
}

/// The length of the character literal that the text begins with, if it does. A lifetime is none.
fn character_length(text: &str) -> Option<usize> {
    let inside = text.strip_prefix('\'')?;
    let first = inside.chars().next()?;
    if first == '\\' {
        // What comes after the backslash may be a quote itself.
        return Some(3 + inside.get(2..)?.find('\'')? + 1);
    }
    inside[first.len_utf8()..].starts_with('\'').then_some(first.len_utf8() + 2)
}

/// Whether the path that this token is in begins with it.
pub(super) fn is_root(tokens: &[Token<'_>], at: usize) -> bool {
    at == 0 || !matches!(tokens[at - 1].text, "::" | ".")
}

/// The names that come right after this root in paths, each with its line; of a group, each name.
pub(super) fn imported<'a>(tokens: &[Token<'a>], root: &str) -> Vec<(usize, &'a str)> {
    let roots = (0..tokens.len()).filter(|at| tokens[*at].text == root && is_root(tokens, *at));
    roots.flat_map(|at| names(&tokens[at + 1..])).collect()
}

/// The names that come right after so many `super`.
pub(super) fn imported_above<'a>(tokens: &[Token<'a>], depth: usize) -> Vec<(usize, &'a str)> {
    let climbs = |at: &usize| {
        let steps = tokens[*at..].chunks(2).take_while(|pair| pair[0].text == "super");
        depth > 0 && is_root(tokens, *at) && steps.count() == depth
    };
    let roots = (0..tokens.len()).filter(climbs);
    roots.flat_map(|at| names(&tokens[at + 2 * depth - 1..])).collect()
}

/// The first names of what follows a path's root: one, or each of a group, which may be nested.
fn names<'a>(after: &[Token<'a>]) -> Vec<(usize, &'a str)> {
    let [colons, first, rest @ ..] = after else { return Vec::new() };
    if colons.text != "::" {
        return Vec::new();
    }
    if first.text != "{" {
        return vec![(first.line, first.text)];
    }
    let (mut found, mut depth, mut is_next) = (Vec::new(), 1, true);
    for token in rest {
        match token.text {
            "{" => depth += 1,
            "}" => depth -= 1,
            "," => is_next = depth == 1,
            name if is_next => {
                found.push((token.line, name));
                is_next = false;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    found
}
