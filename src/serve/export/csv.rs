//! CSV (RFC 4180) with a header, a fold a line.
//!
//! No text in it is a formula to a spreadsheet: what would begin as one gets a `'` in front, as OWASP
//! recommends (<https://owasp.org/www-community/attacks/CSV_Injection>), and so does what begins with one: so
//! who takes one away has what it was. Numbers are columns of numbers.

use super::{Format, Totals, Written};
use crate::engine::{Exported, Exporting};
use model::Fold;
use serde_json::{Value, json};

pub(super) struct Csv;

/// The header. Columns from `count` on are empty for counters; labels are a JSON object.
const COLUMNS: [&str; 14] = [
    "timestamp",
    "component",
    "name",
    "labels",
    "type",
    "unit",
    "width_seconds",
    "value",
    "count",
    "sum",
    "min",
    "max",
    "last",
    "last_time",
];

impl Format for Csv {
    fn begin(&mut self, _exporting: &mut Exporting, out: &mut Vec<u8>) -> Written {
        write(&COLUMNS.map(str::to_owned), out)
    }

    fn add(&mut self, exported: &Exported, out: &mut Vec<u8>) -> Written {
        let (series, metric) = (&exported.series, &exported.series.metric);
        let labels = series.labels.iter().map(|(name, value)| (name.to_owned(), json!(value)));
        let labels = Value::Object(labels.collect()).to_string();
        let width = json!(exported.width.as_ms() as f64 / 1000.0).to_string();
        for (time, fold) in &exported.folds {
            let number = |value: f64| json!(value).to_string();
            let figures = match fold {
                Fold::Counter(fold) => {
                    let mut figures = [const { String::new() }; 7];
                    figures[0] = number(fold.sum);
                    figures
                }
                Fold::Rolling(fold) => [
                    number(fold.mean()),
                    fold.count().to_string(),
                    number(fold.sum()),
                    number(fold.min()),
                    number(fold.max()),
                    number(fold.last()),
                    fold.last_time().to_string(),
                ],
            };
            let named = [
                time.to_string(),
                safe(&metric.component),
                safe(&metric.name),
                safe(&labels),
                metric.kind.to_string(),
                safe(&metric.unit),
                width.clone(),
            ];
            let all: Vec<String> = named.into_iter().chain(figures).collect();
            write(&all, out)?;
        }
        Ok(())
    }

    fn end(&mut self, _totals: &Totals, _out: &mut Vec<u8>) -> Written {
        Ok(())
    }
}

fn write(fields: &[String], out: &mut Vec<u8>) -> Written {
    let mut writer =
        ::csv::WriterBuilder::new().terminator(::csv::Terminator::CRLF).from_writer(out);
    writer.write_record(fields)?;
    writer.flush()?;
    Ok(())
}

/// Text that no spreadsheet takes for a formula.
fn safe(text: &str) -> String {
    match text.chars().next() {
        Some('=' | '+' | '-' | '@' | '\t' | '\r' | '\'') => format!("'{text}"),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_begins_as_a_formula() {
        for text in ["=1+1", "+1", "-1", "@sum", "\tx", "\rx", "'=1"] {
            assert_eq!(safe(text), format!("'{text}"));
        }
        for text in ["", "a=1", "{\"a\":\"=1\"}"] {
            assert_eq!(safe(text), text);
        }
    }
}
