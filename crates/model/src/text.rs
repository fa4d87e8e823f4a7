//! Texts: what is told of a metric beside its name, within bounds; and bytes as text.

/// The longest unit, in bytes.
pub const MAX_UNIT_BYTES: usize = 64;
/// The longest description, in bytes.
pub const MAX_DESCRIPTION_BYTES: usize = 1024;

/// A text that is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// Too long.
    #[error("has {0} bytes; at most {1} are allowed")]
    TooLong(usize, usize),
    /// A control character.
    #[error("holds a control character; leave it out")]
    Control,
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    let digit = |half: u8| char::from_digit(half.into(), 16).unwrap_or('?');
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// Checks a unit or a description: at most so many bytes, and no control characters.
pub fn check_text(text: &str, max_bytes: usize) -> Result<(), TextError> {
    if text.len() > max_bytes {
        return Err(TextError::TooLong(text.len(), max_bytes));
    }
    if text.chars().any(char::is_control) {
        return Err(TextError::Control);
    }
    Ok(())
}
