//! What components, metrics and labels may be called.
//!
//! One charset everywhere: a name that was accepted once fits in every path, query and export.

/// The longest name, in bytes.
pub const MAX_NAME_BYTES: usize = 200;
/// The component of metrics that name none.
pub const GLOBAL: &str = "global";

/// A name that is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing in it.
    #[error("is empty; give it 1 to {MAX_NAME_BYTES} of A-Z a-z 0-9 _ . : / -")]
    Empty,
    /// Too long.
    #[error("has {0} bytes; at most {MAX_NAME_BYTES} are allowed")]
    TooLong(usize),
    /// A character that is not allowed.
    #[error("holds {0:?}; use A-Z a-z 0-9 _ . : / - only")]
    Character(char),
}

/// Checks a component, metric or label name: `[A-Za-z0-9_.:/-]{1,200}`.
pub fn check_name(name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.len() > MAX_NAME_BYTES {
        return Err(NameError::TooLong(name.len()));
    }
    if name.bytes().all(is_name_byte) {
        return Ok(());
    }
    let wrong = name.chars().find(|c| !u8::try_from(*c).is_ok_and(is_name_byte));
    Err(NameError::Character(wrong.unwrap_or(char::REPLACEMENT_CHARACTER)))
}

/// The beginning of a name that may be of any length, to tell it by.
pub fn beginning(name: &str) -> String {
    name.chars().take(60).collect()
}

const fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b':' | b'/' | b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_outside_the_charset_are_refused_by_their_character() {
        assert_eq!(check_name("http.requests:total/5xx-a_b"), Ok(()));
        assert_eq!(check_name(""), Err(NameError::Empty));
        assert_eq!(check_name(&"a".repeat(200)), Ok(()));
        assert_eq!(check_name(&"a".repeat(201)), Err(NameError::TooLong(201)));
        assert_eq!(check_name("a b"), Err(NameError::Character(' ')));
        assert_eq!(check_name("zürich"), Err(NameError::Character('ü')));
        assert_eq!(check_name("a\0"), Err(NameError::Character('\0')));
    }
}
