//! `healthd query`: functions of series over a range, a line each.

use super::table::{Table, sparkline};
use super::{Server, Which};
use crate::serve::proto::v1;
use crate::serve::{Peer, to_json, words};
use clap::Parser;
use model::short;
use std::io::Write;

/// Compute functions of series, or of groups of them, over a range
#[derive(Clone, Debug, Parser)]
pub struct Query {
    #[command(flatten)]
    which: Which,

    /// What to compute: increase, rate, count, sum, avg, min, max, last, delta, p50, p99, ...
    #[arg(long, short, value_name = "NAME")]
    function: Vec<String>,

    /// Group series by component, metric or the name of a label; "all" for one group
    #[arg(long, short, value_name = "WORD")]
    by: Vec<String>,

    /// Only so many groups, those with the largest values; the rest together
    #[arg(long, short, value_name = "K", default_value_t = 0)]
    top: u32,

    /// The distance of points
    #[arg(long, value_name = "SPAN", value_parser = model::parse_span)]
    step: Option<std::time::Duration>,

    /// The answer as JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    server: Server,
}

impl Query {
    pub(super) fn run(self, out: &mut impl Write) -> anyhow::Result<()> {
        let request = v1::QueryRequest {
            selector: Some(words::selector(
                self.which.component,
                self.which.metric,
                self.which.label,
            )),
            range: Some(words::range(self.which.from, self.which.to)),
            functions: self.function,
            step: self.step.map(words::duration),
            group_by: grouping(&self.by),
            top: (self.top > 0).then(|| v1::Top { k: self.top, ..v1::Top::default() }),
            max_points: if self.json { 0 } else { 120 },
            ..v1::QueryRequest::default()
        };
        let answer = self.server.ask(async |mut peer: Peer| peer.query(request).await)?;
        if self.json {
            writeln!(out, "{}", to_json("healthd.v1.QueryResponse", &answer)?)?;
            return Ok(());
        }
        print(&answer, out)
    }
}

fn grouping(by: &[String]) -> Option<v1::Grouping> {
    if by.is_empty() {
        return None;
    }
    let has = |wanted: &str| by.iter().any(|word| word == wanted);
    let labels = by.iter().filter(|word| !["component", "metric", "all"].contains(&&***word));
    Some(v1::Grouping {
        component: has("component"),
        metric: has("metric"),
        labels: labels.cloned().collect(),
    })
}

fn print(answer: &v1::QueryResponse, out: &mut impl Write) -> anyhow::Result<()> {
    /// How wide lines of points are.
    const WIDTH: usize = 40;
    let mut table = Table::new(vec!["series", "function", "range", "min", "max", "unit", "points"]);
    let coverage = answer.coverage.clone().unwrap_or_default();
    let times = words::times(&coverage);
    for group in &answer.groups {
        let name = words::name(group);
        for function in &group.functions {
            let value = |value: Option<f64>| {
                value.filter(|value| !value.is_nan()).map_or(String::new(), short)
            };
            let present = || function.value.iter().copied().filter(|value| !value.is_nan());
            let mut points = vec![None; times.len()];
            for (time, value) in group.time_ms.iter().zip(&function.value) {
                if let Ok(place) = times.binary_search(time) {
                    points[place] = Some(*value).filter(|value| !value.is_nan());
                }
            }
            table.add(vec![
                name.clone(),
                function.function.clone(),
                value(function.range),
                value(present().reduce(f64::min)),
                value(present().reduce(f64::max)),
                group.unit.clone(),
                sparkline(&points, WIDTH),
            ]);
        }
    }
    if !answer.groups.is_empty() {
        table.print(out)?;
    }
    for note in words::notes(&coverage) {
        writeln!(std::io::stderr(), "{note}")?;
    }
    Ok(())
}
