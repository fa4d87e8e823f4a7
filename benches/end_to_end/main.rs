//! The real server under load, from outside: what it takes to ingest, keep and answer.
//!
//! `cargo bench --bench end_to_end` prints the table in README. The server is a process of its own and
//! its CPU time alone is counted. Words after `--` choose parts: a, b, events, plain, latency, and node
//! with `scrapes=DIRECTORY` (see `scrape`); `keep=DIRECTORY` leaves the databases there.

mod data;
mod load;
mod node;
mod server;

use data::Data;
use healthd::serve::proto::v1;
use load::send;
use server::Server;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Distance of samples.
const STEP_MS: i64 = 10_000;

/// How much of everything.
#[derive(Clone, Copy)]
struct Size {
    a: (u32, i64),
    b: (u32, i64),
    events: u32,
    plain: u32,
    latency: Duration,
}

const FULL: Size = Size {
    a: (10_000, 720),
    b: (200_000, 30),
    events: 20_000_000,
    plain: 2_000_000,
    latency: Duration::from_mins(1),
};
/// What suffices to see that everything runs.
const SMALL: Size = Size {
    a: (200, 30),
    b: (400, 3),
    events: 100_000,
    plain: 20_000,
    latency: Duration::from_secs(1),
};

#[tokio::main]
async fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let measured = words.iter().any(|word| word == "--bench");
    let size = if measured { FULL } else { SMALL };
    let chosen: Vec<&String> =
        words.iter().filter(|word| !word.starts_with("--") && !word.contains('=')).collect();
    let wants = |part: &str| chosen.is_empty() || chosen.iter().any(|word| *word == part);
    // Beside the build: the usual directory for temporary files may be in memory.
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"));
    let directory = directory.expect("the build's directory can be written to");
    let kept = words.iter().find_map(|word| word.strip_prefix("keep="));
    let directory = kept.map_or(directory.path(), Path::new);
    let path = |name: &str| directory.join(format!("{name}.db"));
    if wants("a") {
        set("A", &path("a"), size.a, measured).await;
    }
    if wants("b") {
        set("B", &path("b"), size.b, measured).await;
    }
    if let Some(scrapes) = words.iter().find_map(|word| word.strip_prefix("scrapes=")) {
        let node = node::Node::read(Path::new(scrapes));
        let (declared, samples) = (node.series.clone(), node.len());
        let next = move |n, time| node.scrape(n, time);
        replay("node_exporter", &path("node"), &declared, samples, measured, next).await;
    }
    if wants("events") {
        events(&path("events"), size.events).await;
    }
    if wants("plain") {
        plain(&path("plain"), size.plain).await;
    }
    if wants("latency") {
        latency(&path("latency"), size.latency).await;
    }
}

#[expect(clippy::print_stdout, reason = "the figures are what this program is for")]
fn say(what: &str, figure: &str) {
    println!("| {what} | {figure} |");
}

#[expect(clippy::disallowed_methods, reason = "samples are of the last hours")]
fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    now.as_millis() as i64 / STEP_MS * STEP_MS
}

/// Packed samples, each in a bucket of its own; then what was kept, and questions.
async fn set(name: &str, path: &Path, (series, samples): (u32, i64), settle: bool) {
    let mut data = Data::new(series);
    let declared = data.series.clone();
    replay(name, path, &declared, samples, settle, move |_, time| data.next(time)).await;
}

/// The same of any series, whose samples `next` gives by their number and time.
async fn replay(
    name: &str,
    path: &Path,
    declared: &[v1::Series],
    samples: i64,
    settle: bool,
    mut next: impl FnMut(i64, i64) -> v1::Packed + Send + 'static,
) {
    let mut server = Server::start(path).await;
    let base = server.peak_rss();
    let series = declared.len();
    let begin = now_ms() - samples * STEP_MS;
    let declarations: Vec<v1::IngestRequest> = declared
        .chunks(10_000)
        .map(|series| v1::IngestRequest { series: series.to_vec(), ..v1::IngestRequest::default() })
        .collect();
    let requests = (0..samples).flat_map(move |n| {
        let packed = next(n, begin + n * STEP_MS);
        split(packed, 60_000).into_iter()
    });
    let requests = requests.map(move |packed| v1::IngestRequest {
        packed: Some(packed),
        ..v1::IngestRequest::default()
    });
    let requests = declarations.into_iter().chain(requests);
    let cpu = server.cpu();
    let sent = send(&mut server, requests).await;
    let what = format!("{name}: {series} series x {samples}");
    say(&format!("{what}, packed, samples/s"), &format!("{:.0}", sent.rate()));
    say(&format!("{what}, CPU s/M until durable"), &format!("{:.3}", sent.cpu_per_million()));
    say(&format!("{what}, peak RSS"), &format!("{:.0} MB (start {base:.0})", server.peak_rss()));
    if settle {
        server.settle().await;
    }
    let million = sent.samples as f64 / 1e6;
    let all = (server.cpu() - cpu) / million;
    say(&format!("{what}, CPU s/M with compaction"), &format!("{all:.3}"));
    say(&format!("{what}, peak RSS after compaction"), &format!("{:.0} MB", server.peak_rss()));
    let (file, log) = server.file_bytes();
    let bytes = (file + log) as f64 / sent.samples as f64;
    let blocks = server.status().await.storage.unwrap_or_default().blocks;
    let what_of = format!("{what}, bytes/sample, {blocks} blocks, log {log} bytes");
    say(&what_of, &format!("{bytes:.3}"));
    if declared[0].component == data::component(0) {
        questions(&mut server, &what, begin, samples).await;
    }
    server.kill();
    let restart = Instant::now();
    let mut server = Server::start(path).await;
    server.status().await;
    let spent = restart.elapsed().as_secs_f64();
    say(&format!("{what}, start after SIGKILL to the first answer"), &format!("{spent:.3} s"));
    server.kill();
}

/// Cuts a request so that none has more samples than one may have.
fn split(packed: v1::Packed, most: usize) -> Vec<v1::Packed> {
    let v1::Packed { refs, increments, observations, times_ms, .. } = packed;
    let (counters, gauges) = refs.split_at(increments.len());
    let counters = counters.chunks(most).zip(increments.chunks(most));
    let counters = counters.map(|(refs, increments)| v1::Packed {
        refs: refs.to_vec(),
        increments: increments.to_vec(),
        times_ms: times_ms.clone(),
        ..v1::Packed::default()
    });
    let gauges = gauges.chunks(most).zip(observations.chunks(most));
    let gauges = gauges.map(|(refs, observations)| v1::Packed {
        refs: refs.to_vec(),
        observations: observations.to_vec(),
        times_ms: times_ms.clone(),
        ..v1::Packed::default()
    });
    counters.chain(gauges).collect()
}

async fn questions(server: &mut Server, what: &str, begin: i64, samples: i64) {
    let at = |ms: i64| Some(prost_types::Timestamp { seconds: ms / 1000, nanos: 0 });
    let range = v1::ExtractRequest {
        component: data::component(0),
        start: at(begin),
        end: at(begin + samples * STEP_MS),
        max_points: 10_000,
        ..v1::ExtractRequest::default()
    };
    let raw = v1::ExtractRequest {
        metrics: vec!["metric_01".to_owned()],
        step: Some(prost_types::Duration { seconds: STEP_MS / 1000, nanos: 0 }),
        ..range.clone()
    };
    let minutes =
        v1::ExtractRequest { step: Some(prost_types::Duration { seconds: 60, nanos: 0 }), ..range };
    for (name, request) in
        [("one series, raw", raw), ("100 series of a component, by the minute", minutes)]
    {
        let mut times = Vec::new();
        let mut points = 0;
        for _ in 0..300 {
            let asked = Instant::now();
            let answer = server.query.extract(request.clone()).await;
            let mut parts = answer.expect("the server answers").into_inner();
            points = 0;
            while let Some(part) = parts.message().await.expect("the answer is whole") {
                points += part.series.iter().map(|series| series.time_ms.len()).sum::<usize>();
            }
            times.push(asked.elapsed());
        }
        say(&format!("{what}, {name}, {points} points"), &percentiles(times));
    }
    let mut times = Vec::new();
    for _ in 0..10 {
        let asked = Instant::now();
        let mut page = String::new();
        loop {
            let request = v1::GetCurrentRequest {
                page_size: 10_000,
                page_token: page,
                ..v1::GetCurrentRequest::default()
            };
            let answer = server.query.get_current(request).await.expect("the server answers");
            page = answer.into_inner().next_page_token;
            if page.is_empty() {
                break;
            }
        }
        times.push(asked.elapsed());
    }
    say(&format!("{what}, current value of all"), &percentiles(times));
}

fn percentiles(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |share: f64| {
        let place = (share * times.len() as f64) as usize;
        times[place.min(times.len() - 1)].as_secs_f64() * 1e3
    };
    format!("p50 {:.2} p99 {:.2} p99.9 {:.2} ms", at(0.5), at(0.99), at(0.999))
}

/// Many events in a bucket: 1,000 series, all at the server's time.
async fn events(path: &Path, count: u32) {
    const SERIES: u32 = 1000;
    const ROWS: u32 = 50_000;
    let mut server = Server::start(path).await;
    for (name, counters) in [("counters", true), ("rolling", false)] {
        let data = Data::new(2 * SERIES);
        let is_meant = move |n: u32| data::is_counter(n) == counters;
        let wanted = data.series.into_iter().filter(move |series| is_meant(series.r#ref));
        let mut declared: Vec<v1::Series> = wanted.collect();
        let refs: Vec<u32> = (0..ROWS).map(|n| 2 * (n % SERIES) + u32::from(!counters)).collect();
        let mut random = data::Random(7);
        let requests = (0..count / ROWS).map(move |_| {
            let values: Vec<f64> =
                refs.iter().map(|_| (1e3 * (0.5 * random.normal()).exp()).round() / 1e3).collect();
            let mut packed = v1::Packed { refs: refs.clone(), ..v1::Packed::default() };
            if counters {
                packed.increments = vec![1.0; refs.len()];
            } else {
                packed.observations = values;
            }
            v1::IngestRequest {
                series: std::mem::take(&mut declared),
                packed: Some(packed),
                ..v1::IngestRequest::default()
            }
        });
        let sent = send(&mut server, requests).await;
        let figure = format!("{:.3}", sent.cpu_per_million());
        say(&format!("many events a bucket, {name}, CPU s/M"), &figure);
        say(&format!("many events a bucket, {name}, samples/s"), &format!("{:.0}", sent.rate()));
    }
    server.kill();
}

/// The plain form: 1,000 series, all at the server's time.
async fn plain(path: &Path, count: u32) {
    const SERIES: u32 = 1000;
    const ROWS: u32 = 5000;
    let mut server = Server::start(path).await;
    for labels in [0, 4] {
        let label = |n: u32, l: u32| (format!("label_{l}"), format!("value_{}", n % (l + 2)));
        let metric = move |n: u32| v1::Metric {
            component: data::component(n % SERIES),
            name: format!("plain_{labels}_{:02}", n % 100),
            labels: (0..labels).map(|l| label(n % SERIES, l)).collect::<BTreeMap<_, _>>(),
            value: Some(v1::metric::Value::Increment(1.0)),
            ..v1::Metric::default()
        };
        let request = v1::IngestRequest {
            metrics: (0..ROWS).map(metric).collect(),
            ..v1::IngestRequest::default()
        };
        let requests = (0..count / ROWS).map(move |_| request.clone());
        let sent = send(&mut server, requests).await;
        let figure = format!("{:.3}", sent.cpu_per_million());
        say(&format!("plain, {labels} labels, CPU s/M"), &figure);
    }
    server.kill();
}

/// Acks while set A streams in beside, with all its compaction.
async fn latency(path: &Path, span: Duration) {
    let mut server = Server::start(path).await;
    let mut beside = server.ingest.clone();
    let mut data = Data::new(10_000);
    let begin = now_ms() - 80_000 * STEP_MS;
    let over = Instant::now() + span;
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    let load = tokio::task::spawn_blocking(move || {
        let mut declared = std::mem::take(&mut data.series);
        for n in 0.. {
            if Instant::now() >= over {
                break;
            }
            let request = v1::IngestRequest {
                series: std::mem::take(&mut declared),
                packed: Some(data.next(begin + n * STEP_MS)),
                ..v1::IngestRequest::default()
            };
            sender.blocking_send(request).expect("the stream is open");
            // A tenth of what one core can make: the machine is not to be full.
            std::thread::sleep(Duration::from_millis(25));
        }
    });
    let acks = beside.ingest(tokio_stream::wrappers::ReceiverStream::new(receiver)).await;
    let mut acks = acks.expect("the server takes streams").into_inner();
    let mut drain = tokio::task::JoinSet::new();
    drain.spawn(
        async move { while acks.message().await.expect("the stream ends well").is_some() {} },
    );
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let acks = server.ingest.ingest(tokio_stream::wrappers::ReceiverStream::new(receiver)).await;
    let mut acks = acks.expect("the server takes streams").into_inner();
    let (mut accepted, mut durable) = (Vec::new(), Vec::new());
    let mut seq = 0;
    while Instant::now() < over {
        // Longer than acks are held together for: each probe has one of its own.
        tokio::time::sleep(Duration::from_millis(15)).await;
        seq += 1;
        let metric = v1::Metric {
            component: "latency".to_owned(),
            name: "probe".to_owned(),
            value: Some(v1::metric::Value::Increment(1.0)),
            ..v1::Metric::default()
        };
        let request = v1::IngestRequest { metrics: vec![metric], ..v1::IngestRequest::default() };
        let sent = Instant::now();
        sender.send(request).await.expect("the stream is open");
        let mut is_accepted = false;
        while let Some(ack) = acks.message().await.expect("the stream is open") {
            if !is_accepted && ack.accepted_through >= seq {
                is_accepted = true;
                accepted.push(sent.elapsed());
            }
            if ack.durable_through >= seq {
                durable.push(sent.elapsed());
                break;
            }
        }
    }
    drop(sender);
    load.await.expect("the load does not panic");
    drain.join_all().await;
    say(
        &format!("accepted, {} probes under load and compaction", accepted.len()),
        &percentiles(accepted),
    );
    say("durable, the same", &percentiles(durable));
    server.kill();
}
