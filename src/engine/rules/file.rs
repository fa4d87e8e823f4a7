//! The file of rules: TOML, read anew when it changes.
//!
//! A file counts as a whole: with one rule in it that cannot be right, the rules before stay.

use super::super::Function;
use model::{Fits, Glob, Matcher, Selector, format_span, parse_span};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// The most rules of a file.
const MAX_RULES: usize = 1000;
/// The shortest and the longest time that a rule's function may be of, or that it may take to fire.
const SPANS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_hours(24));
/// Over what a function is computed, when the rule does not say.
const OVER: Duration = Duration::from_mins(1);
/// The most steps that a rule may look back.
const MAX_STEPS: u128 = 10_000;
/// The longest message, in bytes.
const MAX_MESSAGE_BYTES: usize = 1024;

/// A threshold.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Of which metrics; each by itself.
    pub selector: Selector,
    /// What of them.
    pub function: Function,
    /// Over how long.
    pub over: Duration,
    /// How it compares with the value when it holds.
    pub op: Op,
    /// The value.
    pub value: f64,
    /// For how long it must hold to fire.
    pub hold: Duration,
    /// How bad that is.
    pub severity: Severity,
    /// What to tell then.
    pub message: String,
}

/// A comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// `>`
    Above,
    /// `>=`
    AtLeast,
    /// `<`
    Below,
    /// `<=`
    AtMost,
}

/// How bad it is when a rule fires.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Good to know.
    Info,
    /// To be looked at.
    #[default]
    Warning,
    /// Now.
    Critical,
}

impl Op {
    const ALL: [(&str, Self); 4] =
        [(">", Self::Above), (">=", Self::AtLeast), ("<", Self::Below), ("<=", Self::AtMost)];

    pub(super) fn holds(self, left: f64, right: f64) -> bool {
        match self {
            Self::Above => left > right,
            Self::AtLeast => left >= right,
            Self::Below => left < right,
            Self::AtMost => left <= right,
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = Self::ALL.iter().find(|(_, op)| op == self).map_or("", |(sign, _)| sign);
        f.write_str(sign)
    }
}

impl fmt::Display for Rule {
    /// Such as `p99 of shop/latency over 1m > 0.5 for 5m`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let any = Glob::new("*");
        let component = self.selector.component.as_ref().unwrap_or(&any);
        let metric = self.selector.metrics.first().unwrap_or(&any);
        write!(f, "{} of {component}/{metric}", self.function)?;
        for (place, matcher) in self.selector.labels.iter().enumerate() {
            write!(f, "{}{matcher}", if place == 0 { "{" } else { "," })?;
        }
        if !self.selector.labels.is_empty() {
            f.write_str("}")?;
        }
        let (over, hold) = (format_span(self.over), format_span(self.hold));
        write!(f, " over {over} {} {} for {hold}", self.op, self.value)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    rule: Vec<Written>,
}

/// A rule as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    component: String,
    metric: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    function: String,
    op: String,
    value: f64,
    #[serde(default)]
    over: Option<String>,
    #[serde(rename = "for", default)]
    hold: Option<String>,
    #[serde(default)]
    severity: Severity,
    #[serde(default)]
    message: String,
}

/// Reads a file's text. An error says which rule is wrong, in which field, and what there may be.
pub(super) fn parse(text: &str) -> Result<Vec<Rule>, String> {
    let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
    if file.rule.len() > MAX_RULES {
        return Err(format!(
            "there are {} rules; at most {MAX_RULES} are allowed",
            file.rule.len()
        ));
    }
    let numbered = file.rule.into_iter().zip(1..);
    numbered
        .map(|(written, number)| {
            let name = format!("rule {number} ({}/{})", written.component, written.metric);
            written.checked().map_err(|wrong| format!("{name}: {wrong}"))
        })
        .collect()
}

impl Written {
    fn checked(self) -> Result<Rule, String> {
        let span = |field: &str, text: Option<String>, usual| match text {
            None => Ok(usual),
            Some(text) => parse_span(&text).map_err(|error| format!("{field}: {error}")),
        };
        let over = span("over", self.over, OVER)?;
        let hold = span("for", self.hold, over)?;
        let is_within = |span| (SPANS.0..=SPANS.1).contains(&span);
        if !is_within(over) {
            return Err("over: is not from 1s to 1d".to_owned());
        }
        if hold > SPANS.1 || hold.as_millis() / over.as_millis() > MAX_STEPS {
            return Err(format!("for: is above 1d, or {MAX_STEPS} times over"));
        }
        let op = Op::ALL.iter().find(|(sign, _)| *sign == self.op);
        let Some((_, op)) = op else {
            return Err(format!("op: {:?} is none of > >= < <=", self.op));
        };
        if !self.value.is_finite() {
            return Err(format!("value: {} is no finite number", self.value));
        }
        if self.message.len() > MAX_MESSAGE_BYTES {
            return Err(format!("message: is longer than {MAX_MESSAGE_BYTES} bytes"));
        }
        let function: Function =
            self.function.parse().map_err(|error| format!("function: {error}"))?;
        if function == Function::Delta {
            return Err("function: delta compares steps; use last".to_owned());
        }
        let labels = self
            .labels
            .into_iter()
            .map(|(name, value)| Matcher { name, fits: Fits::Like(Glob::new(&value)) });
        Ok(Rule {
            selector: Selector {
                component: Some(Glob::new(&self.component)),
                metrics: vec![Glob::new(&self.metric)],
                labels: labels.collect(),
            },
            function,
            over,
            op: *op,
            value: self.value,
            hold,
            severity: self.severity,
            message: self.message,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: &str = r#"
        [[rule]]
        component = "shop"
        metric = "errors*"
        labels = { country = "ch" }
        function = "rate"
        op = ">"
        value = 0.5
        for = "5m"
        severity = "critical"
        message = "orders fail"
    "#;

    #[test]
    fn a_rule_is_read_and_told() {
        let rules = parse(RULE).unwrap();
        assert_eq!(
            rules[0].to_string(),
            "rate of shop/errors*{country~\"ch\"} over 1m > 0.5 for 5m"
        );
        assert_eq!((rules[0].severity, &*rules[0].message), (Severity::Critical, "orders fail"));
        assert_eq!(parse("").unwrap(), []);
        let short =
            "[[rule]]\ncomponent='a'\nmetric='b'\nfunction='p99'\nop='<='\nvalue=1\nover='10s'";
        assert_eq!(parse(short).unwrap()[0].to_string(), "p99 of a/b over 10s <= 1 for 10s");
    }

    #[test]
    fn what_is_wrong_with_a_rule_is_named_with_its_field() {
        for (from, to, part) in [
            ("function = \"rate\"", "function = \"speed\"", "rule 1 (shop/errors*): function: "),
            ("op = \">\"", "op = \"!\"", "op: \"!\""),
            ("value = 0.5", "value = nan", "value: "),
            ("value = 0.5", "value = \"much\"", "invalid type"),
            ("for = \"5m\"", "for = \"soon\"", "for: "),
            ("for = \"5m\"", "for = \"2d\"", "for: "),
            ("for = \"5m\"", "over = \"0\"", "over: "),
            ("severity = \"critical\"", "severity = \"bad\"", "unknown variant"),
            ("metric = \"errors*\"", "metrics = \"errors*\"", "unknown field"),
            ("component = \"shop\"", "", "missing field `component`"),
            ("[[rule]]", "[[rules]]", "unknown field"),
            ("[[rule]]", "[[rule", ""),
        ] {
            let error = parse(&RULE.replace(from, to)).unwrap_err();
            assert!(error.contains(part), "{to}: {error}");
        }
    }
}
