//! Samples that were refused: which, why, and what to do.

use crate::state::Refused;
use model::{FoldError, LabelsError, NameError, ValueError};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// Of how many refused samples of one request the message is kept. The others have their reason.
pub const MAX_MESSAGES: usize = 100;

/// Why a sample was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A name that cannot be.
    InvalidName,
    /// A label value that cannot be, or too many labels.
    InvalidLabel,
    /// No value, or one that cannot be.
    InvalidValue,
    /// Too far in the future.
    TimeAhead,
    /// Older than anything is kept.
    TimeTooOld,
    /// The metric is of the other kind.
    KindMismatch,
    /// The ref means nothing on this stream.
    UndeclaredRef,
    /// Columns that do not fit together.
    ColumnLength,
    /// A new series beyond the limit.
    SeriesLimit,
    /// Too large a request.
    TooManySamples,
    /// A unit or description that cannot be.
    InvalidText,
}

impl Reason {
    /// All of them, in the order of their declaration.
    pub const ALL: [Self; 11] = [
        Self::InvalidName,
        Self::InvalidLabel,
        Self::InvalidValue,
        Self::TimeAhead,
        Self::TimeTooOld,
        Self::KindMismatch,
        Self::UndeclaredRef,
        Self::ColumnLength,
        Self::SeriesLimit,
        Self::TooManySamples,
        Self::InvalidText,
    ];
}

/// One refused sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Its place in the request.
    pub index: u32,
    /// Why.
    pub reason: Reason,
    /// What was wrong and what to do; empty beyond the first [`MAX_MESSAGES`].
    pub message: String,
}

/// A reason with its message, before the sample is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// Why.
    pub(super) reason: Reason,
    /// What was wrong and what to do.
    pub(super) message: String,
}

impl Problem {
    pub(super) fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }

    pub(super) fn name(field: &str, name: &str, error: &NameError) -> Self {
        let shown = model::beginning(name);
        Self::new(Reason::InvalidName, format!("{field} {shown:?} {error}"))
    }

    pub(super) fn labels(error: &LabelsError) -> Self {
        let reason = match error {
            LabelsError::Name(..) => Reason::InvalidName,
            LabelsError::TooMany(_) | LabelsError::ValueTooLong(..) | LabelsError::Control(..) => {
                Reason::InvalidLabel
            }
        };
        Self::new(reason, format!("labels: {error}"))
    }

    pub(super) fn value(field: &str, error: ValueError) -> Self {
        Self::new(Reason::InvalidValue, format!("{field} {error}"))
    }

    pub(super) fn fold(error: FoldError) -> Self {
        Self::new(Reason::InvalidValue, format!("the fold's {error}"))
    }

    pub(super) fn refused(refused: Refused) -> Self {
        match refused {
            Refused::Kind(kind) => Self::new(
                Reason::KindMismatch,
                format!("the metric is a {kind}; send it as one, or under another name"),
            ),
            Refused::SeriesLimit(max) => Self::new(
                Reason::SeriesLimit,
                format!(
                    "there are {max} series already, as many as HEALTH_MAX_SERIES allows; use \
                     fewer label values or raise the limit"
                ),
            ),
        }
    }
}

/// The refused samples of one request.
#[derive(Debug, Default)]
pub(super) struct Rejections(pub(super) Vec<Rejection>);

impl Rejections {
    pub(super) fn push(&mut self, index: usize, problem: &Problem) {
        let tell = self.0.len() < MAX_MESSAGES;
        let message = if tell { problem.message.clone() } else { String::new() };
        self.0.push(Rejection { index: index as u32, reason: problem.reason, message });
    }
}

/// How many samples were refused since the start, by reason.
#[derive(Default)]
pub(super) struct Tally([AtomicU64; Reason::ALL.len()]);

impl Tally {
    pub(super) fn add(&self, reason: Reason, samples: u64) {
        self.0[reason as usize].fetch_add(samples, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> Vec<(Reason, u64)> {
        let counts = self.0.iter().map(|count| count.load(Ordering::Relaxed));
        Reason::ALL.into_iter().zip(counts).filter(|(_, count)| *count > 0).collect()
    }
}

impl fmt::Debug for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.read()).finish()
    }
}
