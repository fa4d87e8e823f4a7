//! NDJSON: a JSON object a line, as `healthd export` writes it. What it has beyond that is not looked at.

use super::row::{self, Row, Sample, kind, moment};
use super::source::{Lines, Position, Rows};
use model::{Bin, Fold, Many, Rolling, Sketch, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub(super) struct Json {
    lines: Lines,
}

impl Json {
    pub(super) fn new(lines: Lines) -> Self {
        Self { lines }
    }
}

/// A moment as a text, or in Unix seconds.
#[derive(Deserialize)]
#[serde(untagged)]
enum Time {
    Text(String),
    Seconds(serde_json::Number),
}

impl Time {
    fn moment(&self) -> Result<Timestamp, String> {
        match self {
            Self::Text(text) => moment(text),
            Self::Seconds(number) => moment(&number.to_string()),
        }
    }
}

#[derive(Deserialize)]
struct Line {
    component: Option<String>,
    name: String,
    timestamp: Option<Time>,
    #[serde(rename = "type")]
    kind: Option<String>,
    value: Option<f64>,
    count: Option<u64>,
    sum: Option<f64>,
    min: Option<f64>,
    max: Option<f64>,
    last: Option<f64>,
    last_time: Option<Time>,
    labels: Option<BTreeMap<String, String>>,
    unit: Option<String>,
    description: Option<String>,
    bins: Option<Vec<(i32, u64)>>,
    bins_joined: Option<u8>,
}

impl Rows for Json {
    fn next(&mut self) -> anyhow::Result<Option<(Position, Result<Row, String>)>> {
        let Some((position, line)) = self.lines.next()? else { return Ok(None) };
        Ok(Some((position, row(line))))
    }
}

fn row(line: &[u8]) -> Result<Row, String> {
    let line: Line = serde_json::from_slice(line).map_err(|error| {
        let text = error.to_string();
        let text = text.split_once(" at line ").map_or(&*text, |(text, _)| text);
        format!("column {}: {text}", error.column())
    })?;
    let mut time = line.timestamp.map(|time| time.moment()).transpose()?;
    let value = match line.count {
        None => line.value.map(row::Value::One),
        Some(count) => {
            if let Some(last) = line.last_time {
                time = Some(last.moment()?);
            }
            let of = |name: &str, part: Option<f64>| {
                part.ok_or_else(|| format!("it has a count and no {name}; give both or none"))
            };
            let bins = line.bins.unwrap_or_default().into_iter();
            let bins = bins.map(|(key, count)| Bin { key, count }).collect();
            let sketch = Sketch::from_bins(line.bins_joined.unwrap_or(0), bins);
            Some(row::Value::Fold(Box::new(Many {
                count,
                sum: of("sum", line.sum)?,
                min: of("min", line.min)?,
                max: of("max", line.max)?,
                last: of("last", line.last)?,
                last_time: Timestamp::default(),
                sketch: sketch.map_err(|error| format!("bins: {error}"))?,
            })))
        }
    };
    Ok(Row {
        component: line.component,
        name: line.name,
        labels: line.labels.unwrap_or_default(),
        kind: line.kind.map(|word| kind(&word)).transpose()?,
        unit: line.unit.unwrap_or_default(),
        description: line.description.unwrap_or_default(),
        time,
        value,
    })
}

/// What is read as this sample, whatever format it came from.
pub(super) fn line(sample: &Sample) -> Value {
    let Sample { key, unit, description, time, fold } = sample;
    let mut line = serde_json::Map::new();
    let mut set = |name: &str, value: Value| {
        line.insert(name.to_owned(), value);
    };
    set("timestamp", json!(time.to_string()));
    set("component", json!(key.component));
    set("name", json!(key.name));
    set("type", json!(key.kind.to_string()));
    match fold {
        Fold::Counter(counter) => set("value", json!(counter.sum)),
        Fold::Rolling(Rolling::One { value, .. }) => set("value", json!(value)),
        Fold::Rolling(Rolling::Many(many)) => {
            set("count", json!(many.count));
            set("sum", json!(many.sum));
            set("min", json!(many.min));
            set("max", json!(many.max));
            set("last", json!(many.last));
            let bins: Vec<_> = many.sketch.bins().iter().map(|bin| (bin.key, bin.count)).collect();
            set("bins", json!(bins));
            set("bins_joined", json!(many.sketch.coarseness()));
        }
    }
    let labels = key.labels.iter().map(|(name, value)| (name.to_owned(), json!(value)));
    set("labels", Value::Object(labels.collect()));
    set("unit", json!(unit));
    set("description", json!(description));
    Value::Object(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Kind;

    #[test]
    fn a_line_of_an_export_is_read_whole() {
        let line = br#"{"timestamp":"2026-11-24T10:00:00Z","name":"latency","type":"rolling","value":2,
            "count":2,"sum":4,"min":1,"max":3,"last":3,"last_time":"2026-11-24T10:00:00.5Z",
            "labels":{"a":"b"},"unit":"s","width_seconds":1.0,"component":"shop","bins":[[8129,2]],"bins_joined":1}"#;
        let fold = Many {
            count: 2,
            sum: 4.0,
            min: 1.0,
            max: 3.0,
            last: 3.0,
            last_time: Timestamp::default(),
            sketch: Sketch::from_bins(1, vec![Bin { key: 8129, count: 2 }]).unwrap(),
        };
        let expected = Row {
            component: Some("shop".into()),
            name: "latency".into(),
            labels: [("a".to_owned(), "b".to_owned())].into(),
            kind: Some(Kind::Rolling),
            unit: "s".into(),
            description: String::new(),
            time: Some(Timestamp::from_ms(1_795_514_400_500)),
            value: Some(row::Value::Fold(Box::new(fold))),
        };
        assert_eq!(row(line), Ok(expected));
        let short = row(br#"{"name":"n","value":0.1,"timestamp":1.5}"#).unwrap();
        assert_eq!(
            (short.time, short.value),
            (Some(Timestamp::from_ms(1500)), Some(row::Value::One(0.1)))
        );
        assert_eq!(row(br#"{"name":"n","value":null}"#).unwrap().value, None);
    }

    #[test]
    fn a_sample_is_read_as_what_is_written_of_it() {
        let line_of = |text: &str| {
            let (component, time) = ("global".to_owned(), Some(Timestamp::from_ms(5)));
            let (kind, counters) = (None, row::Counters::Increases);
            let defaults = row::Defaults { component, kind, counters, time, now: Timestamp::MAX };
            row::Settling::new(defaults).settle(row(text.as_bytes()).unwrap()).unwrap().unwrap()
        };
        for text in [
            r#"{"name":"n","type":"counter","value":0.1}"#,
            r#"{"name":"n","type":"rolling","value":-1,"timestamp":1.25,"labels":{"a":"\u2028"},"unit":"s"}"#,
            r#"{"name":"n","type":"rolling","count":2,"sum":2,"min":1,"max":1,"last":1,"description":"d",
                "bins":[[130817,2]]}"#,
        ] {
            let sample = line_of(text);
            assert_eq!(line_of(&line(&sample).to_string()), sample);
        }
    }

    #[test]
    fn what_is_wrong_with_a_line_is_said() {
        for (line, part) in [
            (r#"{"value":1}"#, "missing field `name`"),
            (r#"{"name":"n","value":"x"}"#, "column 23: invalid type"),
            (r#"{"name":"n","timestamp":"now-1h"}"#, "is no moment"),
            (r#"{"name":"n","timestamp":1768485600000}"#, "is no moment"),
            (r#"{"name":"n","type":"histogram"}"#, "type \"histogram\""),
            (r#"{"name":"n","count":2,"sum":1}"#, "no min"),
            (r#"{"name":"n","count":2,"bins":[[2,1],[1,1]]}"#, "no sum"),
            (
                r#"{"name":"n","count":1,"sum":1,"min":1,"max":1,"last":1,"bins":[[2,1],[1,1]]}"#,
                "bins: ",
            ),
            ("[]", "column"),
        ] {
            let error = row(line.as_bytes()).unwrap_err();
            assert!(error.contains(part), "{line}: {error}");
        }
    }
}
