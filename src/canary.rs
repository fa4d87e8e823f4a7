//! Faults that are planted on purpose, to see whether the rig of faults catches them.
//!
//! They are in a build of their own (`HEALTHD_CANARY=1 cargo build`), in which the variable HEALTH_CANARY
//! chooses one. In any other build there is none.

/// What may be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Canary {
    /// A flush counts as committed before it is.
    AckBeforeCommit,
    /// The database is not synced at a commit.
    NoSync,
    /// Sessions' marks are committed after the folds.
    MarksApart,
    /// Shards are emptied one after the other, while requests go on.
    NoCut,
    /// A flush whose outcome is unknown is stored again, whatever is found to have become of it.
    BlindRetry,
}

impl Canary {
    /// Its name in HEALTH_CANARY.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AckBeforeCommit => "ack-before-commit",
            Self::NoSync => "no-sync",
            Self::MarksApart => "marks-apart",
            Self::NoCut => "no-cut",
            Self::BlindRetry => "blind-retry",
        }
    }

    /// Whether this fault is there.
    #[cfg(canary)]
    pub fn is_planted(self) -> bool {
        static CHOSEN: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
        let chosen = CHOSEN.get_or_init(|| std::env::var("HEALTH_CANARY").ok());
        chosen.as_deref() == Some(self.name())
    }

    /// Whether this fault is there.
    #[cfg(not(canary))]
    pub const fn is_planted(self) -> bool {
        false
    }
}
