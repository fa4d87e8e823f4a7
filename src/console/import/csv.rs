//! CSV with a header: columns by their names, in any order; what else there is is not looked at.
//!
//! The `'` that an export puts before what a spreadsheet would take for a formula is taken away again.

use super::row::{Row, Value, kind, moment};
use super::source::{Position, Rows, Source};
use anyhow::{Context, bail};
use csv::StringRecord;
use model::{Many, Sketch, Timestamp};
use std::str::FromStr;

/// The columns that are read. `name` must be there, and `value` or `count`.
const COLUMNS: [&str; 14] = [
    "timestamp",
    "component",
    "name",
    "labels",
    "type",
    "unit",
    "description",
    "value",
    "count",
    "sum",
    "min",
    "max",
    "last",
    "last_time",
];

pub(super) struct Csv {
    reader: csv::Reader<Source>,
    /// Where each of [`COLUMNS`] stands.
    places: [Option<usize>; COLUMNS.len()],
    record: StringRecord,
    /// How many were read, counted from the header.
    rows: i64,
}

impl Csv {
    pub(super) fn new(source: Source) -> anyhow::Result<Self> {
        let mut reader = csv::Reader::from_reader(source);
        let head = reader.headers().context("the header")?;
        let place = |column: &str| {
            head.iter().position(|name| name.trim_start_matches('\u{feff}').trim() == column)
        };
        let places = COLUMNS.map(place);
        if let Some(twice) = COLUMNS
            .iter()
            .find(|column| head.iter().filter(|name| name.trim() == **column).count() > 1)
        {
            bail!("line 1: the header has the column {twice:?} twice");
        }
        let has = |column| place(column).is_some();
        if !has("name") || !has("value") && !has("count") {
            bail!(
                "line 1: the header has no column \"name\", or none of \"value\" and \"count\"; it is {:?}",
                head.iter().collect::<Vec<_>>().join(",")
            );
        }
        Ok(Self { reader, places, record: StringRecord::new(), rows: 0 })
    }

    fn cell(&self, column: &str) -> Option<&str> {
        let column = COLUMNS.iter().position(|known| *known == column)?;
        self.record.get(self.places[column]?).filter(|cell| !cell.is_empty())
    }

    /// A text, without what keeps it from being a formula.
    fn text(&self, column: &str) -> Option<String> {
        self.cell(column).map(|text| text.strip_prefix('\'').unwrap_or(text).to_owned())
    }

    fn number<T: FromStr>(&self, column: &str) -> Result<Option<T>, String> {
        let Some(text) = self.cell(column) else { return Ok(None) };
        let number = text.trim().parse();
        number.map(Some).map_err(|_| format!("{column} {text:?} is no such number"))
    }

    fn row(&self) -> Result<Row, String> {
        let mut time = self.cell("timestamp").map(moment).transpose()?;
        let value = match self.number("count")? {
            None => self.number("value")?.map(Value::One),
            Some(count) => {
                if let Some(last) = self.cell("last_time") {
                    time = Some(moment(last)?);
                }
                let of = |column| {
                    let part = self.number(column)?;
                    part.ok_or_else(|| format!("it has a count and no {column}; give both or none"))
                };
                let (sum, min, max, last) = (of("sum")?, of("min")?, of("max")?, of("last")?);
                let (last_time, sketch) = (Timestamp::default(), Sketch::default());
                let fold = Many { count, sum, min, max, last, last_time, sketch };
                Some(Value::Fold(Box::new(fold)))
            }
        };
        let labels = self.text("labels").map(|text| {
            serde_json::from_str(&text)
                .map_err(|_| format!("labels {text:?} are no JSON object of texts"))
        });
        Ok(Row {
            component: self.text("component"),
            name: self.text("name").unwrap_or_default(),
            labels: labels.transpose()?.unwrap_or_default(),
            kind: self.cell("type").map(kind).transpose()?,
            unit: self.text("unit").unwrap_or_default(),
            description: self.text("description").unwrap_or_default(),
            time,
            value,
        })
    }
}

impl Rows for Csv {
    fn next(&mut self) -> anyhow::Result<Option<(Position, Result<Row, String>)>> {
        let mut record = std::mem::take(&mut self.record);
        let read = self.reader.read_record(&mut record);
        self.record = record;
        self.rows += 1;
        let position = Position::Row(self.rows);
        match read {
            Ok(false) => Ok(None),
            Ok(true) => Ok(Some((position, self.row()))),
            Err(error) => match error.kind() {
                csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
                    let text = format!("it has {len} fields, and the header has {expected_len}");
                    Ok(Some((position, Err(text))))
                }
                csv::ErrorKind::Utf8 { .. } => {
                    Ok(Some((position, Err("it is no UTF-8".to_owned()))))
                }
                _ => Err(error.into()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Kind;

    fn read(text: &str) -> Vec<(Position, Result<Row, String>)> {
        let mut csv = Csv::new(Source::of_text(text)).unwrap();
        std::iter::from_fn(|| csv.next().unwrap()).collect()
    }

    #[test]
    fn columns_are_found_by_name_and_formulas_are_no_longer_kept_from_being_one() {
        let rows = read(
            "id,value,name,type,timestamp,component,labels,unit,count,sum,min,max,last,last_time\r\n\
             1,2,'-odd,counter,1.5,c,\"{\"\"a\"\":\"\"=1\"\"}\",'+1,,,,,,\r\n\
             2,2.5,m,value,2026-11-24 10:00:00,,,,2,5,2,3,3,1.25\n",
        );
        let expected = Row {
            component: Some("c".into()),
            name: "-odd".into(),
            labels: [("a".to_owned(), "=1".to_owned())].into(),
            kind: Some(Kind::Counter),
            unit: "+1".into(),
            time: Some(Timestamp::from_ms(1500)),
            value: Some(Value::One(2.0)),
            ..Row::default()
        };
        assert_eq!(rows[0], (Position::Row(1), Ok(expected)));
        let (last_time, sketch) = (Timestamp::default(), Sketch::default());
        let fold = Many { count: 2, sum: 5.0, min: 2.0, max: 3.0, last: 3.0, last_time, sketch };
        let second = rows[1].1.clone().unwrap();
        assert_eq!(second.value, Some(Value::Fold(Box::new(fold))));
        assert_eq!((second.time, second.component), (Some(Timestamp::from_ms(1250)), None));
    }

    #[test]
    fn what_is_wrong_with_a_row_is_said_by_its_line_and_the_next_is_read() {
        let rows = read("name,value,labels\na,x,\nb\nc,1,[]\nd,,\ne,1,\n");
        let told = |place: usize| rows[place].1.clone().unwrap_err();
        assert_eq!(rows[0].0, Position::Row(1));
        assert_eq!(told(0), "value \"x\" is no such number");
        assert_eq!(
            (rows[1].0, &*told(1)),
            (Position::Row(2), "it has 1 fields, and the header has 3")
        );
        assert!(told(2).starts_with("labels \"[]\""), "{}", told(2));
        assert_eq!(rows[3].1.as_ref().unwrap().value, None);
        assert_eq!(rows[4].1.as_ref().unwrap().value, Some(Value::One(1.0)));
        assert!(Csv::new(Source::of_text("a,b\n1,2\n")).is_err());
    }
}
