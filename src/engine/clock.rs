//! The one place that reads the wall clock. Everything else takes `now`.

use model::Timestamp;
use std::sync::Arc;

/// A wall clock: the system's, or one that a test turns.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Clock {
    /// The system's.
    pub fn system() -> Self {
        #[expect(clippy::disallowed_methods, reason = "this is the clock")]
        let now = || Timestamp::from_ms(jiff::Timestamp::now().as_millisecond());
        Self(Arc::new(now))
    }

    /// One that says what this says.
    pub fn new(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The time now.
    pub fn now(&self) -> Timestamp {
        (self.0)()
    }
}
