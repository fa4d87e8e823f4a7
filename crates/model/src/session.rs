//! How far a client is that numbers its requests.
//!
//! Neither an epoch nor a sequence ever goes down while the session is kept.

use std::sync::Arc;
use std::time::Duration;

/// What is stored of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The client's name.
    pub client: Arc<str>,
    /// Streams of an earlier epoch can send nothing any more. At most 2^63 - 1.
    pub epoch: u64,
    /// The last of its requests that is folded; all before it are. At most 2^63 - 1.
    pub sequence: u64,
    /// When it was last heard of, by the time that the service has lived.
    pub seen: Duration,
    /// What becomes of it.
    pub fate: Fate,
}

/// What becomes of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It goes on.
    Kept,
    /// It was silent for too long: only that there was one is kept.
    Forgotten,
    /// Not even that.
    Removed,
}
