//! Numbers as people read them.

/// A number with four digits at most, and a letter for thousands, millions and so on.
pub fn short(number: f64) -> String {
    let magnitude = number.abs();
    let (scaled, suffix) = match magnitude {
        1e15.. => return format!("{number:.3e}"),
        1e12.. => (number / 1e12, "T"),
        1e9.. => (number / 1e9, "G"),
        1e6.. => (number / 1e6, "M"),
        1e4.. => (number / 1e3, "k"),
        _ => (number, ""),
    };
    let text = match scaled.abs() {
        100.0.. => format!("{scaled:.0}"),
        10.0.. => format!("{scaled:.1}"),
        1.0.. => format!("{scaled:.2}"),
        0.001.. => format!("{scaled:.4}"),
        0.0 => "0".to_owned(),
        _ => format!("{scaled:.2e}"),
    };
    if text.contains('.') && !text.contains('e') {
        return format!("{}{suffix}", text.trim_end_matches('0').trim_end_matches('.'));
    }
    text + suffix
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_none_is_another() {
        for (number, text) in [
            (0.0, "0"),
            (1.0, "1"),
            (-2.5, "-2.5"),
            (12.34, "12.3"),
            (999.6, "1000"),
            (1234.0, "1234"),
            (12_345.0, "12.3k"),
            (5e6, "5M"),
            (2.7e11, "270G"),
            (0.0123, "0.0123"),
            (0.000_012, "1.20e-5"),
            (7e18, "7.000e18"),
        ] {
            assert_eq!(short(number), text);
        }
    }
}
