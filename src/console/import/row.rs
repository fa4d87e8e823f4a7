//! A row of a file, as any format tells it, and what becomes of it: a sample that a service takes.
//!
//! The kind of a metric is told by the file or by the caller, and never guessed.

use clap::ValueEnum;
use model::{
    Counter, Fold, Kind, Labels, Many, Rolling, Timestamp, check_increment, check_name, check_value,
};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// What a format reads of a row.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Row {
    pub(super) component: Option<String>,
    pub(super) name: String,
    pub(super) labels: BTreeMap<String, String>,
    /// None: the file does not say.
    pub(super) kind: Option<Kind>,
    pub(super) unit: String,
    pub(super) description: String,
    /// None: the file does not say, and the time of the import is taken.
    pub(super) time: Option<Timestamp>,
    /// None: the file says that there is no value.
    pub(super) value: Option<Value>,
}

/// What a row says.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// A counter's number, or an observation.
    One(f64),
    /// A counter's running total. It began at zero at some time that is known, or at one that is not.
    Total(f64, Origin),
    /// What several observations come to; it is not checked yet.
    Fold(Box<Many>),
}

/// When a running total was zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// Then, in milliseconds.
    At(i64),
    /// Before the file's first row of the series.
    Zero,
    /// Nobody knows: the first total says from where to count.
    Unknown,
}

/// What the numbers of counters are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Counters {
    /// How much each grew since the row before
    Increases,
    /// Running totals
    Totals,
}

/// What is said of rows that say nothing themselves.
#[derive(Clone, Debug)]
pub(super) struct Defaults {
    pub(super) component: String,
    pub(super) kind: Option<Kind>,
    pub(super) counters: Counters,
    /// The time of rows that have none; none: such rows are wrong.
    pub(super) time: Option<Timestamp>,
    pub(super) now: Timestamp,
}

/// A series, as the contract declares it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) component: String,
    pub(super) name: String,
    pub(super) labels: Labels,
    pub(super) kind: Kind,
}

/// A row that a service can take.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sample {
    pub(super) key: Key,
    pub(super) unit: String,
    pub(super) description: String,
    pub(super) time: Timestamp,
    pub(super) fold: Fold,
}

/// Makes samples of rows; it knows the running totals so far.
pub(super) struct Settling {
    defaults: Defaults,
    /// Whether any row said no component, or no kind.
    lacks: (bool, bool),
    /// The totals of the rows before.
    totals: HashMap<Key, Total>,
    /// What metrics are, by component and name.
    kinds: HashMap<String, Kind>,
}

/// A running total.
#[derive(Clone, Copy, Debug)]
struct Total {
    value: f64,
    origin: Origin,
    time: Timestamp,
}

/// As far ahead of the clock as a service takes samples.
const MAX_AHEAD: Duration = Duration::from_mins(10);

impl Settling {
    pub(super) fn new(defaults: Defaults) -> Self {
        let (totals, kinds) = (HashMap::new(), HashMap::new());
        Self { defaults, lacks: (false, false), totals, kinds }
    }

    /// What was said of rows and counted for any of them, in words: rows that mean something else are others.
    pub(super) fn said(&self) -> String {
        let Defaults { component, kind, counters, .. } = &self.defaults;
        let component = if self.lacks.0 { component } else { "" };
        let kind = kind.filter(|_| self.lacks.1).map_or(String::new(), |kind| kind.to_string());
        let counters = match counters {
            Counters::Increases => "increases",
            Counters::Totals => "totals",
        };
        format!("{component} {kind} {counters}")
    }

    /// The sample of a row; none if it has no value. An error says what is wrong with the row.
    pub(super) fn settle(&mut self, row: Row) -> Result<Option<Sample>, String> {
        let Row { component, name, labels, kind, unit, description, time, value } = row;
        let component = component.filter(|name| !name.is_empty());
        self.lacks = (self.lacks.0 || component.is_none(), self.lacks.1 || kind.is_none());
        let component = component.unwrap_or_else(|| self.defaults.component.clone());
        let named = |what: &str, name: &str| {
            check_name(name).map_err(|error| format!("{what} {name:?} {error}"))
        };
        named("component", &component)?;
        named("name", &name)?;
        let labels = Labels::new(labels.iter().map(|(name, value)| (&**name, &**value)))
            .map_err(|error| error.to_string())?;
        let kind = kind.or(self.defaults.kind);
        let kind = kind.ok_or("it has no type; say --kind counter or --kind rolling")?;
        let before = self.kinds.entry(format!("{component} {name}")).or_insert(kind);
        if *before != kind {
            return Err(format!("its type is {kind}, and {before} in rows before"));
        }
        let Some(value) = value else { return Ok(None) };
        let key = Key { component, name, labels, kind };
        let time =
            time.or(self.defaults.time).ok_or("it has no timestamp; say --time for such rows")?;
        if time > self.defaults.now.after(MAX_AHEAD) {
            return Err(format!("its time, {time}, is more than 10 minutes from now"));
        }
        let (is_total, number) = match value {
            Value::One(number) => {
                let is_total = self.defaults.counters == Counters::Totals;
                (is_total.then_some(Origin::Zero), number)
            }
            Value::Total(number, origin) => (Some(origin), number),
            Value::Fold(_) if kind == Kind::Counter => {
                return Err("it is a counter and has a count; leave that out".to_owned());
            }
            Value::Fold(many) => {
                let fold = Many { last_time: time, ..*many }.checked();
                let fold = fold.map_err(|error| error.to_string())?.into();
                return Ok(Some(Sample { key, unit, description, time, fold }));
            }
        };
        let fold = match (kind, is_total) {
            (Kind::Counter, Some(origin)) => {
                Counter { sum: self.increase(&key, time, number, origin)? }.into()
            }
            (Kind::Counter, None) => {
                let sum = check_increment(number).map_err(|error| format!("value {error}"))?;
                Counter { sum }.into()
            }
            (Kind::Rolling, _) => {
                let value = check_value(number).map_err(|error| format!("value {error}"))?;
                Rolling::one(value, time).into()
            }
        };
        Ok(Some(Sample { key, unit, description, time, fold }))
    }

    /// How much a counter grew to come to this total. One that is smaller than before began anew; so rows that
    /// are not in the order of time would be counted as if it had.
    fn increase(
        &mut self,
        key: &Key,
        time: Timestamp,
        total: f64,
        origin: Origin,
    ) -> Result<f64, String> {
        let total = check_increment(total).map_err(|error| format!("total {error}"))?;
        let now = Total { value: total, origin, time };
        let Some(before) = self.totals.get_mut(key) else {
            self.totals.insert(key.clone(), now);
            return Ok(if origin == Origin::Unknown { 0.0 } else { total });
        };
        if time < before.time {
            return Err(format!(
                "its time, {time}, is before that of the row before of its series, {}; sort rows of running \
                 totals by time",
                before.time
            ));
        }
        let is_other =
            matches!((before.origin, origin), (Origin::At(then), Origin::At(now)) if then != now);
        let from = if total < before.value || is_other { 0.0 } else { before.value };
        *before = now;
        Ok(total - from)
    }
}

/// The kind that a file's word means: healthd's own and those of other programs.
pub(super) fn kind(word: &str) -> Result<Kind, String> {
    match word.to_ascii_lowercase().as_str() {
        "counter" => Ok(Kind::Counter),
        "rolling" | "value" | "gauge" => Ok(Kind::Rolling),
        _ => Err(format!("type {word:?} is none; say counter, or one of rolling, value, gauge")),
    }
}

/// The moment that a file's text means. What is relative to now means another one each time.
pub(super) fn moment(text: &str) -> Result<Timestamp, String> {
    model::parse_moment(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settling(counters: Counters) -> Settling {
        let component = "global".to_owned();
        let (now, time) = (Timestamp::from_ms(7), Some(Timestamp::from_ms(7)));
        Settling::new(Defaults { component, kind: Some(Kind::Counter), counters, time, now })
    }

    fn increments(settling: &mut Settling, values: &[Value]) -> Vec<f64> {
        let row = |value: &Value| Row {
            name: "n".to_owned(),
            value: Some(value.clone()),
            ..Row::default()
        };
        let mut sample = |value| settling.settle(row(value)).unwrap().unwrap().fold;
        let increment = |value| match sample(value) {
            Fold::Counter(counter) => counter.sum,
            other @ Fold::Rolling(_) => panic!("{other:?}"),
        };
        values.iter().map(increment).collect()
    }

    #[test]
    fn running_totals_add_up_to_how_much_they_grew_through_restarts() {
        let of = |values: &[f64]| values.iter().copied().map(Value::One).collect::<Vec<_>>();
        let totals = of(&[1.0, 2.0, 5.0, 5.0, 2.0, 3.0]);
        assert_eq!(
            increments(&mut settling(Counters::Totals), &totals),
            [1.0, 1.0, 3.0, 0.0, 2.0, 1.0]
        );
        assert_eq!(increments(&mut settling(Counters::Increases), &of(&[1.0, 2.0])), [1.0, 2.0]);
        let from = |origin| move |total| Value::Total(total, origin);
        let unknown: Vec<_> = [100.0, 103.0, 1.0].into_iter().map(from(Origin::Unknown)).collect();
        assert_eq!(increments(&mut settling(Counters::Increases), &unknown), [0.0, 3.0, 1.0]);
        let mut known: Vec<_> = [100.0, 103.0].into_iter().map(from(Origin::At(1))).collect();
        known.insert(0, Value::Total(90.0, Origin::Unknown));
        known.push(Value::Total(200.0, Origin::At(2)));
        assert_eq!(increments(&mut settling(Counters::Increases), &known), [0.0, 10.0, 3.0, 200.0]);
    }

    #[test]
    fn rows_that_contradict_each_other_are_wrong() {
        let at = |ms, total| Row {
            name: "n".to_owned(),
            time: Some(Timestamp::from_ms(ms)),
            value: Some(Value::One(total)),
            ..Row::default()
        };
        let mut totals = settling(Counters::Totals);
        assert!(totals.settle(at(3, 5.0)).is_ok() && totals.settle(at(3, 6.0)).is_ok());
        let earlier = totals.settle(at(2, 4.0)).unwrap_err();
        assert!(earlier.contains("sort rows"), "{earlier}");
        let other = totals.settle(Row { kind: Some(Kind::Rolling), ..at(4, 1.0) }).unwrap_err();
        assert_eq!(other, "its type is rolling, and counter in rows before");
        totals.defaults.time = None;
        let timeless = totals.settle(Row { time: None, ..at(4, 7.0) }).unwrap_err();
        assert!(timeless.contains("--time"), "{timeless}");
    }

    fn many(count: u64) -> Many {
        let (time, sketch) = (Timestamp::default(), model::Sketch::default());
        Many { count, sum: 1.0, min: 1.0, max: 1.0, last: 1.0, last_time: time, sketch }
    }

    #[test]
    fn what_is_wrong_with_a_row_is_said_and_no_kind_is_guessed() {
        let wrong = |change: &dyn Fn(&mut Row)| {
            let mut row =
                Row { name: "n".into(), value: Some(Value::One(1.0)), ..Default::default() };
            change(&mut row);
            let mut settling = settling(Counters::Increases);
            settling.defaults.kind = None;
            settling.settle(row).unwrap_err()
        };
        assert!(wrong(&|_| ()).contains("--kind"));
        assert!(wrong(&|row| row.name = "a b".into()).contains("name \"a b\" holds ' '"));
        assert!(wrong(&|row| row.component = Some("a b".into())).starts_with("component"));
        let counter = |row: &mut Row| row.kind = Some(Kind::Counter);
        let negative = wrong(&|row| (counter(row), row.value = Some(Value::One(-1.0))).0);
        assert!(negative.contains("use an observation"), "{negative}");
        let fold = wrong(&|row| (counter(row), row.value = Some(Value::Fold(Box::new(many(1))))).0);
        assert!(fold.contains("count"), "{fold}");
        let none = wrong(&|row| {
            row.kind = Some(Kind::Rolling);
            row.value = Some(Value::Fold(Box::new(many(0))));
        });
        assert!(none.contains("count is 0"), "{none}");
        let late = wrong(&|row| (counter(row), row.time = Some(Timestamp::from_ms(700_000))).0);
        assert!(late.contains("more than 10 minutes"), "{late}");
        assert!(kind("histogram").unwrap_err().contains("say counter"));
    }
}
