//! The labels of a series in one canonical text, so that a set of labels is compared and hashed as
//! one string.
//!
//! The text is `name 0x1F value 0x1F` for each label in the order of names. Neither part can hold
//! 0x1F (names by their charset, values because control characters are refused), so the text is
//! unambiguous and two equal sets of labels have equal texts.

use crate::name::{NameError, beginning, check_name};

/// The most labels that a series has.
pub const MAX_LABELS: usize = 32;
/// The longest label value, in bytes.
pub const MAX_LABEL_VALUE_BYTES: usize = 1024;

const SEPARATOR: char = '\u{1f}';

/// The labels of one series. Cheap to compare; a series without labels allocates nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Labels(Box<str>);

/// Labels that are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LabelsError {
    /// Too many of them.
    #[error("has {0} labels; at most {MAX_LABELS} are allowed")]
    TooMany(usize),
    /// A label's name, of which the beginning is told.
    #[error("label name {0:?} {1}")]
    Name(String, NameError),
    /// A label's value is too long.
    #[error("label {0:?} has a value of {1} bytes; at most {MAX_LABEL_VALUE_BYTES} are allowed")]
    ValueTooLong(String, usize),
    /// A label's value has a control character.
    #[error("label {0:?} has the control character {1:?} in its value; leave it out")]
    Control(String, char),
}

/// Appends the canonical text of these labels to `text`. They must come in the order of their
/// names, each name once, as a sorted map gives them. On an error `text` is as it was.
pub fn canonical_labels<'a>(
    labels: impl ExactSizeIterator<Item = (&'a str, &'a str)>,
    text: &mut String,
) -> Result<(), LabelsError> {
    if labels.len() > MAX_LABELS {
        return Err(LabelsError::TooMany(labels.len()));
    }
    let before = text.len();
    for (name, value) in labels {
        if let Err(error) = check_label(name, value) {
            text.truncate(before);
            return Err(error);
        }
        text.extend([name, "\u{1f}", value, "\u{1f}"]);
    }
    Ok(())
}

fn check_label(name: &str, value: &str) -> Result<(), LabelsError> {
    check_name(name).map_err(|error| LabelsError::Name(beginning(name), error))?;
    if value.len() > MAX_LABEL_VALUE_BYTES {
        return Err(LabelsError::ValueTooLong(name.to_owned(), value.len()));
    }
    match value.chars().find(|c| c.is_control()) {
        Some(wrong) => Err(LabelsError::Control(name.to_owned(), wrong)),
        None => Ok(()),
    }
}

impl Labels {
    /// From pairs in the order of their names, each name once.
    pub fn new<'a>(
        pairs: impl ExactSizeIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, LabelsError> {
        let mut text = String::new();
        canonical_labels(pairs, &mut text)?;
        Ok(Self::from_canonical(&text))
    }

    /// From a text that [`canonical_labels`] made.
    pub fn from_canonical(text: &str) -> Self {
        Self(text.into())
    }

    /// The canonical text.
    pub fn as_canonical(&self) -> &str {
        &self.0
    }

    /// The pairs of name and value, in the order of names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut parts = self.0.split_terminator(SEPARATOR);
        std::iter::from_fn(move || Some((parts.next()?, parts.next()?)))
    }

    /// Those with these names.
    #[must_use]
    pub fn only(&self, names: &[String]) -> Self {
        let mut text = String::new();
        for (name, value) in
            self.iter().filter(|(name, _)| names.iter().any(|wanted| wanted == name))
        {
            text.extend([name, "\u{1f}", value, "\u{1f}"]);
        }
        Self(text.into())
    }

    /// The value of the label of this name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(n, _)| *n == name).map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn labels(map: &BTreeMap<String, String>) -> Result<Labels, LabelsError> {
        Labels::new(map.iter().map(|(n, v)| (n.as_str(), v.as_str())))
    }

    #[test]
    fn a_refused_label_leaves_the_text_as_it_was() {
        let mut text = "kept".to_owned();
        let pairs = [("a", "1"), ("b", "x\ny")];
        let error = canonical_labels(pairs.into_iter(), &mut text);
        assert_eq!(error, Err(LabelsError::Control("b".into(), '\n')));
        assert_eq!(text, "kept");
        let many = vec![("a", ""); 33];
        assert_eq!(canonical_labels(many.into_iter(), &mut text), Err(LabelsError::TooMany(33)));
        let long = "x".repeat(1025);
        let error = Labels::new([("a", long.as_str())].into_iter());
        assert_eq!(error, Err(LabelsError::ValueTooLong("a".into(), 1025)));
    }

    proptest! {
        #[test]
        fn labels_come_back_as_they_went_in(
            map in proptest::collection::btree_map("[A-Za-z0-9_.:/-]{1,8}", "[^\\p{Cc}]{0,8}", 0..8)
        ) {
            let made = labels(&map).unwrap();
            let back: BTreeMap<String, String> =
                made.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
            prop_assert_eq!(&back, &map);
            for (name, value) in &map {
                prop_assert_eq!(made.get(name), Some(value.as_str()));
            }
        }

        #[test]
        fn different_labels_have_different_texts(
            a in proptest::collection::btree_map("[ab]{1,2}", "[ab=]{0,2}", 0..3),
            b in proptest::collection::btree_map("[ab]{1,2}", "[ab=]{0,2}", 0..3),
        ) {
            prop_assert_eq!(a == b, labels(&a).unwrap() == labels(&b).unwrap());
        }
    }
}
