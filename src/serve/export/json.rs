//! JSON: components, their metrics, and a summary; in one value.

use super::{Format, Totals, Written};
use crate::engine::{Exported, Exporting};
use model::{Fold, Series, Timestamp, Width};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// One JSON value. A metric stands once for each of its folds.
#[derive(Default)]
pub(super) struct Json {
    component: Option<Arc<str>>,
    has_rows: bool,
}

impl Format for Json {
    fn begin(&mut self, exporting: &mut Exporting, out: &mut Vec<u8>) -> Written {
        let range = exporting.range();
        let head = format!(
            "{{\"start_time\":\"{}\",\"end_time\":\"{}\",\"components\":[",
            range.start, range.end
        );
        out.extend(head.into_bytes());
        Ok(())
    }

    fn add(&mut self, exported: &Exported, out: &mut Vec<u8>) -> Written {
        let component = &exported.series.metric.component;
        if self.component.as_ref() != Some(component) {
            if self.component.is_some() {
                out.extend(b"]},\n");
            }
            let head = format!("{{\"component\":{},\"metrics\":[\n", json!(&**component));
            out.extend(head.into_bytes());
            (self.component, self.has_rows) = (Some(component.clone()), false);
        }
        for (time, fold) in &exported.folds {
            if self.has_rows {
                out.extend(b",\n");
            }
            self.has_rows = true;
            serde_json::to_writer(&mut *out, &row(&exported.series, *time, exported.width, fold))?;
        }
        Ok(())
    }

    fn end(&mut self, totals: &Totals, out: &mut Vec<u8>) -> Written {
        if self.component.is_some() {
            out.extend(b"]}");
        }
        let summary = json!({
            "total_components": totals.components,
            "total_metrics": totals.rows,
            "time_span_hours": totals.hours,
        });
        out.extend(format!("],\"summary\":{summary}}}\n").into_bytes());
        Ok(())
    }
}

/// What JSON and NDJSON say of a fold.
pub(super) fn row(
    series: &Series,
    time: Timestamp,
    width: Width,
    fold: &Fold,
) -> Map<String, Value> {
    let metric = &series.metric;
    let mut row = Map::new();
    let mut set = |name: &str, value: Value| {
        row.insert(name.to_owned(), value);
    };
    set("timestamp", json!(time.to_string()));
    set("name", json!(&*metric.name));
    set("type", json!(metric.kind.to_string()));
    match fold {
        Fold::Counter(fold) => set("value", json!(fold.sum)),
        Fold::Rolling(fold) => {
            set("value", json!(fold.mean()));
            set("count", json!(fold.count()));
            set("sum", json!(fold.sum()));
            set("min", json!(fold.min()));
            set("max", json!(fold.max()));
            set("last", json!(fold.last()));
            set("last_time", json!(fold.last_time().to_string()));
        }
    }
    if series.labels.iter().next().is_some() {
        let labels = series.labels.iter().map(|(name, value)| (name.to_owned(), json!(value)));
        set("labels", Value::Object(labels.collect()));
    }
    if !metric.unit.is_empty() {
        set("unit", json!(&*metric.unit));
    }
    set("width_seconds", json!(width.as_ms() as f64 / 1000.0));
    row
}
