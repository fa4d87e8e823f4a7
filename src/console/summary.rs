//! `healthd summary`: what is wrong, since when and where, on a terminal.

use super::table::Table;
use super::{Server, Which};
use crate::serve::proto::v1;
use crate::serve::{Peer, to_json, words};
use clap::Parser;
use model::short;
use std::io::Write;

/// Say what is wrong, since when and where
#[derive(Clone, Debug, Parser)]
pub struct Summary {
    #[command(flatten)]
    which: Which,

    /// The answer as JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    server: Server,
}

impl Summary {
    pub(super) fn run(self, out: &mut impl Write) -> anyhow::Result<()> {
        let request = v1::GetHealthSummaryRequest {
            selector: Some(words::selector(
                self.which.component,
                self.which.metric,
                self.which.label,
            )),
            range: Some(words::range(self.which.from, self.which.to)),
            ..v1::GetHealthSummaryRequest::default()
        };
        let answer = self.server.ask(async |mut peer: Peer| peer.summary(request).await)?;
        if self.json {
            writeln!(out, "{}", to_json("healthd.v1.GetHealthSummaryResponse", &answer)?)?;
            return Ok(());
        }
        print(&answer, out)
    }
}

fn print(answer: &v1::GetHealthSummaryResponse, out: &mut impl Write) -> anyhow::Result<()> {
    writeln!(out, "{}: {}", words::verdict(answer.verdict()), answer.headline)?;
    if !answer.rules.is_empty() {
        let mut table = Table::new(vec!["rule", "metric", "state", "value", "since"]);
        for rule in &answer.rules {
            table.add(vec![
                rule.rule.clone(),
                joined(&rule.component, &rule.name),
                words::rule_state(rule.state()).to_owned(),
                rule.value.map_or(String::new(), short),
                words::time(rule.since.as_ref()),
            ]);
        }
        writeln!(out)?;
        table.print(out)?;
    }
    if !answer.findings.is_empty() {
        let head = vec!["finding", "function", "now", "usual", "ratio", "since", "until", "with"];
        let mut table = Table::new(head);
        for finding in &answer.findings {
            table.add(vec![
                joined(&finding.component, &finding.name),
                finding.function.clone(),
                short(finding.now),
                format!("{}..{}", short(finding.expected_low), short(finding.expected_high)),
                finding.ratio.map_or(String::new(), |ratio| format!("x{}", short(ratio))),
                words::time(finding.onset.as_ref()),
                finding
                    .recovered
                    .as_ref()
                    .map_or("ongoing".to_owned(), |time| words::time(Some(time))),
                finding.with.join(" "),
            ]);
        }
        writeln!(out)?;
        table.print(out)?;
    }
    if !answer.silent.is_empty() {
        let mut table = Table::new(vec!["silent", "why", "last seen", "series"]);
        for silent in &answer.silent {
            let name = if silent.name.is_empty() { "*" } else { &silent.name };
            table.add(vec![
                joined(&silent.component, name),
                words::silence(silent.reason()).to_owned(),
                words::time(silent.last_seen.as_ref()),
                silent.series_count.to_string(),
            ]);
        }
        writeln!(out)?;
        table.print(out)?;
    }
    components(answer, out)?;
    for (what, names) in [("new", &answer.new), ("vanished", &answer.vanished)] {
        if !names.is_empty() {
            writeln!(out, "\n{what}: {}", names.join(", "))?;
        }
    }
    for note in words::notes(&answer.coverage.clone().unwrap_or_default()) {
        writeln!(std::io::stderr(), "{note}")?;
    }
    if !answer.rules_error.is_empty() {
        writeln!(std::io::stderr(), "{}", answer.rules_error)?;
    }
    Ok(())
}

fn components(answer: &v1::GetHealthSummaryResponse, out: &mut impl Write) -> anyhow::Result<()> {
    if answer.components.is_empty() {
        return Ok(());
    }
    let head = vec![
        "metric", "total", "rate/s", "count", "min", "avg", "max", "last", "p50", "p95", "p99",
        "unit",
    ];
    let mut table = Table::new(head);
    for component in &answer.components {
        for metric in &component.metrics {
            let numbers: [String; 10] = match &metric.figures {
                Some(v1::metric_summary::Figures::Counter(counter)) => {
                    let mut numbers = [const { String::new() }; 10];
                    (numbers[0], numbers[1]) = (short(counter.total), short(counter.rate));
                    numbers
                }
                Some(v1::metric_summary::Figures::Rolling(rolling)) => {
                    let quantile = |value: Option<f64>| value.map_or(String::new(), short);
                    [
                        String::new(),
                        String::new(),
                        rolling.count.to_string(),
                        short(rolling.min),
                        short(rolling.avg),
                        short(rolling.max),
                        short(rolling.last),
                        quantile(rolling.p50),
                        quantile(rolling.p95),
                        quantile(rolling.p99),
                    ]
                }
                None => [const { String::new() }; 10],
            };
            let mut row = vec![joined(&component.component, &metric.name)];
            row.extend(numbers);
            row.push(metric.unit.clone());
            table.add(row);
        }
    }
    writeln!(out)?;
    table.print(out)?;
    Ok(())
}

fn joined(component: &str, name: &str) -> String {
    if component.is_empty() && name.is_empty() {
        String::new()
    } else {
        format!("{component}/{name}")
    }
}
