//! A data set of a real machine: scrapes of Prometheus' node_exporter, replayed as several hosts.
//!
//! `benches/end_to_end/scrape` makes the files: one for each scrape, as the exporter writes them.

use healthd::serve::proto::v1::{self, Kind};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// How many hosts there seem to be.
const HOSTS: u32 = 20;

/// The scrapes of a directory.
pub(super) struct Node {
    pub(super) series: Vec<v1::Series>,
    /// The samples of each scrape, as of all hosts.
    scrapes: Vec<v1::Packed>,
}

struct Sampled {
    /// Its first ref; other hosts' follow.
    reference: u32,
    kind: Kind,
    last: f64,
}

impl Node {
    pub(super) fn read(directory: &Path) -> Self {
        let entries = std::fs::read_dir(directory).expect("the directory of scrapes");
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("a file").path()).collect();
        files.sort();
        let mut node = Self { series: Vec::new(), scrapes: Vec::new() };
        let mut known: HashMap<String, Sampled> = HashMap::new();
        for file in files {
            let text = std::fs::read_to_string(file).expect("a scrape");
            let scrape = node.take(&text, &mut known);
            node.scrapes.push(scrape);
        }
        node
    }

    pub(super) fn len(&self) -> i64 {
        self.scrapes.len() as i64
    }

    /// A scrape, at this time.
    pub(super) fn scrape(&self, n: i64, time_ms: i64) -> v1::Packed {
        v1::Packed { times_ms: vec![time_ms], ..self.scrapes[n as usize].clone() }
    }

    /// Counters are sent by how much they grew, as a client of healthd counts them.
    fn take(&mut self, text: &str, known: &mut HashMap<String, Sampled>) -> v1::Packed {
        let (mut kinds, mut counters, mut gauges) = (HashMap::new(), Vec::new(), Vec::new());
        for line in text.lines() {
            if let Some(type_of) = line.strip_prefix("# TYPE ") {
                let (name, kind) = type_of.split_once(' ').expect("a name and a type");
                kinds.insert(name.to_owned(), kind.to_owned());
            }
            if line.starts_with('#') || line.is_empty() {
                continue;
            }
            let (id, value) = line.rsplit_once(' ').expect("a series and a value");
            let value: f64 = value.parse().expect("a number");
            if !value.is_finite() {
                continue;
            }
            let sampled = known.entry(id.to_owned()).or_insert_with(|| {
                let kind = kind_of(id, &kinds);
                let reference = self.series.len() as u32;
                self.series.extend((0..HOSTS).map(|host| declare(id, kind, reference + host)));
                Sampled { reference, kind, last: value }
            });
            let grown = if value >= sampled.last { value - sampled.last } else { value };
            sampled.last = value;
            for reference in sampled.reference..sampled.reference + HOSTS {
                match sampled.kind {
                    Kind::Counter => counters.push((reference, grown)),
                    _ => gauges.push((reference, value)),
                }
            }
        }
        let (mut refs, increments): (Vec<u32>, Vec<f64>) = counters.into_iter().unzip();
        let (more, observations): (Vec<u32>, Vec<f64>) = gauges.into_iter().unzip();
        refs.extend(more);
        v1::Packed { refs, increments, observations, ..v1::Packed::default() }
    }
}

fn kind_of(id: &str, kinds: &HashMap<String, String>) -> Kind {
    let name = id.split('{').next().unwrap_or_default();
    let family = ["_bucket", "_count", "_sum"].iter().find_map(|end| name.strip_suffix(end));
    let of = |name: &str| kinds.get(name).map(String::as_str);
    match (of(name), family.and_then(of)) {
        (Some("counter"), _) | (_, Some("histogram" | "summary")) => Kind::Counter,
        _ => Kind::Rolling,
    }
}

fn declare(id: &str, kind: Kind, reference: u32) -> v1::Series {
    let (name, rest) = id.split_once('{').unwrap_or((id, ""));
    let pairs = rest.trim_end_matches('}').split("\",").filter_map(|pair| pair.split_once("=\""));
    let pairs = pairs
        .map(|(name, value)| (name.to_owned(), value.trim_end_matches('"').replace("\\\\", "\\")));
    let mut labels: BTreeMap<String, String> = pairs.collect();
    labels.insert("host".to_owned(), format!("host-{:02}", reference % HOSTS));
    v1::Series {
        r#ref: reference,
        component: "node".to_owned(),
        name: name.to_owned(),
        kind: kind.into(),
        labels,
        ..v1::Series::default()
    }
}
