//! What is out of the usual: a band from the baseline, and runs of steps outside of it.
//!
//! Only complete steps count, and only those in which something was measured. One step proves
//! nothing: at least two in a row are an anomaly.

use super::robust::{Knowing, Usual};

/// When something is out of the usual.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thresholds {
    /// How many deviations from the baseline's median are still usual.
    pub deviations: f64,
    /// Which share of the median is at least usual.
    pub min_change: f64,
    /// How many steps of the baseline must have data.
    pub min_buckets: usize,
    /// How many events a counter of whole numbers must have had, for more or fewer to mean anything.
    pub min_events: f64,
    /// How many steps in a row must be outside.
    pub in_a_row: usize,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { deviations: 5.0, min_change: 0.2, min_buckets: 12, min_events: 20.0, in_a_row: 2 }
    }
}

/// Deviations from the centre to the edge of a band, as they are told.
const TO_EDGE: f64 = 5.0;
/// How many times as far as the edge is clearly out.
const CLEARLY: f64 = 1.4;

/// A statistic of a group, step by step: the baseline's steps, then those of the range.
#[derive(Clone, Debug)]
pub(in crate::engine) struct Values {
    /// None where nothing was measured.
    pub(in crate::engine) steps: Vec<Option<f64>>,
    /// How many of them are the baseline's.
    pub(in crate::engine) baseline: usize,
    /// Whether the range begins where the baseline ends.
    pub(in crate::engine) is_adjacent: bool,
    /// Of a counter of whole numbers: how much one event adds to a step's value.
    pub(in crate::engine) event: Option<f64>,
}

/// What is usual.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Band {
    /// The least that is.
    pub low: f64,
    /// The most that is.
    pub high: f64,
    /// The baseline's median.
    pub centre: f64,
    /// How many steps of the baseline it rests on.
    pub buckets: usize,
}

/// A stretch out of the usual.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::engine) struct Run {
    /// Its first step, perhaps of the baseline, and the first after it.
    pub(in crate::engine) first: usize,
    pub(in crate::engine) end: usize,
    /// How many of its steps are in the range, and have data.
    pub(in crate::engine) buckets: usize,
    /// Whether it is above the band.
    pub(in crate::engine) is_above: bool,
    /// The value that is farthest out, and where.
    pub(in crate::engine) peak: (f64, usize),
    /// The median of its values.
    pub(in crate::engine) level: f64,
    /// How many deviations from the centre that is.
    pub(in crate::engine) deviations: f64,
}

/// What was found out about a statistic.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::engine) enum Verdict {
    /// There is too little to compare with.
    NoBaseline,
    Usual,
    Unusual(Band, Run),
}

impl Values {
    /// The band that is usual where the baseline is like that.
    fn band(&self, usual: &Usual, thresholds: &Thresholds) -> Band {
        let (mut below, mut above) =
            (usual.below * thresholds.deviations, usual.above * thresholds.deviations);
        if let Some(event) = self.event {
            // How many events come when so many are usual (Poisson), and a few where none are.
            const A_FEW: f64 = 3.0;
            let chance = thresholds.deviations * (usual.mean / event).sqrt();
            below = below.max(chance * event);
            above = above.max((chance + A_FEW) * event);
        }
        let least = thresholds.min_change * usual.centre.abs();
        let low = usual.centre - below.max(least);
        let was_negative =
            || self.steps[..self.baseline].iter().flatten().any(|value| *value < 0.0);
        Band {
            // What never was below 0 is not expected there.
            low: if low < 0.0 && !was_negative() { 0.0 } else { low },
            high: usual.centre + above.max(least),
            centre: usual.centre,
            buckets: usual.count,
        }
    }

    /// Looks for the stretch of the range that is farthest out of the usual.
    pub(in crate::engine) fn judge(&self, thresholds: &Thresholds) -> Verdict {
        let baseline: Vec<f64> = self.steps[..self.baseline].iter().flatten().copied().collect();
        if baseline.len() < thresholds.min_buckets {
            return Verdict::NoBaseline;
        }
        // The better the usual is known the wider it is; most is within what is usual at least.
        let mut band = None;
        for usual in Knowing::of(baseline) {
            let known = self.band(&usual, thresholds);
            if !self.has_run(&known, thresholds.in_a_row) {
                return Verdict::Usual;
            }
            band = Some(known);
        }
        let Some(band) = band else { return Verdict::NoBaseline };
        let runs = self.runs(&band, thresholds.in_a_row).into_iter().filter(|run| {
            // The fewest steps that there may be must be clearly out, or long tails would pass for it.
            let least = if run.buckets == thresholds.in_a_row { CLEARLY } else { 1.0 };
            run.deviations.abs() >= least * TO_EDGE
        });
        let weight = |run: &Run| run.deviations.abs().min(100.0) * run.buckets as f64;
        let worst = runs.max_by(|a, b| weight(a).total_cmp(&weight(b)));
        match worst {
            Some(run) if self.has_support(&run, thresholds) => {
                Verdict::Unusual(band, self.extended(run, &band, thresholds))
            }
            _ => Verdict::Usual,
        }
    }

    /// Whether any stretch of the range is outside, on one side.
    fn has_run(&self, band: &Band, in_a_row: usize) -> bool {
        let mut sides = self.steps[self.baseline..].iter().flatten().map(|value| band.side(*value));
        let mut run = (None, 0);
        sides.any(|side| {
            run = if side == run.0 { (side, run.1 + 1) } else { (side, 1) };
            side.is_some() && run.1 >= in_a_row
        })
    }

    /// Whether enough events came, before or within, for their number to mean something.
    fn has_support(&self, run: &Run, thresholds: &Thresholds) -> bool {
        let Some(event) = self.event else { return true };
        let events = |steps: &[Option<f64>]| steps.iter().flatten().sum::<f64>() / event;
        let before = events(&self.steps[..self.baseline]);
        before.max(events(&self.steps[run.first..run.end])) >= thresholds.min_events
    }

    /// The stretches of the range that are outside, on one side each.
    fn runs(&self, band: &Band, in_a_row: usize) -> Vec<Run> {
        let mut runs = Vec::new();
        let mut open: Option<(bool, Vec<usize>)> = None;
        for at in self.baseline..=self.steps.len() {
            let value = match self.steps.get(at) {
                Some(None) => continue,
                Some(Some(value)) => Some(*value),
                None => None,
            };
            let side = value.and_then(|value| band.side(value));
            match (&mut open, side) {
                (Some((is_above, steps)), Some(side)) if *is_above == side => steps.push(at),
                _ => {
                    let ended = std::mem::replace(&mut open, side.map(|side| (side, vec![at])));
                    let long = ended.filter(|(_, steps)| steps.len() >= in_a_row);
                    runs.extend(long.map(|(is_above, steps)| self.run(band, is_above, &steps)));
                }
            }
        }
        runs
    }

    fn run(&self, band: &Band, is_above: bool, steps: &[usize]) -> Run {
        let value = |at: usize| self.steps[at].expect("steps of a run have data");
        let mut values: Vec<f64> = steps.iter().map(|at| value(*at)).collect();
        let out = |at: &&usize| (value(**at) - band.centre).abs();
        let peak = steps.iter().max_by(|a, b| out(a).total_cmp(&out(b)));
        let level = super::robust::median(&mut values).expect("a run has steps");
        Run {
            first: steps[0],
            end: steps[steps.len() - 1] + 1,
            buckets: steps.len(),
            is_above,
            peak: peak.map_or((level, steps[0]), |at| (value(*at), *at)),
            level,
            deviations: band.deviations(level),
        }
    }

    /// Begins the run where it really began, and ends it there too: at steps that are not outside yet, or
    /// any more, but nearer to it than to the usual; and before the range, if it began there.
    fn extended(&self, mut run: Run, band: &Band, thresholds: &Thresholds) -> Run {
        let half = f64::midpoint(band.centre, run.level);
        let belongs = |at: usize| {
            let value = self.steps[at];
            value.is_some_and(|value| if run.is_above { value > half } else { value < half })
        };
        let before = (self.baseline..run.first).rev().take_while(|at| belongs(*at));
        run.first = before.last().unwrap_or(run.first);
        let after = (run.end..self.steps.len()).take_while(|at| belongs(*at));
        run.end = after.last().map_or(run.end, |at| at + 1);
        if run.first != self.baseline || !self.is_adjacent {
            return run;
        }
        // So much of the baseline does not move its median; more is a baseline of its own.
        let most = self.baseline / 4;
        let before = (self.baseline - most..self.baseline).rev();
        let mut inside = 0;
        for at in before {
            match self.steps[at].map(|value| band.side(value)) {
                None => {}
                Some(Some(side)) if side == run.is_above => (run.first, inside) = (at, 0),
                Some(_) => inside += 1,
            }
            if inside >= thresholds.in_a_row {
                break;
            }
        }
        run
    }
}

impl Band {
    /// Where values usually lie: two deviations to either side.
    pub(in crate::engine) fn of_values(values: impl Iterator<Item = f64>) -> Option<Self> {
        let usual = Usual::of(values)?;
        Some(Self {
            low: usual.centre - 2.0 * usual.below,
            high: usual.centre + 2.0 * usual.above,
            centre: usual.centre,
            buckets: usual.count,
        })
    }

    /// On which side of it the value is: true for above. None within.
    pub(in crate::engine) fn side(&self, value: f64) -> Option<bool> {
        (value > self.high || value < self.low).then_some(value > self.high)
    }

    /// How many times as far as is usual a value is from the centre, in deviations of 5 to the band's edge.
    pub(in crate::engine) fn deviations(&self, value: f64) -> f64 {
        let edge =
            if value > self.centre { self.high - self.centre } else { self.centre - self.low };
        let distance = value - self.centre;
        // Where nothing ever changed, any change is as large as can be said.
        if edge > 0.0 {
            (TO_EDGE * distance / edge).clamp(-1e3, 1e3)
        } else {
            1e3 * distance.signum()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALM: Thresholds = Thresholds {
        deviations: 5.0,
        min_change: 0.2,
        min_buckets: 12,
        min_events: 20.0,
        in_a_row: 2,
    };

    fn values(baseline: &[f64], range: &[Option<f64>]) -> Values {
        let steps = baseline.iter().copied().map(Some).chain(range.iter().copied());
        Values { steps: steps.collect(), baseline: baseline.len(), is_adjacent: true, event: None }
    }

    fn wobbling(n: usize) -> Vec<f64> {
        (0..n).map(|n| 10.0 + [0.0, 0.3, -0.2, 0.1, -0.3][n % 5]).collect()
    }

    fn run_of(values: &Values) -> Option<(usize, usize, bool)> {
        match values.judge(&CALM) {
            Verdict::Unusual(_, run) => Some((run.first, run.end, run.is_above)),
            Verdict::Usual | Verdict::NoBaseline => None,
        }
    }

    #[test]
    fn two_steps_in_a_row_outside_are_an_anomaly_and_one_is_none() {
        let usual = Some(10.0);
        let one = values(&wobbling(20), &[usual, Some(30.0), usual, Some(30.0), usual]);
        assert_eq!(run_of(&one), None);
        let two = values(&wobbling(20), &[usual, Some(30.0), Some(31.0), usual]);
        assert_eq!(run_of(&two), Some((21, 23, true)));
        let with_a_gap = values(&wobbling(20), &[Some(30.0), None, Some(31.0), usual]);
        assert_eq!(run_of(&with_a_gap), Some((20, 23, true)));
        let down = values(&wobbling(20), &[usual, Some(3.0), Some(2.0)]);
        assert_eq!(run_of(&down), Some((21, 23, false)));
        let both = values(&wobbling(20), &[Some(30.0), Some(2.0), Some(30.0)]);
        assert_eq!(run_of(&both), None, "not on one side");
    }

    #[test]
    fn a_small_or_young_baseline_says_nothing() {
        assert_eq!(values(&wobbling(11), &[Some(99.0); 5]).judge(&CALM), Verdict::NoBaseline);
        let mut sparse = values(&wobbling(40), &[Some(99.0); 5]);
        sparse.steps[..30].fill(None);
        assert_eq!(sparse.judge(&CALM), Verdict::NoBaseline);
    }

    #[test]
    fn a_change_within_a_fifth_is_usual_however_steady_it_was() {
        assert_eq!(run_of(&values(&[10.0; 20], &[Some(11.9); 5])), None);
        assert_eq!(run_of(&values(&[10.0; 20], &[Some(12.1); 5])), Some((20, 25, true)));
        assert_eq!(run_of(&values(&[0.0; 20], &[Some(1.0); 5])), Some((20, 25, true)));
    }

    #[test]
    fn the_onset_may_lie_before_the_range() {
        let mut early = values(&wobbling(40), &[Some(30.0); 5]);
        for at in 35..40 {
            early.steps[at] = Some(29.0);
        }
        assert_eq!(run_of(&early), Some((35, 45, true)));
        early.is_adjacent = false;
        assert_eq!(run_of(&early), Some((40, 45, true)));
    }

    #[test]
    fn few_events_are_chance() {
        let counted = |baseline: &[f64], range: &[Option<f64>]| Values {
            event: Some(1.0),
            ..values(baseline, range)
        };
        let rare: Vec<f64> = (0..60).map(|n| f64::from(n % 20 == 0)).collect();
        assert_eq!(run_of(&counted(&rare, &[Some(2.0), Some(3.0), Some(2.0)])), None);
        assert_eq!(run_of(&counted(&[0.0; 60], &[Some(4.0), Some(5.0)])), None, "9 events");
        let many = counted(&[0.0; 60], &[Some(4.0), Some(5.0), Some(6.0), Some(7.0)]);
        assert_eq!(run_of(&many), Some((60, 64, true)));
        // As many as there are by chance when nine come on average.
        let nine: Vec<f64> = (0..60).map(|n| 9.0 + [0.0, 3.0, -3.0, 1.0][n % 4]).collect();
        assert_eq!(run_of(&counted(&nine, &[Some(20.0), Some(19.0), Some(22.0)])), None);
        assert!(run_of(&counted(&nine, &[Some(72.0), Some(70.0)])).is_some());
    }
}
