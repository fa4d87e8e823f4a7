//! The summary on data worked out by hand: a planted incident is named first, with its onset, and in
//! pure noise there is nothing.

use super::super::bed::{Bed, Given, Kept};
use super::super::{Function, When};
use super::*;
use crate::state::Value;
use model::Timestamp;

/// A Thursday, 15:00 UTC.
const NOW: Timestamp = Timestamp::from_ms(1_767_279_600_000 + 14 * 86_400_000);
const MINUTE: i64 = 60_000;

/// Numbers without a pattern, the same for the same seed (splitmix64).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) as f64 / u64::MAX as f64
    }

    /// Normal, of mean 0 and deviation 1 (Box and Muller).
    fn normal(&mut self) -> f64 {
        let (a, b) = (self.next().max(1e-12), self.next());
        (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()
    }

    /// How many events come when so many are usual (Poisson, by Knuth).
    fn events(&mut self, mean: f64) -> f64 {
        let (limit, mut product, mut count) = ((-mean).exp(), self.next(), 0.0);
        while product > limit {
            product *= self.next();
            count += 1.0;
        }
        count
    }
}

fn ago(minutes: i64) -> Timestamp {
    Timestamp::from_ms(NOW.as_ms() - minutes * MINUTE)
}

/// What is to be seen, minute by minute, for so many minutes up to now.
struct Data {
    given: Vec<Given>,
    noise: Noise,
}

impl Data {
    fn new(seed: u64) -> Self {
        Self { given: Vec::new(), noise: Noise(seed) }
    }

    /// A counter that grows by about so many a minute, in four parts.
    fn counter(&mut self, component: &str, name: &str, minutes: i64, mean: impl Fn(i64) -> f64) {
        for minute in (1..=minutes).rev() {
            for part in 0..4 {
                let time = Timestamp::from_ms(ago(minute).as_ms() + part * 15_000 + 500);
                let events = self.noise.events(mean(minute) / 4.0);
                self.given.push(Given::new(component, name, Value::Increment(events), time));
            }
        }
    }

    /// So many observations a minute.
    fn rolling(
        &mut self,
        component: &str,
        name: &str,
        (minutes, of_minute): (i64, i64),
        mut value: impl FnMut(i64, &mut Noise) -> f64,
    ) {
        for minute in (1..=minutes).rev() {
            for n in 0..of_minute {
                let time = Timestamp::from_ms(ago(minute).as_ms() + n * MINUTE / of_minute + 700);
                let value = value(minute, &mut self.noise);
                self.given.push(Given::new(component, name, Value::Observation(value), time));
            }
        }
    }

    async fn bed(&self) -> Bed {
        let bed = Bed::new(Kept::InFile, NOW).await;
        for part in self.given.chunks(60_000) {
            bed.record(part);
            bed.flush().await;
        }
        bed
    }
}

async fn summary(bed: &Bed) -> Summary {
    bed.engine.summarise(Summarise::default()).await.unwrap()
}

/// The metric of a finding.
fn name(finding: &Finding) -> String {
    let part = |part: &Option<Arc<str>>| part.as_deref().unwrap_or_default().to_owned();
    format!("{}/{}", part(&finding.key.component), part(&finding.key.metric))
}

const HOURS_5: i64 = 300;

/// Errors of `checkout` are eight times as many for 7 minutes from 30 minutes ago; two minutes after it
/// the p99 of `api`, which calls it, is doubled, for as long; `mail` sends nothing since 25 minutes ago;
/// `checkout/retries` is new since 12 minutes ago. The rest is noise.
fn incident(seed: u64) -> Data {
    let mut data = Data::new(seed);
    let within = |minute: i64, from: i64| minute <= from && minute > from - 7;
    let errors = |minute| if within(minute, 30) { 8.0 * 12.0 } else { 12.0 };
    data.counter("checkout", "errors", HOURS_5, errors);
    data.counter("checkout", "requests", HOURS_5, |_| 900.0);
    data.rolling("api", "latency_seconds", (HOURS_5, 120), |minute, noise| {
        let usual = 0.1 * (0.25 * noise.normal()).exp();
        if within(minute, 28) && noise.next() < 0.2 { usual * 2.5 } else { usual }
    });
    data.counter("api", "requests", HOURS_5, |_| 1200.0);
    for name in ["sent", "bounced"] {
        data.counter("mail", name, HOURS_5, |_| 40.0);
    }
    data.given.retain(|given| given.component != "mail" || given.time < ago(25));
    data.counter("checkout", "retries", 12, |_| 20.0);
    for n in 0..12u32 {
        let component = format!("quiet{n}");
        data.counter(&component, "requests", HOURS_5, |_| f64::from(10 * n + 3));
        data.rolling(&component, "memory_bytes", (HOURS_5, 2), |_, noise| {
            5e8 + 1e7 * noise.normal()
        });
    }
    data
}

#[tokio::test]
async fn a_planted_incident_is_named_first_with_its_onset_and_its_company() {
    for seed in 1..=5 {
        let bed = incident(seed).bed().await;
        let deploy = bed.engine.annotate("checkout", "deployed 1.4.2", Some(ago(33)), None);
        deploy.await.unwrap();
        let summary = summary(&bed).await;
        assert_eq!(summary.health, Health::Notable);
        let names: Vec<String> = summary.findings.iter().map(name).collect();
        assert_eq!(names, ["checkout/errors", "api/latency_seconds"], "seed {seed}");
        let errors = &summary.findings[0];
        assert_eq!((errors.onset, errors.direction), (ago(30), Direction::Above));
        assert_eq!(errors.recovered, Some(ago(23)));
        let ratio = errors.ratio().unwrap();
        assert!((6.0..10.0).contains(&ratio), "x{ratio}");
        assert!(errors.expected.low < 0.2 && errors.expected.high > 0.2, "{:?}", errors.expected);
        assert_eq!(errors.annotation.as_ref().unwrap().text.as_ref(), "deployed 1.4.2");
        assert_eq!(errors.with, [("api".into(), "latency_seconds".into())]);
        assert!(errors.why.contains("7 steps of 1m above"), "{}", errors.why);
        assert_eq!(errors.next.end, NOW);
        let latency = &summary.findings[1];
        assert_eq!((latency.onset, latency.function), (ago(28), Function::Quantile(0.99)));
        assert_eq!(latency.with, [("checkout".into(), "errors".into())]);
        let silent: Vec<_> =
            summary.silent.iter().map(|one| (&*one.component, one.silence)).collect();
        assert_eq!(silent, [("mail", Silence::SenderGone)]);
        assert_eq!((summary.silent[0].series, summary.silent[0].metric.as_ref()), (2, None));
        assert!(summary.silent[0].last_seen < ago(25));
        assert_eq!(summary.new, [("checkout".into(), "retries".into())]);
        assert!(summary.headline.starts_with("checkout/errors x"), "{}", summary.headline);
        assert!(summary.headline.contains("mail sends nothing since"), "{}", summary.headline);
        assert_eq!(&*summary.components[0].component, "checkout");
        assert_eq!(&*summary.components[0].metrics[0].name, "errors");
    }
}

/// Counters from seldom to often, gauges that waver, jump back and forth, or remember; durations with
/// long tails: and nothing happens.
fn noise(seed: u64) -> Data {
    let mut data = Data::new(seed);
    for n in 0..10u32 {
        let component = format!("c{n}");
        for (name, mean) in [("often", 200.0), ("some", 20.0), ("few", 2.0), ("seldom", 0.1)] {
            data.counter(&component, name, HOURS_5, |_| mean * (1.0 + f64::from(n)));
        }
        data.rolling(&component, "level", (HOURS_5, 4), |_, noise| 100.0 + 15.0 * noise.normal());
        data.rolling(&component, "flips", (HOURS_5, 1), |_, noise| f64::from(noise.next() < 0.5));
        let mut memory = 0.0;
        data.rolling(&component, "remembers", (HOURS_5, 1), |_, noise| {
            memory = 0.7 * memory + noise.normal();
            50.0 + 5.0 * memory
        });
        data.rolling(&component, "duration", (HOURS_5, 30), |_, noise| {
            (0.8 * noise.normal()).exp()
        });
        data.rolling(&component, "tail", (HOURS_5, 1), |_, noise| -noise.next().max(1e-9).ln());
    }
    data
}

#[tokio::test]
async fn in_pure_noise_nothing_is_found() {
    for seed in 100..120 {
        let bed = noise(seed).bed().await;
        let summary = summary(&bed).await;
        let found: Vec<String> =
            summary.findings.iter().map(|one| format!("{} {}", name(one), one.why)).collect();
        assert!(found.is_empty(), "seed {seed}: {found:?}");
        assert!(summary.silent.is_empty(), "seed {seed}: {:?}", summary.silent);
        assert_eq!((summary.health, summary.unjudged), (Health::Healthy, 0));
        assert_eq!((summary.new.len(), summary.vanished.len()), (0, 0));
    }
}

/// A week of a counter by the minute: 60 a minute, and ten times as many for 20 minutes when `peak` says so.
async fn week(peak: impl Fn(i64) -> bool) -> Summary {
    let mut data = Data::new(7);
    data.counter("shop", "visits", 8 * 24 * 60, |minute| if peak(minute) { 600.0 } else { 60.0 });
    summary(&data.bed().await).await
}

/// Minutes of a day.
const DAY: i64 = 24 * 60;

#[tokio::test]
async fn what_comes_every_day_or_week_is_usual_and_the_same_on_a_new_day_is_not() {
    let peak = |minute: i64, days: i64| (25..45).contains(&(minute - days * DAY));
    let weekly = week(|minute| peak(minute, 0) || peak(minute, 7)).await;
    assert!(weekly.findings.is_empty(), "{:?}", weekly.findings);
    let daily = week(|minute| peak(minute, 0) || peak(minute, 1)).await;
    assert!(daily.findings.is_empty(), "{:?}", daily.findings);
    let new = week(|minute| peak(minute, 0) || peak(minute, 3)).await;
    let found: Vec<_> = new.findings.iter().map(|one| (name(one), one.onset)).collect();
    assert_eq!(found, [("shop/visits".to_owned(), ago(44))]);
    // As it was then is not twice as much.
    let mut data = Data::new(8);
    let visits = |minute| match minute {
        _ if peak(minute, 0) => 1500.0,
        _ if peak(minute, 1) => 600.0,
        _ => 60.0,
    };
    data.counter("shop", "visits", 2 * DAY, visits);
    assert_eq!(summary(&data.bed().await).await.findings.len(), 1);
}

#[tokio::test]
async fn a_slow_trend_is_found_and_a_wavering_level_is_none() {
    let mut data = Data::new(3);
    data.rolling("disk", "used_bytes", (HOURS_5, 4), |minute, noise| {
        4e9 + 5e6 * (HOURS_5 - minute) as f64 + 2e7 * noise.normal()
    });
    data.rolling("disk", "waves", (HOURS_5, 4), |minute, noise| {
        100.0 + 20.0 * (minute as f64 / 20.0).sin() + noise.normal()
    });
    let summary = summary(&data.bed().await).await;
    let found: Vec<_> = summary.findings.iter().map(|one| (name(one), one.direction)).collect();
    assert_eq!(found, [("disk/used_bytes".to_owned(), Direction::Rising)]);
    let finding = &summary.findings[0];
    assert!((5.4e9..5.6e9).contains(&finding.now), "{finding:?}");
    assert!(finding.why.contains("Theil-Sen"), "{}", finding.why);
}

#[tokio::test]
async fn stopped_traffic_is_told_from_a_sender_that_is_gone_and_by_labels_if_others_go_on() {
    let mut data = Data::new(4);
    data.counter("shop", "orders", HOURS_5, |_| 50.0);
    data.given.retain(|given| given.time < ago(20));
    data.rolling("shop", "memory", (HOURS_5, 4), |_, noise| 5e8 + 1e6 * noise.normal());
    data.counter("batch", "runs", HOURS_5, |_| 8.0);
    for host in ["h1", "h2", "h3"] {
        let before = data.given.len();
        data.rolling("web", "load", (HOURS_5, 4), |_, noise| 1.0 + 0.1 * noise.normal());
        let until = if host == "h2" { ago(15) } else { NOW };
        let own = data.given.split_off(before).into_iter().filter(|given| given.time < until);
        data.given.extend(own.map(|given| given.labelled("host", host)));
    }
    let summary = summary(&data.bed().await).await;
    let silent = summary.silent.iter().map(|one| {
        let metric = one.metric.as_deref().unwrap_or_default();
        (&*one.component, metric, one.labels.get("host"), one.silence)
    });
    let expected = [
        ("shop", "orders", None, Silence::TrafficStopped),
        ("web", "load", Some("h2"), Silence::TrafficStopped),
    ];
    assert_eq!(silent.collect::<Vec<_>>(), expected);
    assert!(summary.findings.iter().all(|one| name(one) != "shop/orders"), "it is told once");
}

#[tokio::test]
async fn without_data_or_baseline_nothing_is_called_healthy_in_silence() {
    let bed = Bed::new(Kept::InMemory, NOW).await;
    let nothing = summary(&bed).await;
    assert_eq!(nothing.health, Health::NoData);
    assert!(!nothing.coverage.empty_because.is_empty());
    let mut data = Data::new(5);
    data.counter("young", "requests", 50, |minute| if minute < 10 { 900.0 } else { 30.0 });
    let young = summary(&data.bed().await).await;
    assert_eq!((young.unjudged, young.metrics, young.findings.len()), (1, 1, 0));
    assert!(young.new.is_empty(), "when all is new, nothing is news");
    let old = Summarise {
        span: Span {
            start: Some(When::Typed("now-2h".into())),
            end: Some(When::Typed("now-1h".into())),
        },
        ..Summarise::default()
    };
    let summary = data.bed().await.engine.summarise(old).await.unwrap();
    assert_eq!(summary.health, Health::NoData);
}

#[tokio::test]
async fn what_is_left_out_is_counted_and_thresholds_are_the_callers() {
    let bed = incident(1).bed().await;
    let few = Summarise {
        max_findings: Some(1),
        max_components: Some(3),
        max_metrics: Some(1),
        ..Summarise::default()
    };
    let few = bed.engine.summarise(few).await.unwrap();
    assert_eq!((few.findings.len(), few.omitted.findings), (1, 1));
    assert_eq!((few.components.len(), few.omitted.components), (3, 12));
    assert_eq!((few.components[0].metrics.len(), few.components[0].more_metrics), (1, 2));
    assert!(!few.coverage.advice.is_empty());
    let deaf = Thresholds { deviations: 90.0, min_change: 90.0, ..Thresholds::default() };
    let deaf = bed.engine.summarise(Summarise { thresholds: deaf, ..Summarise::default() }).await;
    assert!(deaf.unwrap().findings.is_empty());
    let wrong = Thresholds { in_a_row: 0, ..Thresholds::default() };
    let wrong = bed.engine.summarise(Summarise { thresholds: wrong, ..Summarise::default() }).await;
    assert!(matches!(wrong, Err(Error::Invalid { field: "thresholds.in_a_row", .. })));
}
