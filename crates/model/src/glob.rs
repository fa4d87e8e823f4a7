//! Patterns of names in which `*` stands for any text, also none.

use std::fmt;

/// A pattern. Without a `*` it fits itself alone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Glob(Box<str>);

impl Glob {
    /// From its text.
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// The one text that it fits, if it is no pattern.
    pub fn exact(&self) -> Option<&str> {
        (!self.0.contains('*')).then_some(&self.0)
    }

    /// Whether the pattern fits all of the text.
    pub fn matches(&self, text: &str) -> bool {
        let mut parts = self.0.split('*');
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = text.strip_prefix(first) else { return false };
        let Some(last) = parts.next_back() else { return rest.is_empty() };
        // Each part where it fits first: what is left for those after it is then as long as can be.
        for part in parts {
            let Some(place) = rest.find(part) else { return false };
            rest = &rest[place + part.len()..];
        }
        rest.ends_with(last)
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, fits, fails) in [
            ("system/cpu", &["system/cpu"][..], &["system/cpus", "system", ""][..]),
            ("system/*", &["system/", "system/a/b"], &["system", "asystem/x"]),
            ("*/errors", &["/errors", "a/b/errors"], &["errors", "a/errors2"]),
            ("*", &["", "a"], &[]),
            ("a*b*c", &["abc", "axbxbxc", "abbcc"], &["ab", "acb", "abcd"]),
            ("a*a", &["aa", "aba"], &["a"]),
            ("", &[""], &["a"]),
        ] {
            let glob = Glob::new(pattern);
            assert!(fits.iter().all(|text| glob.matches(text)), "{pattern} fits {fits:?}");
            assert!(!fails.iter().any(|text| glob.matches(text)), "{pattern} fails {fails:?}");
        }
    }
}
