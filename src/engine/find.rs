//! Finding the series that are meant; or saying what there is instead.

use super::{Engine, Error};
use crate::state::Selected;
use model::{Glob, Selector};
use std::sync::Arc;

/// How many names an error lists.
const MAX_NAMED: usize = 20;

/// How many names are looked at for the nearest.
const MAX_COMPARED: usize = 10_000;

impl Engine {
    /// The series meant, in the order of ids, or an error that says what there is instead.
    pub(super) fn find(&self, selector: &Selector) -> Result<Vec<Selected>, Error> {
        let mut selected = self.state.select(selector);
        if !selected.is_empty() {
            selected.sort_unstable_by_key(|selected| selected.series.id);
            return Ok(selected);
        }
        Err(Error::NotFound(self.nearest(selector)))
    }

    /// What there is instead of what was asked for.
    fn nearest(&self, selector: &Selector) -> String {
        let all = Glob::new("*");
        let asked = selector.component.as_ref().unwrap_or(&all);
        let of_component =
            Selector { component: selector.component.clone(), ..Selector::default() };
        let metrics = self.state.metric_names(&of_component, MAX_COMPARED);
        if metrics.is_empty() {
            let components = self.state.components(None, MAX_COMPARED);
            let names = components.into_iter().map(|component| component.name).collect();
            return listed(
                &format!("component {:?} does not exist; there are", asked.to_string()),
                names,
                &[asked],
            );
        }
        let is_known = |name: &Arc<str>| selector.matches_metric(name);
        if !selector.metrics.is_empty() && !metrics.iter().any(is_known) {
            let wanted: Vec<&Glob> = selector.metrics.iter().collect();
            let what =
                format!("component {:?} has no such metrics; its metrics are", asked.to_string());
            return listed(&what, metrics, &wanted);
        }
        let without = Selector { labels: Vec::new(), ..selector.clone() };
        let some = self.state.select_after(&without, None, MAX_COMPARED);
        let labels = some.iter().flat_map(|one| one.series.labels.iter());
        let mut labels: Vec<Arc<str>> =
            labels.map(|(name, value)| format!("{name}={value:?}").into()).collect();
        labels.sort_unstable();
        labels.dedup();
        let wanted: Vec<Glob> =
            selector.labels.iter().map(|matcher| Glob::new(&matcher.to_string())).collect();
        listed(
            "no such series has these labels; there are",
            labels,
            &wanted.iter().collect::<Vec<_>>(),
        )
    }
}

/// The names after these words, those first that are most like what is wanted.
fn listed(what: &str, mut names: Vec<Arc<str>>, wanted: &[&Glob]) -> String {
    if names.is_empty() {
        return format!("{what} none yet");
    }
    let wanted: Vec<String> = wanted.iter().map(ToString::to_string).collect();
    let likeness = |name: &str| {
        let each = wanted.iter().map(|wanted| strsim::jaro_winkler(wanted, name));
        each.fold(0.0, f64::max)
    };
    let count = names.len();
    names.sort_by_cached_key(|name| std::cmp::Reverse((likeness(name) * 1e6) as u32));
    names.truncate(MAX_NAMED);
    let more = match count - names.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{what} {}{more}", names.join(", "))
}
