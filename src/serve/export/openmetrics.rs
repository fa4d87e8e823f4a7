//! OpenMetrics text 1.0 (<https://github.com/prometheus/OpenMetrics/blob/main/specification/OpenMetrics.md>):
//! counters as running totals since the range's start, rolling metrics as gauges of the mean.
//!
//! All points of a family stand together, and all of a series in the order of time, as the format
//! demands. Names are made to fit it; what they were is a label then.

use super::{Format, Totals, Written};
use crate::engine::{Exported, Exporting};
use model::{Fold, Kind, Series, SeriesId, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

#[derive(Default)]
pub(super) struct OpenMetrics {
    /// What each metric is called here.
    families: BTreeMap<(String, Kind), String>,
    family: Option<String>,
    /// The series that is being written, and its total so far.
    total: (Option<SeriesId>, f64),
}

impl Format for OpenMetrics {
    fn begin(&mut self, exporting: &mut Exporting, _out: &mut Vec<u8>) -> Written {
        let kinds: BTreeSet<(String, Kind)> = exporting
            .series()
            .map(|series| (fitting(&series.metric.name, true), series.metric.kind))
            .collect();
        let mut taken: BTreeSet<String> = BTreeSet::new();
        for (name, kind) in kinds {
            let base = match kind {
                Kind::Counter => name.strip_suffix("_total").unwrap_or(&name).to_owned(),
                Kind::Rolling => name.clone(),
            };
            // No two families may have samples of one name.
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
            self.families.insert((name, kind), family);
        }
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
        if self.total.0 != Some(series.id) {
            self.total = (Some(series.id), 0.0);
        }
        let labels = labels(series);
        for (time, fold) in &exported.folds {
            match fold {
                Fold::Counter(fold) => {
                    self.total.1 += fold.sum;
                    // It had grown so far when the bucket ended.
                    let end = Timestamp::from_ms(time.as_ms() + exported.width.as_ms());
                    writeln!(text, "{family}_total{labels} {} {}", self.total.1, seconds(end))?;
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
    (fitting(&series.metric.name, true), series.metric.kind)
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

/// The labels of a series, with its component, and with its name if that does not fit.
fn labels(series: &Series) -> String {
    let mut labels: Vec<(String, String)> =
        vec![("component".to_owned(), escaped(&series.metric.component))];
    if fitting(&series.metric.name, true) != *series.metric.name {
        labels.push(("metric".to_owned(), escaped(&series.metric.name)));
    }
    for (name, value) in series.labels.iter() {
        let mut name = fitting(name, false);
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
        assert_eq!(escaped("a\\b\"c\nd"), "a\\\\b\\\"c\\nd");
        assert_eq!(seconds(Timestamp::from_ms(1_500)), "1.500");
        assert_eq!(seconds(Timestamp::from_ms(-1_500)), "-1.500");
    }
}
