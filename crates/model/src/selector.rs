//! Which series are meant: components, metric names and labels, all of which must fit.
//!
//! Names may be patterns: no name holds a `*`. Label values may hold one, so whether a value is a
//! pattern is said.

use crate::glob::Glob;
use crate::series::Series;
use std::fmt;

/// A choice of series. An empty one chooses all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Selector {
    /// Only series of components of this name.
    pub component: Option<Glob>,
    /// Only series of metrics with one of these names; empty: of any.
    pub metrics: Vec<Glob>,
    /// Only series whose labels fit each of these.
    pub labels: Vec<Matcher>,
}

/// What is asked of one label.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Matcher {
    /// The label's name.
    pub name: String,
    /// What fits.
    pub fits: Fits,
}

/// Which series fit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Fits {
    /// Those whose label has this value.
    Is(String),
    /// All others, with those that do not have the label.
    IsNot(String),
    /// Those that have the label, with a value that the pattern fits.
    Like(Glob),
    /// All others, with those that do not have the label.
    NotLike(Glob),
}

impl Matcher {
    /// That a label has this value.
    pub const fn is(name: String, value: String) -> Self {
        Self { name, fits: Fits::Is(value) }
    }

    fn matches(&self, series: &Series) -> bool {
        let value = series.labels.get(&self.name);
        match &self.fits {
            Fits::Is(wanted) => value == Some(wanted),
            Fits::IsNot(other) => value != Some(other),
            Fits::Like(glob) => value.is_some_and(|value| glob.matches(value)),
            Fits::NotLike(glob) => !value.is_some_and(|value| glob.matches(value)),
        }
    }
}

impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        match &self.fits {
            Fits::Is(value) => write!(f, "{name}={value:?}"),
            Fits::IsNot(value) => write!(f, "{name}!={value:?}"),
            Fits::Like(glob) => write!(f, "{name}~{:?}", glob.to_string()),
            Fits::NotLike(glob) => write!(f, "{name}!~{:?}", glob.to_string()),
        }
    }
}

impl Selector {
    /// All of a component, or of those whose names fit.
    pub fn of_component(name: &str) -> Self {
        Self { component: Some(Glob::new(name)), ..Self::default() }
    }

    /// Whether the series is meant.
    pub fn matches(&self, series: &Series) -> bool {
        self.matches_component(&series.metric.component)
            && self.matches_metric(&series.metric.name)
            && self.labels.iter().all(|matcher| matcher.matches(series))
    }

    /// Whether series of a component of this name may be meant.
    pub fn matches_component(&self, name: &str) -> bool {
        self.component.as_ref().is_none_or(|wanted| wanted.matches(name))
    }

    /// Whether series of a metric of this name may be meant.
    pub fn matches_metric(&self, name: &str) -> bool {
        self.metrics.is_empty() || self.metrics.iter().any(|wanted| wanted.matches(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::labels::Labels;
    use crate::series::{Kind, Metric, SeriesId};
    use std::sync::Arc;

    fn series(labels: &[(&str, &str)]) -> Series {
        let metric = Metric {
            component: "shop/cart".into(),
            name: "orders".into(),
            kind: Kind::Counter,
            unit: "".into(),
            description: "".into(),
        };
        let labels = Labels::new(labels.iter().copied()).unwrap();
        Series { id: SeriesId::new(1, 0), metric: Arc::new(metric), labels }
    }

    #[test]
    fn names_and_labels_must_all_fit() {
        let swiss = series(&[("country", "ch"), ("note", "5*")]);
        let selector = |component: &str, metrics: &[&str], labels: &[(&str, Fits)]| Selector {
            component: Some(Glob::new(component)),
            metrics: metrics.iter().map(|name| Glob::new(name)).collect(),
            labels: labels
                .iter()
                .map(|(name, fits)| Matcher { name: (*name).to_owned(), fits: fits.clone() })
                .collect(),
        };
        let (is, is_not) = (|v: &str| Fits::Is(v.to_owned()), |v: &str| Fits::IsNot(v.to_owned()));
        let (like, not_like) =
            (|v: &str| Fits::Like(Glob::new(v)), |v: &str| Fits::NotLike(Glob::new(v)));
        assert!(Selector::default().matches(&swiss));
        assert!(selector("shop/*", &["x", "ord*"], &[("country", is("ch"))]).matches(&swiss));
        for wrong in [
            selector("shop", &[], &[]),
            selector("*", &["order"], &[]),
            selector("*", &[], &[("country", is("c*"))]),
            selector("*", &[], &[("country", is_not("ch"))]),
            selector("*", &[], &[("country", not_like("c*"))]),
            selector("*", &[], &[("zone", is(""))]),
            selector("*", &[], &[("country", is("ch")), ("zone", like("*"))]),
        ] {
            assert!(!wrong.matches(&swiss), "{wrong:?}");
        }
        for right in [
            selector("*", &[], &[("note", is("5*"))]),
            selector("*", &[], &[("country", like("*"))]),
            selector("*", &[], &[("zone", not_like("*"))]),
            selector("*", &[], &[("zone", is_not("x")), ("country", like("c*"))]),
        ] {
            assert!(right.matches(&swiss), "{right:?}");
        }
    }
}
