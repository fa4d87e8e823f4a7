//! A row for each component: the figures of its metrics over the range; and what moved most.

use super::super::Error;
use super::super::analysis::{Difference, Statistic, Traced, Traces};
use super::judge::Judged;
use super::{Finding, MOVERS, Silent};
use model::{Fold, Kind};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// How many usual deviations a mover has moved at least.
pub(super) const MIN_EFFECT: f64 = 1.0;

/// A component over the range.
#[derive(Clone, Debug)]
pub struct ComponentRow {
    /// Its name.
    pub component: Arc<str>,
    /// How many findings there are of it.
    pub findings: u64,
    /// Whether it, or something of it, went silent.
    pub is_silent: bool,
    /// Its metrics, those with findings first.
    pub metrics: Vec<MetricRow>,
    /// How many of its metrics are not among them.
    pub more_metrics: u64,
}

impl ComponentRow {
    /// Bytes that it takes in an answer, near enough.
    pub(super) fn bytes(&self) -> usize {
        const FIGURES: usize = 60;
        const METRIC: usize = 200;
        let metrics = self.metrics.iter().map(|one| METRIC + one.name.len() + one.unit.len());
        FIGURES + self.component.len() + metrics.sum::<usize>()
    }
}

/// A metric over the range.
#[derive(Clone, Debug)]
pub struct MetricRow {
    /// Its name.
    pub name: Arc<str>,
    /// Its unit.
    pub unit: String,
    /// How many series it has.
    pub series: u64,
    /// Its figures.
    pub numbers: Numbers,
}

/// The figures of a metric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Numbers {
    /// Of a counter.
    Counter {
        /// How much it grew.
        total: f64,
        /// The same per second.
        rate: f64,
    },
    /// Of a rolling metric.
    Rolling {
        /// How many observations.
        count: u64,
        /// The smallest.
        min: f64,
        /// The mean.
        avg: f64,
        /// The largest.
        max: f64,
        /// The last.
        last: f64,
        /// The median, the 95th and the 99th percentile; none where they are not known.
        quantiles: Option<[f64; 3]>,
    },
}

impl Traces {
    /// The rows of so many components, and how many there are more.
    pub(super) async fn rows(
        &self,
        findings: &[Finding],
        silent: &[Silent],
        (max_components, max_metrics): (usize, usize),
    ) -> Result<(Vec<ComponentRow>, u64), Error> {
        let mut by_component: BTreeMap<&Arc<str>, Vec<&Traced>> = BTreeMap::new();
        for traced in self.groups.iter().filter(|traced| traced.whole.count > 0.0) {
            let Some(component) = &traced.members.key.component else { continue };
            by_component.entry(component).or_default().push(traced);
        }
        // The place of the first finding says how important the component, or the metric, is.
        let mut places: HashMap<(&Arc<str>, Option<&Arc<str>>), usize> = HashMap::new();
        for (place, finding) in findings.iter().enumerate() {
            let Some(component) = &finding.key.component else { continue };
            places.entry((component, None)).or_insert(place);
            places.entry((component, finding.key.metric.as_ref())).or_insert(place);
        }
        let quiet = |component: &Arc<str>| silent.iter().any(|one| one.component == *component);
        let mut components: Vec<(&Arc<str>, Vec<&Traced>)> = by_component.into_iter().collect();
        components.sort_by_key(|(component, metrics)| {
            let place = places.get(&(component, None)).copied().unwrap_or(usize::MAX);
            (place, !quiet(component), std::cmp::Reverse(metrics.len()))
        });
        let omitted = components.len().saturating_sub(max_components) as u64;
        components.truncate(max_components);
        let mut rows = Vec::with_capacity(components.len());
        let mut shown: Vec<&Traced> = Vec::new();
        for (component, mut metrics) in components {
            let key = |traced: &&Traced| traced.members.key.metric.clone();
            metrics.sort_by_key(|traced| {
                let metric = key(traced);
                let place = places.get(&(component, metric.as_ref())).copied();
                (place.unwrap_or(usize::MAX), metric)
            });
            let more_metrics = metrics.len().saturating_sub(max_metrics) as u64;
            metrics.truncate(max_metrics);
            let of_it = |finding: &&Finding| finding.key.component.as_ref() == Some(component);
            rows.push(ComponentRow {
                component: component.clone(),
                findings: findings.iter().filter(of_it).count() as u64,
                is_silent: quiet(component),
                metrics: Vec::with_capacity(metrics.len()),
                more_metrics,
            });
            shown.extend(metrics);
        }
        // All of them in one read.
        let mut figures = self.metrics(&shown).await?.into_iter().zip(&shown).peekable();
        for row in &mut rows {
            let of_it = |(_, traced): &(_, &&Traced)| {
                traced.members.key.component.as_ref() == Some(&row.component)
            };
            while let Some((metric, _)) = figures.next_if(of_it) {
                row.metrics.extend(metric);
            }
        }
        Ok((rows, omitted))
    }

    /// The rows of metrics; none of one of which nothing is left by now.
    async fn metrics(&self, metrics: &[&Traced]) -> Result<Vec<Option<MetricRow>>, Error> {
        let range = self.steps.windows.range;
        let rolling = metrics.iter().filter(|traced| traced.trace.kind == Kind::Rolling);
        let rolling: Vec<_> = rolling.map(|traced| &traced.members).collect();
        let mut sketched = self.whole(&rolling, range).await?.into_iter();
        let seconds = range.end.min(self.steps.windows.now).since(range.start).as_secs_f64();
        let mut rows = Vec::with_capacity(metrics.len());
        for traced in metrics {
            let numbers = match traced.trace.kind {
                Kind::Counter => {
                    let rate = if seconds > 0.0 { traced.whole.sum / seconds } else { 0.0 };
                    Some(Numbers::Counter { total: traced.whole.sum, rate })
                }
                Kind::Rolling => sketched.next().flatten().as_ref().and_then(figures),
            };
            rows.push(numbers.map(|numbers| MetricRow {
                name: traced.members.key.metric.clone().unwrap_or_default(),
                unit: traced.members.unit().to_owned(),
                series: traced.members.series.len() as u64,
                numbers,
            }));
        }
        Ok(rows)
    }

    /// What rose and what fell most, of that which is not told of already.
    pub(super) fn movers(
        &self,
        judged: &[Judged],
        findings: &[Finding],
        silent: &[Silent],
    ) -> (Vec<Difference>, Vec<Difference>) {
        let is_told = |traced: &Traced| {
            let key = &traced.members.key;
            findings.iter().any(|finding| finding.key == *key)
                || silent.iter().any(|one| {
                    Some(&one.component) == key.component.as_ref()
                        && one
                            .metric
                            .as_ref()
                            .is_none_or(|metric| Some(metric) == key.metric.as_ref())
                })
        };
        let has_both = |traced: &&Traced| traced.before.count > 0.0 && traced.whole.count > 0.0;
        let mut moved: Vec<(f64, &Traced)> = judged
            .iter()
            .zip(&self.groups)
            .filter(|(_, traced)| has_both(traced))
            .filter_map(|(judged, traced)| Some((judged.effect?, traced)))
            .collect();
        let mut most = |sign: f64| {
            moved.sort_by(|a, b| (b.0 * sign).total_cmp(&(a.0 * sign)));
            let of_sign = moved.iter().filter(|one| one.0 * sign > 0.0 && !is_told(one.1));
            let told = of_sign.take(MOVERS).map(|(_, traced)| {
                let statistic = match traced.trace.kind {
                    Kind::Counter => Statistic::Rate,
                    Kind::Rolling => Statistic::Avg,
                };
                self.difference(traced, statistic)
            });
            told.collect()
        };
        (most(1.0), most(-1.0))
    }
}

fn figures(fold: &Fold) -> Option<Numbers> {
    let Fold::Rolling(fold) = fold else { return None };
    let quantiles = [fold.quantile(0.5), fold.quantile(0.95), fold.quantile(0.99)];
    Some(Numbers::Rolling {
        count: fold.count(),
        min: fold.min(),
        avg: fold.mean(),
        max: fold.max(),
        last: fold.last(),
        quantiles: match quantiles {
            [Some(p50), Some(p95), Some(p99)] => Some([p50, p95, p99]),
            _ => None,
        },
    })
}
