//! What goes wrong, sorted by what the caller does next.
//!
//! The text is for the caller: it names the field, the limit or the session, and the remedy.

use crate::storage::{self, Incarnation};
use std::time::Duration;

/// What went wrong, by what the caller does next.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Change this field.
    #[error("{field}: {message}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// What is wrong with it, and what to do.
        message: String,
    },
    /// Ask for something that there is.
    #[error("{0}")]
    NotFound(String),
    /// Send it again a little later.
    #[error(
        "the folds that wait for the storage fill HEALTH_MAX_PENDING_BYTES; send it again later"
    )]
    Overloaded,
    /// Ask for less, or allow more time.
    #[error(
        "the deadline passed; ask for a shorter range or fewer series, allow more time, or read the answer \
         faster"
    )]
    Deadline,
    /// Ask again: what was read first does not go with what is there now.
    #[error("older data was merged into wider buckets while it was read; ask again")]
    Changed,
    /// Another stream of the client is there: this one is over.
    #[error(
        "client {client:?} goes on elsewhere, with epoch {epoch}; this stream can send nothing more"
    )]
    Fenced {
        /// The client.
        client: String,
        /// The epoch that is in force.
        epoch: u64,
    },
    /// Send the requests in between first.
    #[error("request {expected} is expected, not {sent}; send all from {expected} on")]
    SequenceGap {
        /// The request that is the next.
        expected: u64,
        /// The one that came.
        sent: u64,
    },
    /// Begin a new session, and report what may be lost.
    #[error(
        "client {client:?} has no session here, though it sent something before: this is another database, \
         or an older one; begin a new session (last_sent 0, sequences from 1)"
    )]
    SessionUnknown {
        /// The client.
        client: String,
        /// Which life of the data this is.
        incarnation: Incarnation,
    },
    /// Begin a new session, and report what may be lost or counted twice.
    #[error(
        "the session of client {client:?} was forgotten after {} of silence (HEALTH_SESSION_TTL); begin \
         a new one (last_sent 0, sequences from 1)", model::format_span(*ttl)
    )]
    SessionForgotten {
        /// The client.
        client: String,
        /// Which life of the data this is.
        incarnation: Incarnation,
        /// How long a session is kept.
        ttl: Duration,
    },
    /// Use a name that has a session, or raise the limit.
    #[error(
        "there are {0} sessions, as many as HEALTH_MAX_SESSIONS allows; raise it, or lower \
         HEALTH_SESSION_TTL, so that clients that are gone are forgotten sooner"
    )]
    TooManySessions(usize),
    /// Make room.
    #[error("{0}")]
    NoRoom(String),
    /// Look after the directory of backups.
    #[error("{0}")]
    Shelf(String),
    /// Use another backup.
    #[error("{0}")]
    BadBackup(String),
    /// Turn it on.
    #[error("{0}")]
    Off(String),
    /// The service stops; send it to the next one.
    #[error("the service is stopping; connect again")]
    Stopping,
    /// What is stored can only be asked about.
    #[error("{0}")]
    ReadOnly(String),
    /// The storage does not work now; trying again may help.
    #[error("the storage does not answer: {0}")]
    Unavailable(String),
    /// What is stored is damaged.
    #[error("what is stored is damaged: {0}")]
    Corrupt(String),
}

impl From<storage::Error> for Error {
    fn from(error: storage::Error) -> Self {
        match error {
            storage::Error::Invalid(text)
            | storage::Error::Unavailable(text)
            | storage::Error::Foreign(text) => Self::Unavailable(text),
            storage::Error::Deadline => Self::Deadline,
            storage::Error::Coarser(_) => Self::Changed,
            storage::Error::Corrupt(text) => Self::Corrupt(text),
            damaged @ storage::Error::Damaged(..) => Self::Corrupt(damaged.to_string()),
        }
    }
}
