//! OpenMetrics text 1.0 (<https://github.com/prometheus/OpenMetrics/blob/main/specification/OpenMetrics.md>):
//! counters as running totals since the range's start, rolling metrics as gauges of the mean.
//!
//! `_created` says that a total began at zero there, so what is read again need not guess. All points of a family
//! stand together, and all of a series in the order of time, as the format demands. Names are made to fit it;
//! what they were is a label then.

use super::{Format, Totals, Written};
use crate::engine::{Exported, Exporting};
use model::{Fold, Kind, Series, SeriesId, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// The label that says the component.
pub const COMPONENT_LABEL: &str = "component";
/// The label that says what a metric is called that could not be called so here.
pub const METRIC_LABEL: &str = "metric";

#[derive(Default)]
pub(super) struct OpenMetrics {
    /// What each metric is called here.
    families: BTreeMap<(String, Kind), String>,
    family: Option<String>,
    /// The counter that is being written, and its total so far.
    total: Option<(SeriesId, f64)>,
    /// When totals are zero.
    start: Timestamp,
}

impl Format for OpenMetrics {
    fn begin(&mut self, exporting: &mut Exporting, _out: &mut Vec<u8>) -> Written {
        self.start = exporting.range().start;
        self.families = families(exporting.series().map(|series| key(series)).collect());
        let place = |series: &Series| self.families[&key(series)].clone();
        exporting.sort_by(|a, b| place(a).cmp(&place(b)).then(a.id.cmp(&b.id)));
        Ok(())
    }

    fn add(&mut self, exported: &Exported, out: &mut Vec<u8>) -> Written {
        let series = &exported.series;
        let family = &self.families[&key(series)];
        let mut text = String::new();
        if self.family.as_ref() != Some(family) {
            let kind = match series.metric.kind {
                Kind::Counter => "counter",
                Kind::Rolling => "gauge",
            };
            writeln!(text, "# TYPE {family} {kind}")?;
            let help = [&*series.metric.description, &*series.metric.unit];
            let help: Vec<&str> = help.into_iter().filter(|part| !part.is_empty()).collect();
            if !help.is_empty() {
                writeln!(text, "# HELP {family} {}", escaped(&help.join("; in ")))?;
            }
            self.family = Some(family.clone());
        }
        let labels = labels(series, family);
        for (time, fold) in &exported.folds {
            match fold {
                Fold::Counter(fold) => {
                    let before = self.total.filter(|(id, _)| *id == series.id);
                    let total = before.map_or(0.0, |(_, total)| total) + fold.sum;
                    self.total = Some((series.id, total));
                    // It had grown so far when the bucket ended.
                    let end = seconds(Timestamp::from_ms(time.as_ms() + exported.width.as_ms()));
                    writeln!(text, "{family}_total{labels} {total} {end}")?;
                    if before.is_none() {
                        let start = seconds(self.start);
                        writeln!(text, "{family}_created{labels} {start} {end}")?;
                    }
                }
                Fold::Rolling(fold) => {
                    writeln!(text, "{family}{labels} {} {}", fold.mean(), seconds(*time))?;
                }
            }
        }
        out.extend(text.into_bytes());
        Ok(())
    }

    fn end(&mut self, _totals: &Totals, out: &mut Vec<u8>) -> Written {
        out.extend(b"# EOF\n");
        Ok(())
    }
}

fn key(series: &Series) -> (String, Kind) {
    (fitting_name(&series.metric.name), series.metric.kind)
}

/// What metrics of these names and kinds are called: no two families have samples of one name.
fn families(kinds: BTreeSet<(String, Kind)>) -> BTreeMap<(String, Kind), String> {
    let mut taken: BTreeSet<String> = BTreeSet::new();
    let mut families = BTreeMap::new();
    for (name, kind) in kinds {
        let base = match kind {
            Kind::Counter => {
                let stem = name.strip_suffix("_total").filter(|stem| !stem.is_empty());
                stem.unwrap_or(&name).to_owned()
            }
            Kind::Rolling => name.clone(),
        };
        let samples = |family: &str| match kind {
            Kind::Counter => {
                vec![family.to_owned(), format!("{family}_total"), format!("{family}_created")]
            }
            Kind::Rolling => vec![family.to_owned()],
        };
        let mut family = base;
        while samples(&family).iter().any(|sample| taken.contains(sample)) {
            family.push('_');
        }
        taken.extend(samples(&family));
        families.insert((name, kind), family);
    }
    families
}

/// A metric's name as far as it can be had here.
pub fn fitting_name(name: &str) -> String {
    fitting(name, true)
}

/// A name of letters, digits and `_`, and in a metric `:`; others become `_`.
fn fitting(name: &str, is_metric: bool) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || is_metric && c == ':';
    let mut fitting: String = name.chars().map(|c| if fits(c) { c } else { '_' }).collect();
    if fitting.starts_with(|c: char| c.is_ascii_digit()) {
        fitting.insert(0, '_');
    }
    fitting
}

/// A label's name as far as it can be had here: those that begin with two `_` are Prometheus's own, and what
/// has nothing but these is no name.
fn fitting_label(name: &str) -> String {
    let fitting = fitting(name, false);
    let plain = fitting.trim_start_matches('_');
    match fitting.len() - plain.len() {
        _ if plain.is_empty() => "label".to_owned(),
        0 | 1 => fitting,
        _ => format!("_{plain}"),
    }
}

/// The labels of a series, with its component, and with its name if the family has another.
fn labels(series: &Series, family: &str) -> String {
    let mut labels: Vec<(String, String)> =
        vec![(COMPONENT_LABEL.to_owned(), escaped(&series.metric.component))];
    if *family != *series.metric.name {
        labels.push((METRIC_LABEL.to_owned(), escaped(&series.metric.name)));
    }
    for (name, value) in series.labels.iter() {
        let mut name = fitting_label(name);
        while labels.iter().any(|(known, _)| *known == name) {
            name.push('_');
        }
        labels.push((name, escaped(value)));
    }
    let labels: Vec<String> =
        labels.into_iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
    format!("{{{}}}", labels.join(","))
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn seconds(time: Timestamp) -> String {
    let ms = time.as_ms();
    let (sign, ms) = if ms < 0 { ("-", -ms) } else { ("", ms) };
    format!("{sign}{}.{:03}", ms / 1000, ms % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_texts_are_made_to_fit() {
        assert_eq!(fitting("http.server/errors-5xx", true), "http_server_errors_5xx");
        assert_eq!(fitting("5xx", true), "_5xx");
        assert_eq!((fitting("a:b", true), fitting("a:b", false)), ("a:b".into(), "a_b".into()));
        let labels = ["__name__", "_", "::", "_a", "a-b", "9"];
        let fitting = ["_name__", "label", "label", "_a", "a_b", "_9"];
        assert_eq!(labels.map(fitting_label), fitting);
        assert_eq!(escaped("a\\b\"c\nd"), "a\\\\b\\\"c\\nd");
        assert_eq!(seconds(Timestamp::from_ms(1_500)), "1.500");
        assert_eq!(seconds(Timestamp::from_ms(-1_500)), "-1.500");
    }

    #[test]
    fn no_two_families_have_samples_of_one_name() {
        use Kind::{Counter, Rolling};
        let names = ["a", "a_created", "a_total", "a_", "b_total", "a__total", "_total"];
        let all = names
            .iter()
            .flat_map(|name| [((*name).to_owned(), Counter), ((*name).to_owned(), Rolling)]);
        let families = families(all.collect());
        assert_eq!(families.len(), 14);
        assert!(families.values().all(|family| !family.is_empty()), "{families:?}");
        let mut samples: Vec<String> = Vec::new();
        for ((_, kind), family) in &families {
            samples.push(family.clone());
            if *kind == Counter {
                samples.extend([format!("{family}_total"), format!("{family}_created")]);
            }
        }
        let count = samples.len();
        samples.sort_unstable();
        samples.dedup();
        assert_eq!(samples.len(), count, "{families:?}");
        assert_eq!(families[&("b_total".to_owned(), Counter)], "b");
    }
}
