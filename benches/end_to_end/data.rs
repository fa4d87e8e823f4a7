//! The data sets: the same from the same seed, on every machine.
//!
//! Half of the series are Poisson counters with rates from 0.1 to 10,000 a sample, log-uniformly; the
//! other half are gauges, in turn random walks of two decimals, constants, and lognormal latencies.

use healthd::serve::proto::v1::{self, Kind};

/// Series of a component.
const METRICS: u32 = 100;

/// Series sampled together at even times.
pub(super) struct Data {
    pub(super) series: Vec<v1::Series>,
    walks: Vec<Walk>,
    random: Random,
}

enum Walk {
    Counter { rate: f64 },
    Gauge { hundredths: f64 },
    Constant { value: f64 },
    Latency { scale: f64 },
}

impl Data {
    /// So many series, in components of 100 metrics, half of them counters.
    pub(super) fn new(count: u32) -> Self {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let walk = |n: u32| match n {
            n if is_counter(n) => Walk::Counter { rate: 0.1 * 10f64.powf(5.0 * random.uniform()) },
            n if n % 3 == 0 => Walk::Gauge { hundredths: (1e4 * random.uniform()).round() },
            n if n % 3 == 1 => Walk::Constant { value: (1e3 * random.uniform()).round() },
            _ => Walk::Latency { scale: random.normal().exp() },
        };
        let walks = (0..count).map(walk).collect();
        Self { series: (0..count).map(declare).collect(), walks, random }
    }

    /// The next sample of each series, all at this time.
    pub(super) fn next(&mut self, time_ms: i64) -> v1::Packed {
        let mut packed = v1::Packed { times_ms: vec![time_ms], ..v1::Packed::default() };
        for (reference, walk) in (0..).zip(&mut self.walks) {
            if let Walk::Counter { rate } = walk {
                packed.refs.push(reference);
                packed.increments.push(self.random.poisson(*rate));
            }
        }
        for (reference, walk) in (0..).zip(&mut self.walks) {
            let value = match walk {
                Walk::Counter { .. } => continue,
                Walk::Gauge { hundredths } => {
                    *hundredths += (30.0 * self.random.normal()).round();
                    *hundredths / 100.0
                }
                Walk::Constant { value } => *value,
                Walk::Latency { scale } => {
                    (1e3 * *scale * (0.5 * self.random.normal()).exp()).round() / 1e3
                }
            };
            packed.refs.push(reference);
            packed.observations.push(value);
        }
        packed
    }
}

pub(super) fn is_counter(n: u32) -> bool {
    n.is_multiple_of(2)
}

pub(super) fn component(n: u32) -> String {
    format!("component_{:04}", n / METRICS)
}

fn declare(n: u32) -> v1::Series {
    v1::Series {
        r#ref: n,
        component: component(n),
        name: format!("metric_{:02}", n % METRICS),
        kind: if is_counter(n) { Kind::Counter } else { Kind::Rolling }.into(),
        ..v1::Series::default()
    }
}

/// xorshift64*: <https://www.jstatsoft.org/article/view/v008i14>.
pub(super) struct Random(pub(super) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// From 0 to below 1.
    pub(super) fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Mean 0, deviation 1, by Box and Muller.
    pub(super) fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// By multiplication for small means, as a rounded normal for large ones.
    fn poisson(&mut self, mean: f64) -> f64 {
        if mean >= 30.0 {
            return (mean + mean.sqrt() * self.normal()).round().max(0.0);
        }
        let (least, mut product, mut count) = ((-mean).exp(), self.uniform(), 0.0);
        while product > least {
            product *= self.uniform();
            count += 1.0;
        }
        count
    }
}
