//! Comparing what is with what was: traces of groups over two windows of time, and what stands out.
//!
//! A judgement is made from complete steps alone, and a number that was not measured is not made up.

mod compare;
mod detect;
mod robust;
mod trace;

pub use compare::{Compare, Comparison, Difference};
pub(in crate::engine) use compare::{MAX_GROUPS, STEPS};
pub use detect::{Band, Thresholds};
pub(in crate::engine) use detect::{Run, Values, Verdict};
pub(in crate::engine) use robust::trend;
pub use trace::Statistic;

use super::groups::Members;
use super::reading::{Bounds, Coverage, Reading};
use super::round::round_step;
use super::{Engine, Error};
use crate::storage::{Cell, Gap, Parts};
use model::{Fold, Range, SeriesId, Timestamp, Width};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;
use tokio::task::JoinSet;
use trace::Trace;

/// About how many steps of groups are read at a time: some tens of megabytes.
const PART_STEPS: usize = 100_000;
/// The most steps of both windows, by how many groups there are; and of all groups together, some hundred
/// megabytes.
const MAX_STEPS: (usize, usize) = (400, 1000);
const MAX_CELLS: usize = 8_000_000;
/// Of those with sketches so many fewer.
const SKETCH_STEPS: usize = 20_000;

/// The two windows that are compared.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine) struct Windows {
    /// What was.
    pub(in crate::engine) baseline: Range,
    /// What is.
    pub(in crate::engine) range: Range,
    /// When it is asked.
    pub(in crate::engine) now: Timestamp,
}

impl Windows {
    pub(in crate::engine) fn is_adjacent(&self) -> bool {
        self.baseline.end == self.range.start
    }

    /// What is to be read: both at once, if they touch.
    fn spans(&self) -> Vec<Range> {
        if self.is_adjacent() {
            vec![Range::new(self.baseline.start, self.range.end)]
        } else {
            vec![self.baseline, self.range]
        }
    }

    /// A step that is at least this one, and with which both windows have few enough steps for so many groups.
    fn fitted(&self, step: Width, groups: usize) -> Result<Width, Error> {
        let most = (MAX_CELLS / groups.max(1)).clamp(MAX_STEPS.0, MAX_STEPS.1) as u64;
        let count = |step: Width| {
            step.buckets_in(self.baseline).saturating_add(step.buckets_in(self.range))
        };
        if count(step) <= most {
            return Ok(step);
        }
        let both =
            self.baseline.end.since(self.baseline.start) + self.range.end.since(self.range.start);
        let both = Range::new(Timestamp::default(), Timestamp::default().after(both));
        // An edge of each may cut a step.
        let wider = round_step(both, step, most - 4);
        let least = |step: &Width| step.buckets_in(self.range) >= compare::MIN_STEPS as u64;
        wider.filter(least).ok_or_else(|| {
            let message = "it is too long beside the range to be cut into the same steps; choose a shorter one, \
                           or a longer range";
            Error::Invalid { field: "baseline", message: message.to_owned() }
        })
    }

    /// The same with windows that begin where a step does.
    fn aligned(self, step: Width) -> Self {
        let start = step.truncate(self.range.start);
        let mut baseline = self.baseline;
        baseline.start = step.truncate(baseline.start);
        baseline.end = if self.is_adjacent() { start } else { step.truncate(baseline.end) };
        Self { baseline, range: Range::new(start, self.range.end), now: self.now }
    }

    /// The steps of both that are over: those of the baseline first.
    fn steps(&self, step: Width) -> Steps {
        let count = |window: Range| {
            let end = step.truncate(window.end.min(self.now));
            if end <= window.start {
                0
            } else {
                step.buckets_in(Range::new(window.start, end)) as usize
            }
        };
        Steps { windows: *self, step, baseline: count(self.baseline), range: count(self.range) }
    }
}

/// The complete steps of two windows, numbered through.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine) struct Steps {
    pub(in crate::engine) windows: Windows,
    pub(in crate::engine) step: Width,
    /// How many are the baseline's.
    pub(in crate::engine) baseline: usize,
    /// How many are the range's.
    pub(in crate::engine) range: usize,
}

impl Steps {
    pub(in crate::engine) fn count(&self) -> usize {
        self.baseline + self.range
    }

    /// The number of the step that starts then; none if it is not complete.
    fn number(&self, time: Timestamp) -> Option<usize> {
        let of = |window: Range, count| {
            let steps = (time.as_ms() - window.start.as_ms()).div_euclid(self.step.as_ms());
            usize::try_from(steps).ok().filter(|number| *number < count)
        };
        let range = of(self.windows.range, self.range).map(|number| self.baseline + number);
        range.or_else(|| of(self.windows.baseline, self.baseline))
    }

    /// The first step in which a group could have been: before its first sample it is not known.
    fn known_since(&self, engine: &Engine, members: &Members) -> usize {
        let first = members.series.iter().map(|one| engine.state.current(one.place).first_time);
        let first = first.min().unwrap_or(Timestamp::MAX);
        let in_window = |window: Range, count: usize| {
            let first = self.step.round_up(first.max(window.start));
            let before = first.as_ms().saturating_sub(window.start.as_ms()) / self.step.as_ms();
            usize::try_from(before).ok().filter(|before| *before < count)
        };
        let baseline = in_window(self.windows.baseline, self.baseline);
        let range = || in_window(self.windows.range, self.range).map(|step| self.baseline + step);
        baseline.or_else(range).unwrap_or(self.count())
    }

    /// When a step starts.
    pub(in crate::engine) fn start(&self, number: usize) -> Timestamp {
        let (window, number) = match number.checked_sub(self.baseline) {
            Some(number) => (self.windows.range, number),
            None => (self.windows.baseline, number),
        };
        Timestamp::from_ms(window.start.as_ms() + number as i64 * self.step.as_ms())
    }

    pub(in crate::engine) fn seconds(&self) -> f64 {
        self.step.as_ms() as f64 / 1000.0
    }
}

/// A group and what it did in both windows.
#[derive(Debug)]
pub(in crate::engine) struct Traced {
    pub(in crate::engine) members: Members,
    pub(in crate::engine) trace: Trace,
    /// All of the range, also what is not in a complete step.
    pub(in crate::engine) whole: Cell,
    /// All of the baseline.
    pub(in crate::engine) before: Cell,
}

/// Groups and what they did.
pub(in crate::engine) struct Traces {
    pub(in crate::engine) steps: Steps,
    pub(in crate::engine) groups: Vec<Traced>,
    /// In which steps a component sent anything.
    pub(in crate::engine) alive: HashMap<Option<Arc<str>>, Vec<bool>>,
    pub(in crate::engine) coverage: Coverage,
    ids: (SeriesId, SeriesId),
    engine: Arc<Engine>,
    deadline: Instant,
}

impl Traces {
    /// Reads what groups did in two windows, of which the range is cut into at most so many steps.
    pub(in crate::engine) async fn read(
        engine: &Arc<Engine>,
        groups: Vec<Members>,
        windows: Windows,
        max_points: u64,
        deadline: Instant,
    ) -> Result<Self, Error> {
        let bounds = Bounds { step: None, max_points };
        let own =
            Reading::new(engine.clone(), (windows.range, windows.now), bounds, deadline)?.step;
        let mut step = windows.fitted(own, groups.len())?;
        loop {
            let windows = windows.aligned(step);
            let steps = windows.steps(step);
            match Self::fill(engine, &groups, steps, deadline).await? {
                Ok(traces) => return Ok(traces),
                // Wider buckets are stored than the steps can be made of.
                Err(wider) => step = wider,
            }
        }
    }

    /// Reads all; or says which step there must be instead.
    async fn fill(
        engine: &Arc<Engine>,
        groups: &[Members],
        steps: Steps,
        deadline: Instant,
    ) -> Result<Result<Self, Width>, Error> {
        let ids = groups.iter().flat_map(|members| members.series.iter().map(|one| one.series.id));
        let ids = ids.fold((SeriesId::from_u64(u64::MAX), SeriesId::from_u64(0)), |ids, id| {
            (ids.0.min(id), ids.1.max(id))
        });
        let whole = Whole { engine: engine.clone(), steps, ids, deadline };
        let (left, right) = groups.split_at(groups.len() / 2);
        let (left, right) =
            in_halves(whole.clone().trace(left.to_vec()), whole.trace(right.to_vec())).await;
        let ((mut groups, mut coverage), (mut others, covered)) = match (left?, right?) {
            (Ok(left), Ok(right)) => (left, right),
            (Err(wider), Ok(_)) | (Ok(_), Err(wider)) => return Ok(Err(wider)),
            (Err(one), Err(other)) => return Ok(Err(one.max(other))),
        };
        groups.append(&mut others);
        let news = covered.gaps.into_iter().filter(|gap| !coverage.gaps.contains(gap));
        let news: Vec<Gap> = news.collect();
        coverage.gaps.extend(news);
        let mut alive: HashMap<Option<Arc<str>>, Vec<bool>> = HashMap::new();
        for traced in &groups {
            let component = traced.members.key.component.clone();
            let alive = alive.entry(component).or_insert_with(|| vec![false; steps.count()]);
            for (alive, count) in alive.iter_mut().zip(&traced.trace.counts) {
                *alive |= *count > 0.0;
            }
        }
        let range = steps.windows.range;
        coverage.gaps.retain(|gap| gap.range.intersection(&range).is_some());
        coverage.range = range;
        let mut in_range = steps.baseline..steps.count();
        coverage.buckets_expected = steps.range as u64;
        let is_present = |step: &usize| alive.values().any(|alive| alive[*step]);
        coverage.buckets_present = in_range.by_ref().filter(is_present).count() as u64;
        let engine = engine.clone();
        Ok(Ok(Self { steps, groups, alive, coverage, ids, engine, deadline }))
    }

    /// Reads percentiles of those groups that have enough observations for them.
    pub(in crate::engine) async fn fill_p99(&mut self) -> Result<(), Error> {
        let deserving = self.groups.iter_mut().filter(|one| one.trace.deserves_p99());
        let mut deserving: Vec<&mut Traced> = deserving.collect();
        let size = (SKETCH_STEPS / self.steps.count().max(1)).max(1);
        let now = self.steps.windows.now;
        for span in self.steps.windows.spans() {
            let bounds = Bounds::fixed(self.steps.step);
            let mut reading =
                Reading::new(self.engine.clone(), (span, now), bounds, self.deadline)?;
            for part in deserving.chunks_mut(size) {
                let members = part.iter().map(|one| &one.members);
                let read = reading.groups(members, self.ids, Parts::All).await?;
                if reading.step != self.steps.step {
                    return Err(Error::Changed);
                }
                for (traced, folds) in part.iter_mut().zip(read) {
                    for (time, fold) in &folds {
                        if let Some(step) = self.steps.number(*time) {
                            traced.trace.set_p99(step, fold);
                        }
                    }
                }
            }
            let error = reading.coverage().sketch_relative_error;
            self.coverage.sketch_relative_error = self.coverage.sketch_relative_error.max(error);
        }
        Ok(())
    }

    /// Reads what some groups did in another window, step by step as here, and gives it to `each` with the
    /// group's place; so little of it is in memory at once. Says whether that could be done: what is stored
    /// in wider steps only cannot be set beside these.
    pub(in crate::engine) async fn elsewhere(
        &self,
        groups: &[&Members],
        range: Range,
        parts: Parts,
        mut each: impl FnMut(usize, &[(Timestamp, Fold)]),
    ) -> Result<bool, Error> {
        let now = self.steps.windows.now;
        let bounds = Bounds::fixed(self.steps.step);
        let mut reading = Reading::new(self.engine.clone(), (range, now), bounds, self.deadline)?;
        let most = if parts == Parts::All { SKETCH_STEPS } else { PART_STEPS };
        let size = (most / reading.steps().max(1)).max(1);
        let mut place = 0;
        for part in groups.chunks(size) {
            let read = reading.groups(part.iter().copied(), self.ids, parts).await?;
            if reading.step != self.steps.step {
                return Ok(false);
            }
            for folds in read {
                each(place, &folds);
                place += 1;
            }
        }
        Ok(true)
    }

    /// In which steps the component of a group sent anything.
    pub(in crate::engine) fn alive(&self, traced: &Traced) -> &[bool] {
        &self.alive[&traced.members.key.component]
    }

    /// A statistic of a group, in steps.
    pub(in crate::engine) fn values(&self, traced: &Traced, statistic: Statistic) -> Values {
        let baseline = (self.steps.baseline, self.steps.windows.is_adjacent());
        traced.trace.values(statistic, self.alive(traced), baseline, self.steps.seconds())
    }
}

/// Does both at once, one of them as a task: so each has a core of its own, if there are two.
pub(in crate::engine) async fn in_halves<T: Send + 'static>(
    left: impl Future<Output = T> + Send + 'static,
    right: impl Future<Output = T>,
) -> (T, T) {
    let mut task = JoinSet::new();
    task.spawn(left);
    let right = right.await;
    let left = task.join_next().await.expect("there is a task");
    (left.expect("what it does does not panic"), right)
}

/// What is read, and how.
#[derive(Clone)]
struct Whole {
    engine: Arc<Engine>,
    steps: Steps,
    ids: (SeriesId, SeriesId),
    deadline: Instant,
}

/// To which step, and to which of the windows, something belongs.
struct Place {
    step: Option<usize>,
    window: Option<Window>,
}

#[derive(Clone, Copy)]
enum Window {
    Baseline,
    Range,
}

impl Whole {
    /// Reads the traces of groups; or says which step there must be instead.
    async fn trace(
        self,
        groups: Vec<Members>,
    ) -> Result<Result<(Vec<Traced>, Coverage), Width>, Error> {
        let Self { engine, steps, ids, deadline } = self;
        let traced = |members: Members| Traced {
            trace: Trace::new(
                members.key.kind,
                steps.count(),
                steps.known_since(&engine, &members),
            ),
            members,
            whole: Cell::default(),
            before: Cell::default(),
        };
        let mut groups: Vec<Traced> = groups.into_iter().map(traced).collect();
        let (mut covered, mut gaps) = (None, Vec::new());
        for span in steps.windows.spans() {
            let (now, bounds) = (steps.windows.now, Bounds::fixed(steps.step));
            let mut reading = Reading::new(engine.clone(), (span, now), bounds, deadline)?;
            let size = (PART_STEPS / steps.count().max(1)).max(1);
            for part in groups.chunks_mut(size) {
                let sums = reading.sums(part.iter().map(|one| &one.members), ids).await?;
                if reading.step != steps.step {
                    return Ok(Err(reading.step));
                }
                let places = steps.places(sums.first(), reading.steps());
                for (traced, cells) in part.iter_mut().zip(sums.groups()) {
                    traced.take_in(&places, cells);
                }
            }
            let mut coverage = reading.coverage();
            gaps.append(&mut coverage.gaps);
            covered = Some(coverage);
        }
        let mut coverage = covered.expect("there is a range to read");
        coverage.gaps = gaps;
        Ok(Ok((groups, coverage)))
    }
}

impl Steps {
    /// Where so many steps from this one on belong.
    fn places(&self, first: Timestamp, count: usize) -> Vec<Place> {
        let place = |n: usize| {
            let start = Timestamp::from_ms(first.as_ms() + n as i64 * self.step.as_ms());
            let window = if self.windows.range.contains(start) {
                Some(Window::Range)
            } else {
                self.windows.baseline.contains(start).then_some(Window::Baseline)
            };
            Place { step: self.number(start), window }
        };
        (0..count).map(place).collect()
    }
}

impl Traced {
    fn take_in(&mut self, places: &[Place], cells: &[Cell]) {
        for (place, cell) in places.iter().zip(cells).filter(|(_, cell)| cell.count > 0.0) {
            if let Some(step) = place.step {
                self.trace.set(step, *cell);
            }
            let whole = match place.window {
                Some(Window::Range) => &mut self.whole,
                Some(Window::Baseline) => &mut self.before,
                None => continue,
            };
            whole.sum += cell.sum;
            whole.count += cell.count;
        }
    }
}
