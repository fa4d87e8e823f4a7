//! Retention as it is set: for all series, and for those that a file names.
//!
//! What cannot be read deletes nothing: then ages count for nothing until it is mended.

use crate::state::State;
use crate::storage::policy::Override;
use model::{Glob, Retention, Selector, SeriesId, Width};
use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// The settings whose wrong value must not drop anything: the default in its place might.
pub const HOLD_IF_WRONG: [&str; 2] = ["retention", "retention-file"];

/// A retention as it is set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetentionSetting(pub Retention);

impl FromStr for RetentionSetting {
    type Err = model::RetentionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

impl fmt::Display for RetentionSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl RetentionSetting {
    /// Widths that pending buckets may have when the storage fails, finest first: those of the tiers,
    /// and then minute, hour and day.
    pub(super) fn widths(&self) -> Box<[Width]> {
        let mut widths: Vec<Width> = self.0.tiers().iter().map(|tier| tier.width).collect();
        for secs in [60, 3600, 86_400] {
            let width = Width::from_secs(secs);
            if widths.last().is_some_and(|last| width > *last && width.is_multiple_of(*last)) {
                widths.push(width);
            }
        }
        widths.into()
    }
}

/// Retentions of chosen series, in the order in which they count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides(Vec<(Glob, Retention)>);

/// A line that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "line {line}: {text:?} is not component/metric=width:age,..., such as system/*=10s:30d: {why}"
)]
pub struct OverrideError {
    line: usize,
    text: String,
    why: String,
}

impl FromStr for Overrides {
    type Err = OverrideError;

    /// One override a line; empty lines and those that begin with # say nothing.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut overrides = Vec::new();
        for (line, text) in text.lines().map(str::trim).enumerate() {
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let wrong = |why: String| OverrideError { line: line + 1, text: text.to_owned(), why };
            let Some((selector, ladder)) = text.split_once('=') else {
                return Err(wrong("there is no =".to_owned()));
            };
            let selector = selector.trim();
            if !selector.contains('/') && selector != "*" {
                return Err(wrong("the selector has no /".to_owned()));
            }
            let ladder = ladder.parse().map_err(|error| wrong(format!("{error}")))?;
            overrides.push((Glob::new(selector), ladder));
        }
        Ok(Self(overrides))
    }
}

impl Overrides {
    /// From a file, for the command line.
    pub fn read(path: &str) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
        text.parse().map_err(|error| format!("{path}: {error}"))
    }

    /// The first whose buckets are not made of whole buckets of fresh data.
    pub(super) fn misfit(&self, base: &Retention) -> Option<String> {
        let width = base.base_width();
        let fits = |ladder: &Retention| ladder.base_width().is_multiple_of(width);
        let misfit = self.0.iter().find(|(_, ladder)| !fits(ladder));
        misfit.map(|(selector, ladder)| format!("{selector}={ladder}"))
    }

    /// With the series that each of them means now.
    pub(super) fn resolve(&self, state: &State) -> Vec<Override> {
        if self.0.is_empty() {
            return Vec::new();
        }
        let all = state.select(&Selector::default());
        let named = |glob: &Glob| -> HashSet<SeriesId> {
            let fits = all.iter().filter(|selected| {
                let metric = &selected.series.metric;
                glob.matches(&format!("{}/{}", metric.component, metric.name))
            });
            fits.map(|selected| selected.series.id).collect()
        };
        let overrides = self.0.iter().map(|(glob, ladder)| Override {
            selector: glob.to_string(),
            retention: ladder.clone(),
            series: Arc::new(named(glob)),
        });
        overrides.collect()
    }
}

/// How old samples may be.
pub(super) struct Reach {
    base: Duration,
    overrides: Overrides,
}

impl Reach {
    pub(super) fn new(base: &Retention, overrides: Option<&Overrides>) -> Self {
        Self { base: base.max_age(), overrides: overrides.cloned().unwrap_or_default() }
    }

    fn all(&self) -> impl Iterator<Item = Duration> {
        let others = self.overrides.0.iter().map(|(_, ladder)| ladder.max_age());
        others.chain([self.base])
    }

    /// So old a sample may be of any series.
    pub(super) fn least(&self) -> Duration {
        self.all().min().unwrap_or(self.base)
    }

    /// So old it may be of some.
    pub(super) fn most(&self) -> Duration {
        self.all().max().unwrap_or(self.base)
    }

    /// So old it may be of this one.
    pub(super) fn of(&self, component: &str, metric: &str) -> Duration {
        let name = format!("{component}/{metric}");
        let own = self.overrides.0.iter().find(|(selector, _)| selector.matches(&name));
        own.map_or(self.base, |(_, ladder)| ladder.max_age())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_a_selector_and_a_ladder_a_line() {
        let text = "# the host\nsystem/*=10s:30d\n\n */errors = 1s:7d,1h:5y\n";
        let Overrides(overrides) = text.parse().unwrap();
        let ladders: Vec<String> = overrides.iter().map(|(_, ladder)| ladder.to_string()).collect();
        assert_eq!(ladders, ["10s:30d", "1s:1w,1h:5y"]);
        assert!(overrides[1].0.matches("api/errors"));
    }

    #[test]
    fn a_line_that_cannot_be_read_is_named() {
        for (text, line) in [("a/b=1s:1d\nsystem", 2), ("x=1s:1d", 1), ("a/*=often", 1)] {
            let error = text.parse::<Overrides>().unwrap_err();
            assert_eq!(error.line, line, "{error}");
        }
    }

    #[test]
    fn buckets_that_fresh_ones_do_not_make_up_are_named() {
        let overrides: Overrides = "a/*=10s:1d\nb/*=15s:1d".parse().unwrap();
        let base = |text: &str| text.parse::<Retention>().unwrap();
        assert_eq!(overrides.misfit(&base("5s:1d")), None);
        assert_eq!(overrides.misfit(&base("10s:1d")), Some("b/*=15s:1d".to_owned()));
    }
}
