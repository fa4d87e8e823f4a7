//! How many bytes an answer takes, near enough: what is worth most is given first, and the rest is counted.

use super::Error;
use super::groups::Key;

/// Bytes of an answer, when the request does not say, and the most that it may say: clients take messages
/// of 4 MiB unless they are told.
pub(super) const DEFAULT_BYTES: usize = 1 << 20;
const MAX_BYTES: usize = 3 << 20;

/// What is left for an answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    left: usize,
}

impl Budget {
    /// As many as the request says, or so many.
    pub(super) fn of(asked: Option<u32>, default: usize) -> Result<Self, Error> {
        match asked.unwrap_or(0) as usize {
            0 => Ok(Self { left: default }),
            asked if asked <= MAX_BYTES => Ok(Self { left: asked }),
            asked => {
                let message = format!("{asked} is above {MAX_BYTES}; ask for less at a time");
                Err(Error::Invalid { field: "max_bytes", message })
            }
        }
    }

    /// Takes so many, if there are any left; the last may take more than there are.
    pub(super) fn take(&mut self, bytes: usize) -> bool {
        let is_there = self.left > 0;
        if is_there {
            self.left = self.left.saturating_sub(bytes);
        }
        is_there
    }

    /// Whether nothing is left.
    pub(super) const fn is_spent(self) -> bool {
        self.left == 0
    }

    /// Keeps those of a list, from the start, for which there is room; says how many that leaves out.
    pub(super) fn keep<T>(&mut self, list: &mut Vec<T>, bytes: impl Fn(&T) -> usize) -> u64 {
        let kept = list.iter().take_while(|one| self.take(bytes(one))).count();
        let left_out = list.len() - kept;
        list.truncate(kept);
        left_out as u64
    }
}

impl Key {
    /// Bytes of its names.
    pub(super) fn bytes(&self) -> usize {
        self.labels.as_canonical().len()
            + self.component.as_ref().map_or(0, |name| name.len())
            + self.metric.as_ref().map_or(0, |name| name.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_first_is_kept_and_the_rest_is_counted() {
        let mut budget = Budget::of(Some(10), DEFAULT_BYTES).unwrap();
        let mut first = vec![4; 2];
        assert_eq!((budget.keep(&mut first, |bytes| *bytes), first.len()), (0, 2));
        let mut second = vec![3; 5];
        assert_eq!((budget.keep(&mut second, |bytes| *bytes), second.len()), (4, 1));
        assert_eq!(budget.keep(&mut vec![0; 2], |bytes| *bytes), 2, "nothing is left");
        assert!(Budget::of(Some(4 << 20), 1).unwrap_err().to_string().contains("max_bytes"));
        assert!(Budget::of(Some(0), 1).unwrap().take(100), "one is always given");
    }
}
