//! The one place of the client that reads the wall clock.

use model::Timestamp;
use std::time::UNIX_EPOCH;

/// The time now, by the system.
#[expect(clippy::disallowed_methods, reason = "this is the clock")]
pub(crate) fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::default().after(since)
}
