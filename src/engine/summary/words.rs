//! What the summary says in words, and which names sound important.
//!
//! Words only repeat numbers that stand beside them.

use super::super::analysis::{Band, Run, Steps};
use super::super::groups::Key;
use super::super::{Function, Ruled};
use super::{ComponentRow, Direction, Finding, Health, Silence, Silent};
use model::{format_span, short};
use std::time::Duration;

/// Parts of names, and how much more what bears one matters when it rises.
const WEIGHTS: [(&[&str], f64); 3] = [
    (&["error", "fail", "exception", "panic", "fatal", "reject", "timeout", "5xx", "drop"], 2.0),
    (&["latency", "duration", "_time", "response", "wait", "lag", "delay"], 1.5),
    (&["queue", "pending", "backlog", "full", "used"], 1.2),
];

/// How much more than others a metric matters that moves this way.
pub(super) fn importance(key: &Key, function: Function, direction: Direction) -> f64 {
    let name = key.metric.as_deref().unwrap_or_default().to_ascii_lowercase();
    let rises = matches!(direction, Direction::Above | Direction::Rising);
    // How often a duration is measured is traffic, and no duration.
    let is_traffic = function == Function::Rate && key.kind == model::Kind::Rolling;
    if !rises || is_traffic {
        return 1.0;
    }
    let weight = WEIGHTS.iter().find(|(parts, _)| parts.iter().any(|part| name.contains(part)));
    weight.map_or(1.0, |(_, weight)| *weight)
}

/// A span in its largest whole unit, cut.
fn about(span: Duration) -> String {
    let seconds = span.as_secs();
    let unit = [86_400, 3600, 60].into_iter().find(|unit| seconds >= 2 * unit).unwrap_or(1);
    format_span(Duration::from_secs(seconds / unit * unit))
}

pub(super) fn why_unusual(band: &Band, run: &Run, steps: &Steps) -> String {
    let side = if run.is_above { "above" } else { "below" };
    format!(
        "{} steps of {} {side} {}..{}; median {} before, of {} steps",
        run.buckets,
        format_span(Duration::from_millis(steps.step.as_ms() as u64)),
        short(band.low),
        short(band.high),
        short(band.centre),
        band.buckets
    )
}

pub(super) fn why_trend(
    start: f64,
    end: f64,
    certainty: f64,
    present: usize,
    steps: &Steps,
) -> String {
    let span = steps.windows.range.end.since(steps.windows.baseline.start);
    format!(
        "from {} to {} within {}, steadily: Theil-Sen slope over {present} steps, {} deviations from \
         no trend",
        short(start),
        short(end),
        about(span),
        short(certainty.abs())
    )
}

/// A metric and what became of it.
fn line(finding: &Finding) -> String {
    let key = &finding.key;
    let (component, metric) =
        (key.component.as_deref().unwrap_or_default(), key.metric.as_deref().unwrap_or_default());
    let function = match finding.function {
        Function::Rate if key.kind == model::Kind::Rolling => "observations of ".to_owned(),
        Function::Rate | Function::Avg => String::new(),
        function => format!("{function} of "),
    };
    let change = match (finding.direction, finding.ratio()) {
        (Direction::Rising, _) => "rises slowly".to_owned(),
        (Direction::Falling, _) => "falls slowly".to_owned(),
        (_, Some(ratio)) if ratio > 0.0 => format!("x{}", short(ratio)),
        (_, _) => format!("{} instead of {}", short(finding.now), short(finding.expected.centre)),
    };
    let until = match finding.recovered {
        Some(time) => format!("until {time}"),
        None => "ongoing".to_owned(),
    };
    format!("{function}{component}/{metric} {change} since {}, {until}", finding.onset)
}

/// All of it in a line.
pub(super) fn headline(
    health: Health,
    (findings, silent, firing): (&[Finding], &[Silent], &[&Ruled]),
    (components, quiet): (usize, usize),
    failure: Option<String>,
) -> String {
    let mut parts = Vec::new();
    parts.extend(failure.map(|failure| format!("the storage fails: {failure}")));
    if let Some(first) = firing.first() {
        let what = if first.rule.message.is_empty() {
            first.rule.to_string()
        } else {
            first.rule.message.clone()
        };
        let more = match firing.len() - 1 {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        parts.push(format!("{what}: a rule fires{more}"));
    }
    if let Some(first) = findings.first() {
        parts.push(line(first));
    }
    match findings.len() {
        0 | 1 => {}
        more => parts.push(format!("{} more {}", more - 1, plural(more - 1, "finding"))),
    }
    if let Some(first) = silent.first() {
        let what = match (&first.metric, first.silence) {
            (None, _) => format!("{} sends nothing", first.component),
            (Some(metric), Silence::TrafficStopped | Silence::SenderGone) => {
                format!("{}/{metric} stopped", first.component)
            }
        };
        let more = match silent.len() - 1 {
            0 => String::new(),
            more => format!(" and {more} more went silent"),
        };
        parts.push(format!("{what} since {}{more}", first.last_seen));
    }
    match health {
        Health::NoData => parts.push("no data in the range".to_owned()),
        Health::Healthy => {
            parts.push(format!(
                "nothing stands out in {components} {}",
                plural(components, "component")
            ));
        }
        Health::Notable | Health::Unhealthy => {
            parts
                .push(format!("{quiet} of {components} {} quiet", plural(components, "component")));
        }
    }
    parts.join("; ")
}

fn plural(count: usize, word: &str) -> String {
    if count == 1 { word.to_owned() } else { format!("{word}s") }
}

/// How many components of those shown have nothing to tell of.
pub(super) fn quiet(components: &[ComponentRow]) -> usize {
    components.iter().filter(|row| row.findings == 0 && !row.is_silent).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_told_in_their_largest_unit() {
        assert_eq!(about(Duration::from_secs(5 * 3600 + 61)), "5h");
        assert_eq!(about(Duration::from_secs(90)), "90s");
        assert_eq!(about(Duration::from_secs(150)), "2m");
    }
}
