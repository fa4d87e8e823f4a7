//! OpenMetrics text 1.0 (<https://github.com/prometheus/OpenMetrics/blob/main/specification/OpenMetrics.md>),
//! as healthd and others export it: of counters the increases are taken.
//!
//! A total counts what grew *before* its time, so its increase stands a millisecond earlier: there an
//! exported bucket ended. What began at zero, and when, `_created` says; without it the first total says from
//! where to count.

use super::row::{Origin, Row, Value};
use super::source::{Lines, Position, Rows};
use crate::serve::{COMPONENT_LABEL, METRIC_LABEL, fitting_name};
use anyhow::bail;
use model::{Kind, Timestamp};
use std::collections::{BTreeMap, HashMap, VecDeque};

pub(super) struct OpenMetrics {
    lines: Lines,
    family: Family,
    /// When series of counters began.
    created: HashMap<Key, i64>,
    /// The totals of a point, which wait for whether a line says when they began.
    waiting: Vec<(Position, Counted)>,
    ready: VecDeque<(Position, Result<Row, String>)>,
    has_ended: bool,
}

/// A family, or what counters are called, and the labels of a point.
type Key = (String, BTreeMap<String, String>);

/// The family that lines are of.
#[derive(Default)]
struct Family {
    name: String,
    kind: String,
    unit: String,
    help: String,
}

/// A sample of a counter, or a part of a histogram or summary.
struct Counted {
    /// What the series of the point have in common.
    key: Key,
    sample: String,
    name: String,
    labels: BTreeMap<String, String>,
    total: f64,
    time: Option<Timestamp>,
}

/// A line with a value.
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
    time: Option<Timestamp>,
}

/// What a sample is to its family.
enum Part {
    /// A running total.
    Total,
    /// When running totals began.
    Created,
    /// A value that stands for itself.
    Value,
}

impl OpenMetrics {
    pub(super) fn new(lines: Lines) -> Self {
        Self {
            lines,
            family: Family::default(),
            created: HashMap::new(),
            waiting: Vec::new(),
            ready: VecDeque::new(),
            has_ended: false,
        }
    }

    fn take(&mut self, position: Position, line: &str) -> Result<(), String> {
        if let Some(comment) = line.strip_prefix("# ") {
            self.flush();
            return self.family.describe(comment, &mut self.has_ended);
        }
        let Sample { name, labels, value, time } = sample(line)?;
        let (base, part) = self.family.part(&name);
        let base = base.to_owned();
        let key = (base.clone(), without_buckets(&labels));
        match part {
            Part::Created => {
                self.created.insert(key, (value * 1000.0).round() as i64);
                self.flush();
            }
            Part::Total => {
                // Another point, or the next of this one.
                let is_other = |(_, one): &(Position, Counted)| {
                    one.key != key || one.sample == name && one.labels == labels
                };
                if self.waiting.iter().any(is_other) {
                    self.flush();
                }
                // A counter is called as its family is, and parts of other families as they are.
                let (sample, is_counter) = (name.clone(), self.family.kind == "counter");
                let name = if is_counter { base } else { name };
                let counted = Counted { key, sample, name, labels, total: value, time };
                self.waiting.push((position, counted));
            }
            Part::Value => {
                self.flush();
                let value = value.is_finite().then_some(Value::One(value));
                let row = self.row(name, labels, Kind::Rolling, time, value);
                self.ready.push_back((position, Ok(row)));
            }
        }
        Ok(())
    }

    /// Lets the totals go that wait.
    fn flush(&mut self) {
        for (position, counted) in std::mem::take(&mut self.waiting) {
            let Counted { key, name, labels, total, time, .. } = counted;
            let created = self.created.get(&key);
            let origin = created.map_or(Origin::Unknown, |ms| Origin::At(*ms));
            let time = time.map(|time| Timestamp::from_ms(time.as_ms().saturating_sub(1)));
            let value = total.is_finite().then_some(Value::Total(total, origin));
            let row = self.row(name, labels, Kind::Counter, time, value);
            self.ready.push_back((position, Ok(row)));
        }
    }

    fn row(
        &self,
        name: String,
        mut labels: BTreeMap<String, String>,
        kind: Kind,
        time: Option<Timestamp>,
        value: Option<Value>,
    ) -> Row {
        let component = labels.remove(COMPONENT_LABEL);
        // What an export could not call by its name has that as a label.
        let is_own = |own: &&String| is_called(own, &name);
        let own = labels.get(METRIC_LABEL).filter(is_own).cloned();
        if own.is_some() {
            labels.remove(METRIC_LABEL);
        }
        Row {
            component,
            name: own.unwrap_or(name),
            labels,
            kind: Some(kind),
            unit: self.family.unit.clone(),
            description: self.family.help.clone(),
            time,
            value,
        }
    }
}

impl Rows for OpenMetrics {
    fn next(&mut self) -> anyhow::Result<Option<(Position, Result<Row, String>)>> {
        loop {
            if let Some(row) = self.ready.pop_front() {
                return Ok(Some(row));
            }
            let Some((position, line)) = self.lines.next()? else {
                if self.has_ended {
                    return Ok(None);
                }
                bail!(
                    "it does not end with # EOF: it was cut off, or is no OpenMetrics but Prometheus's older \
                     text format"
                );
            };
            if self.has_ended {
                bail!("{position}: there is more after # EOF");
            }
            let line = String::from_utf8_lossy(line).into_owned();
            if let Err(why) = self.take(position, &line) {
                self.ready.push_back((position, Err(why)));
            }
        }
    }
}

impl Family {
    fn describe(&mut self, comment: &str, has_ended: &mut bool) -> Result<(), String> {
        if comment == "EOF" {
            *has_ended = true;
            return Ok(());
        }
        let mut words = comment.splitn(3, ' ');
        let (what, name, text) = (words.next(), words.next(), words.next().unwrap_or_default());
        let (Some(what), Some(name)) = (what, name) else {
            return Err(format!("# {comment}: it is no TYPE, HELP, UNIT or EOF"));
        };
        if self.name != name {
            *self = Self { name: name.to_owned(), ..Self::default() };
        }
        match what {
            "TYPE" => text.clone_into(&mut self.kind),
            "UNIT" => text.clone_into(&mut self.unit),
            // A description is one line here.
            "HELP" => self.help = unescaped(text)?.replace(char::is_control, " "),
            _ => return Err(format!("# {what}: it is no TYPE, HELP, UNIT or EOF")),
        }
        Ok(())
    }

    /// What a sample of this name is, and what its series is called without that.
    fn part<'a>(&self, sample: &'a str) -> (&'a str, Part) {
        let ending = sample.strip_prefix(&*self.name).filter(|_| !self.name.is_empty());
        let base = &sample[..sample.len() - ending.map_or(0, str::len)];
        match (&*self.kind, ending) {
            ("counter", Some("_total"))
            | ("histogram", Some("_bucket" | "_count" | "_sum"))
            | ("summary", Some("_count" | "_sum")) => (base, Part::Total),
            ("counter" | "histogram" | "summary", Some("_created")) => (base, Part::Created),
            _ => (sample, Part::Value),
        }
    }
}

/// Whether an export may have called a metric so.
fn is_called(metric: &str, family: &str) -> bool {
    let fitting = fitting_name(metric);
    let family = family.trim_end_matches('_');
    let is_so = |name: &str| name.trim_end_matches('_') == family;
    is_so(&fitting) || fitting.strip_suffix("_total").is_some_and(is_so)
}

/// The labels that the parts of a histogram have in common.
fn without_buckets(labels: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut labels = labels.clone();
    labels.remove("le");
    labels
}

/// Reads `name{label="value",...} value [time] [# exemplar]`.
fn sample(line: &str) -> Result<Sample, String> {
    let name_end = line.find(['{', ' ']).ok_or("it has no value")?;
    let (name, mut rest) = line.split_at(name_end);
    let mut labels = BTreeMap::new();
    if let Some(after) = rest.strip_prefix('{') {
        rest = after;
        while !rest.starts_with('}') {
            let (label, value, after) = one_label(rest)?;
            if labels.insert(label.to_owned(), value).is_some() {
                return Err(format!("it has the label {label} twice"));
            }
            rest = after.strip_prefix(',').unwrap_or(after);
            if after == rest && !rest.starts_with('}') {
                return Err(format!("after the label {label} there is neither , nor }}"));
            }
        }
        rest = &rest[1..];
    }
    let rest = rest.split_once(" # ").map_or(rest, |(rest, _exemplar)| rest);
    let mut words = rest.split_ascii_whitespace();
    let value = words.next().ok_or("it has no value")?;
    let value = value.parse().map_err(|_| format!("value {value:?} is no number"))?;
    let time = words.next().map(seconds).transpose()?;
    match words.next() {
        None => Ok(Sample { name: name.to_owned(), labels, value, time }),
        Some(more) => Err(format!("{more:?} is one word too many")),
    }
}

/// Reads a label; gives its name and value, and what follows.
fn one_label(text: &str) -> Result<(&str, String, &str), String> {
    let (name, rest) = text.split_once("=\"").ok_or("a label has no =\"value\"")?;
    let mut is_escaped = false;
    let end = rest.find(|c| {
        let ends = c == '"' && !is_escaped;
        is_escaped = c == '\\' && !is_escaped;
        ends
    });
    let end = end.ok_or_else(|| format!("the value of the label {name} does not end"))?;
    Ok((name, unescaped(&rest[..end])?, &rest[end + 1..]))
}

fn unescaped(text: &str) -> Result<String, String> {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, if c == '\\' { chars.next() } else { None }) {
            ('\\', Some('n')) => plain.push('\n'),
            ('\\', Some(escaped @ ('\\' | '"'))) => plain.push(escaped),
            ('\\', other) => {
                return Err(format!(
                    "\\{} is no escape",
                    other.map_or(String::new(), String::from)
                ));
            }
            (c, _) => plain.push(c),
        }
    }
    Ok(plain)
}

fn seconds(text: &str) -> Result<Timestamp, String> {
    let seconds: Option<f64> = text.parse().ok();
    // Milliseconds, which the older format has, would be tens of thousands of years from now.
    let seconds = seconds.filter(|seconds| seconds.abs() < 253_402_300_800.0);
    let ms = seconds.map(|seconds| (seconds * 1000.0).round() as i64);
    ms.map(Timestamp::from_ms).ok_or_else(|| format!("time {text:?} is not in unix seconds"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> anyhow::Result<Vec<Result<Row, String>>> {
        let mut reader = OpenMetrics::new(Lines::new(super::super::source::Source::of_text(text)));
        let mut rows = Vec::new();
        while let Some((_, row)) = reader.next()? {
            rows.push(row);
        }
        Ok(rows)
    }

    fn short(row: &Result<Row, String>) -> (String, Option<i64>, Option<Value>) {
        let row = row.as_ref().unwrap();
        let labels: Vec<String> =
            row.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let component = row.component.clone().unwrap_or_default();
        let name = format!("{component}/{}{{{}}}", row.name, labels.join(","));
        (name, row.time.map(Timestamp::as_ms), row.value.clone())
    }

    #[test]
    fn every_type_of_family_is_read() {
        let text = "# TYPE orders counter\n# HELP orders how \\\"many\\\\\\n\n# UNIT orders o\n\
            orders_total{component=\"shop\",a=\"x\\\"\\\\\\n,}\"} 5 10.5 # {trace=\"1\"} 1 2\n\
            orders_created{component=\"shop\",a=\"x\\\"\\\\\\n,}\"} 1 10.5\n\
            orders_total{component=\"shop\",a=\"x\\\"\\\\\\n,}\"} 6 11.5\n\
            orders_total{component=\"mail\"} 7\n\
            # TYPE wait histogram\nwait_bucket{le=\"+Inf\"} 3 1\nwait_count 3 1\nwait_sum 1.5 1\nwait_created 0 1\n\
            # TYPE load gauge\nload NaN 1\nload{} 2 1.25\n\
            # TYPE odd_name_ gauge\nodd_name_{metric=\"odd.name\"} 1 1\n\
            # TYPE x_total_ gauge\nx_total_{metric=\"x_total\"} 1 1\n\
            # TYPE q summary\nq{quantile=\"0.5\"} 2 1\n\
            alone 4 1\n# EOF\n";
        let rows = read(text).unwrap();
        let total = |total, origin| Some(Value::Total(total, origin));
        let told: Vec<_> = rows.iter().map(short).collect();
        let row = |name: &str, ms, value| (name.to_owned(), ms, value);
        assert_eq!(
            told,
            [
                row("shop/orders{a=x\"\\\n,}}", Some(10_499), total(5.0, Origin::At(1000))),
                row("shop/orders{a=x\"\\\n,}}", Some(11_499), total(6.0, Origin::At(1000))),
                row("mail/orders{}", None, total(7.0, Origin::Unknown)),
                row("/wait_bucket{le=+Inf}", Some(999), total(3.0, Origin::At(0))),
                row("/wait_count{}", Some(999), total(3.0, Origin::At(0))),
                row("/wait_sum{}", Some(999), total(1.5, Origin::At(0))),
                row("/load{}", Some(1000), None),
                row("/load{}", Some(1250), Some(Value::One(2.0))),
                row("/odd.name{}", Some(1000), Some(Value::One(1.0))),
                row("/x_total{}", Some(1000), Some(Value::One(1.0))),
                row("/q{quantile=0.5}", Some(1000), Some(Value::One(2.0))),
                row("/alone{}", Some(1000), Some(Value::One(4.0))),
            ]
        );
        let first = rows[0].as_ref().unwrap();
        assert_eq!((&*first.description, &*first.unit), ("how \"many\\ ", "o"));
    }

    #[test]
    fn what_is_cut_off_or_no_openmetrics_is_refused() {
        assert!(read("a 1\n").unwrap_err().to_string().contains("# EOF"));
        assert!(read("a 1\n# EOF\nb 1\n").unwrap_err().to_string().contains("after # EOF"));
        for (line, part) in [
            ("a", "no value"),
            ("a x", "\"x\" is no number"),
            ("a 1 1768485600000", "unix seconds"),
            ("a{b=\"c} 1", "does not end"),
            ("a{b=\"c\"d=\"e\"} 1", "neither"),
            ("a{b} 1", "no =\"value\""),
            ("a{b=\"c\",b=\"d\"} 1", "twice"),
            ("a{b=\"\\x\"} 1", "\\x is no escape"),
            ("a 1 2 3", "one word too many"),
            ("# NOTE a b", "no TYPE"),
        ] {
            let rows = read(&format!("{line}\n# EOF\n")).unwrap();
            let error = rows[0].as_ref().unwrap_err();
            assert!(error.contains(part), "{line}: {error}");
        }
    }
}
