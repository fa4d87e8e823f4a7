//! Which numbers may enter.
//!
//! What passes here can be added up for as long as anyone likes: no sum of accepted values
//! overflows, and no NaN, infinity or negative zero is ever stored.

/// The largest magnitude that is accepted, 2^960: so 2^63 of them add up below the largest f64.
pub const MAX_MAGNITUDE: f64 = f64::from_bits((1023 + 960) << 52);

/// A number that is refused.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum ValueError {
    /// Not a number.
    #[error("is NaN; leave the sample out instead")]
    NaN,
    /// Infinite, or too large.
    #[error("is {0:e}; finite magnitudes up to 2^960 are accepted")]
    TooLarge(f64),
    /// A counter cannot go down.
    #[error("is {0}; an increment is zero or more: for what goes down, use an observation")]
    Negative(f64),
}

/// Checks an observation: finite, magnitude at most 2^960. Gives it back, -0.0 as 0.0.
pub fn check_value(value: f64) -> Result<f64, ValueError> {
    if value.is_nan() {
        return Err(ValueError::NaN);
    }
    if value.abs() > MAX_MAGNITUDE {
        return Err(ValueError::TooLarge(value));
    }
    Ok(value + 0.0)
}

/// Checks an increment: as an observation, and not negative.
pub fn check_increment(value: f64) -> Result<f64, ValueError> {
    match check_value(value) {
        Ok(value) if value < 0.0 => Err(ValueError::Negative(value)),
        checked => checked,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_finite_numbers_that_can_be_added_up_are_accepted() {
        assert_eq!(check_value(f64::NAN).map_err(|e| e.to_string().contains("NaN")), Err(true));
        assert_eq!(check_value(f64::INFINITY), Err(ValueError::TooLarge(f64::INFINITY)));
        assert_eq!(check_value(MAX_MAGNITUDE), Ok(2f64.powi(960)));
        assert!(check_value(MAX_MAGNITUDE * 1.001).is_err());
        assert_eq!(check_value(-0.0).map(f64::to_bits), Ok(0));
        assert_eq!(check_increment(-0.0).map(f64::to_bits), Ok(0));
        assert_eq!(check_increment(-1.0), Err(ValueError::Negative(-1.0)));
        assert_eq!(check_value(f64::from_bits(1)), Ok(f64::from_bits(1)));
    }
}
