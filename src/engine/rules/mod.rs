//! Rules: thresholds that people set, and what became of them.
//!
//! What a rule says follows from what is stored and the time, and from nothing else: so it is the same
//! after a restart.

mod evaluate;
mod file;
#[cfg(test)]
mod tests;

pub use file::{Op, Rule, Severity};

use super::Engine;
use model::Timestamp;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// How often rules are looked at, and their file for changes.
const EVERY: Duration = Duration::from_secs(5);

/// What is said of a metric that a rule is about.
#[derive(Clone, Debug, PartialEq)]
pub struct Ruled {
    /// The rule.
    pub rule: Arc<Rule>,
    /// The component and the metric; none where the rule fits nothing that there is.
    pub metric: Option<(Arc<str>, Arc<str>)>,
    /// What it says.
    pub state: RuleState,
    /// The latest value; none without data.
    pub value: Option<f64>,
    /// Since when it holds: the start of a step; none if it does not.
    pub since: Option<Timestamp>,
}

impl Ruled {
    /// Whether it fires.
    pub fn fires(&self) -> bool {
        self.state == RuleState::Firing
    }

    /// Bytes that it takes in an answer, near enough.
    pub(super) fn bytes(&self) -> usize {
        const FIGURES: usize = 150;
        let names =
            self.metric.as_ref().map_or(0, |(component, name)| component.len() + name.len());
        FIGURES + names + self.rule.to_string().len() + self.rule.message.len()
    }

    /// Tells the log.
    fn tell(&self) {
        let Self { rule, metric, state, value, .. } = self;
        let metric = metric.as_ref().map(|(component, metric)| format!("{component}/{metric}"));
        let metric = metric.unwrap_or_default();
        if self.fires() {
            tracing::warn!(%rule, metric, value, message = rule.message, "a rule fires");
        } else {
            tracing::info!(%rule, metric, value, ?state, "a rule fires no more");
        }
    }
}

/// What a rule says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RuleState {
    /// It does not hold.
    Ok,
    /// There is nothing to say it of.
    NoData,
    /// It holds, but not for long enough.
    Pending,
    /// It holds for as long as it must.
    Firing,
}

/// What all rules say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RuleStates {
    /// Each rule of each metric, the worst first.
    pub ruled: Vec<Ruled>,
    /// How many are left out, beyond the most that are kept.
    pub omitted: u64,
    /// Why the file is not what counts: it cannot be read, or what is in it cannot be right.
    pub error: Option<String>,
    /// When that was looked at; none: never.
    pub at: Option<Timestamp>,
}

impl RuleStates {
    /// Those that fire.
    pub fn firing(&self) -> impl Iterator<Item = &Ruled> {
        self.ruled.iter().filter(|ruled| ruled.fires())
    }
}

/// The task that looks at the rules.
pub struct Watchman {
    engine: Arc<Engine>,
    path: PathBuf,
    /// The text that the rules were read from, or could not be.
    text: Option<String>,
    rules: Vec<Arc<Rule>>,
    error: Option<String>,
    states: watch::Sender<Arc<RuleStates>>,
}

impl Watchman {
    /// None without a file of rules.
    pub(super) fn new(
        engine: Arc<Engine>,
        path: Option<PathBuf>,
        states: watch::Sender<Arc<RuleStates>>,
    ) -> Option<Self> {
        let (text, rules, error) = (None, Vec::new(), None);
        Some(Self { engine, path: path?, text, rules, error, states })
    }

    /// Looks at the rules until told to stop.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut tick = tokio::time::interval(EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let look = async {
            loop {
                tick.tick().await;
                self.read().await;
                self.look().await;
            }
        };
        stop.run_until_cancelled(look).await;
    }

    /// Reads the file, if it changed.
    pub(super) async fn read(&mut self) {
        let path = self.path.clone();
        let read = tokio::task::spawn_blocking(move || std::fs::read_to_string(path)).await;
        let parsed = match read {
            Ok(Ok(text)) if self.text.as_ref() == Some(&text) => return,
            Ok(Ok(text)) => {
                let parsed = file::parse(&text);
                self.text = Some(text);
                parsed
            }
            Ok(Err(error)) => {
                self.text = None;
                Err(error.to_string())
            }
            Err(_) => return,
        };
        match parsed {
            Ok(rules) => {
                tracing::info!(rules = rules.len(), "the file of rules was read");
                self.rules = rules.into_iter().map(Arc::new).collect();
                self.error = None;
            }
            Err(error) => {
                let error = format!("HEALTH_RULES_FILE {}: {error}", self.path.display());
                if self.error.as_ref() != Some(&error) {
                    tracing::error!(%error, kept = self.rules.len(), "the rules before stay");
                }
                self.error = Some(error);
            }
        }
    }

    /// Finds out what the rules say now, and tells the log what changed.
    pub(super) async fn look(&mut self) {
        let mut states = self.engine.evaluate(&self.rules).await;
        let before = self.states.borrow().clone();
        for ruled in &mut states.ruled {
            let same = |other: &&Ruled| other.rule == ruled.rule && other.metric == ruled.metric;
            let was = before.ruled.iter().find(same);
            let (fired, fires) = (was.is_some_and(Ruled::fires), ruled.fires());
            if fired && fires {
                // It looks back no further than it must.
                ruled.since = ruled.since.min(was.and_then(|was| was.since));
            }
            if fired != fires {
                ruled.tell();
            }
        }
        self.states.send_replace(Arc::new(RuleStates { error: self.error.clone(), ..states }));
    }
}

impl Engine {
    /// What all rules said when they were last looked at.
    pub fn rules(&self) -> Arc<RuleStates> {
        self.rules.borrow().clone()
    }
}
