//! Housekeeping: merges, rollups, retention and what else the storage does between flushes.
//!
//! It holds nobody up and holds no data, so it may be stopped at any moment. No data is dropped for
//! its age by a clock that jumped: ages are taken by whichever of the wall clock and the monotonic
//! one has come less far since the start.

use super::session::Life;
use super::{Clock, Config, Overrides};
use crate::state::{At, State};
use crate::storage::policy::Override;
use crate::storage::{More, Policy, Storage};
use model::{Retention, Timestamp};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

/// How often it looks whether there is something to do.
const EVERY: Duration = Duration::from_secs(1);
/// How often, at most, it looks for sessions that were silent for too long.
const SESSIONS_EVERY: Duration = Duration::from_mins(1);

/// The task that tidies up.
pub struct Maintainer {
    storage: Arc<dyn Storage>,
    clock: Clock,
    ages: Ages,
    state: Arc<State>,
    retention: Retention,
    overrides: Overrides,
    /// The overrides with the series that they mean, as of so many series.
    resolved: (usize, Vec<Override>),
    /// Whether ages count for nothing.
    hold: bool,
    failing: bool,
    life: Life,
    session_ttl: Duration,
    /// When it last looked for silent sessions.
    looked: Instant,
}

impl Maintainer {
    pub(super) fn new(
        state: Arc<State>,
        storage: Arc<dyn Storage>,
        (clock, life): (Clock, Life),
        config: &Config,
    ) -> Self {
        let ages = Ages { wall: clock.now(), monotonic: Instant::now(), jumped: false };
        let is_read_only = storage.read_only().is_some();
        let overrides = config.retention_file.clone().unwrap_or_default();
        let misfit = overrides.misfit(&config.retention.0);
        if let Some(misfit) = &misfit {
            tracing::error!(
                "HEALTH_RETENTION_FILE: the first width of {misfit} is no multiple of that of \
                 HEALTH_RETENTION; nothing is rolled up or dropped until that is mended"
            );
        }
        Self {
            storage,
            clock,
            ages,
            state,
            retention: config.retention.0.clone(),
            overrides,
            resolved: (0, Vec::new()),
            hold: config.retention_hold || misfit.is_some() || is_read_only,
            failing: false,
            life,
            session_ttl: config.session_ttl,
            looked: Instant::now(),
        }
    }

    /// Tidies up until told to stop.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut tick = tokio::time::interval(EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let tidy = async {
            loop {
                tick.tick().await;
                while self.tidy().await == More::Yes {}
            }
        };
        stop.run_until_cancelled(tidy).await;
    }

    async fn tidy(&mut self) -> More {
        let now = self.clock.now();
        if self.looked.elapsed() >= SESSIONS_EVERY.min(self.session_ttl / 2) {
            self.looked = Instant::now();
            let at = At { now, lived: self.life.lived() };
            self.state.forget_silent_sessions(self.session_ttl, at);
        }
        let policy = self.policy(now);
        match self.storage.maintain(now, &Arc::new(policy)).await {
            Ok(more) => {
                self.failing = false;
                more
            }
            Err(error) => {
                if !self.failing {
                    tracing::warn!(%error, "the storage could not be tidied up; it is tried again");
                }
                self.failing = true;
                More::No
            }
        }
    }
}

impl Maintainer {
    fn policy(&mut self, now: Timestamp) -> Policy {
        let count = self.state.series_count();
        if self.resolved.0 != count {
            self.resolved = (count, self.overrides.resolve(&self.state));
        }
        let ages = self.ages.now(now);
        Policy {
            retention: self.retention.clone(),
            overrides: self.resolved.1.clone(),
            // Before the first moment nothing has an age.
            now: if self.hold { Timestamp::MIN } else { ages },
        }
    }
}

/// How far ahead of the monotonic clock the wall clock may be before it is said to have jumped.
const JUMP: Duration = Duration::from_mins(1);

/// The clock of ages.
struct Ages {
    /// Both clocks at the start.
    wall: Timestamp,
    monotonic: Instant,
    jumped: bool,
}

impl Ages {
    fn now(&mut self, wall: Timestamp) -> Timestamp {
        let steady = self.wall.after(self.monotonic.elapsed());
        let jumped = wall.since(steady) > JUMP;
        if jumped && !self.jumped {
            tracing::warn!(
                wall = %wall, steady = %steady,
                "the wall clock jumped ahead; until a restart, nothing is dropped or rolled up by it"
            );
        }
        self.jumped = jumped;
        wall.min(steady)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_wall_clock_that_jumps_ages_nothing() {
        let start = Timestamp::from_ms(1_000_000);
        let mut ages = Ages { wall: start, monotonic: Instant::now(), jumped: false };
        tokio::time::advance(Duration::from_secs(10)).await;
        let later = start.after(Duration::from_secs(10));
        assert_eq!(ages.now(later), later);
        assert_eq!(ages.now(later.after(Duration::from_hours(9000))), later, "ahead");
        let back = later.before(Duration::from_hours(9000));
        assert_eq!(ages.now(back), back, "back: what is kept stays");
    }
}
