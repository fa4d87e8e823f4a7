//! A storage with a history: what benches of compaction and of reading start from.

use healthd::storage::sqlite::{self, Sqlite};
use healthd::storage::{Commit, Flush, Groups, More, Parts, Policy, Scan, Storage};
use model::{
    Counter, Folds, Kind, Labels, Metric, Range, Retention, Rolling, Row, Series, SeriesId,
    Timestamp, Width,
};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A day begins then.
pub(crate) const BEGIN: Timestamp = Timestamp::from_ms(20_454 * 86_400_000);
/// The width of fresh data's buckets.
const WIDTH: Width = Width::from_secs(1);

/// A storage that is filled as a service would.
pub(crate) struct Stored {
    pub(crate) storage: Arc<Sqlite>,
    /// Goes when this goes.
    _directory: TempDir,
    series: Vec<Arc<Series>>,
    retention: Retention,
    seq: u64,
    random: u64,
}

impl Stored {
    /// An empty one, for so many series: half of them counters.
    pub(crate) async fn new(series: u32, retention: &str) -> Self {
        // Beside the build: the usual directory for temporary files may be in memory.
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
        let config = sqlite::Config::at(&directory.path().join("health.db"));
        let storage = Sqlite::open(&config, BEGIN).await.expect("a new file opens");
        storage.recover().await.expect("an empty file is read");
        let retention = retention.parse().expect("a retention");
        let series = (0..series).map(series_of).collect();
        Self {
            storage: Arc::new(storage),
            _directory: directory,
            series,
            retention,
            seq: 0,
            random: 1,
        }
    }

    /// Flushes a sample of each series for each of these times.
    pub(crate) async fn flush(&mut self, times: impl Iterator<Item = Timestamp> + Clone) {
        let mut folds = Folds::default();
        for place in 0..self.series.len() {
            let series = self.series[place].id;
            for start in times.clone() {
                let number = self.number(place);
                match self.series[place].metric.kind {
                    Kind::Counter => {
                        let fold = Counter { sum: number };
                        folds.counters.push(Row { series, start, fold });
                    }
                    Kind::Rolling => {
                        let fold = Rolling::one(number / 100.0, start);
                        folds.rollings.push(Row { series, start, fold });
                    }
                }
            }
        }
        let new = if self.seq == 0 { self.series.clone() } else { Vec::new() };
        self.seq += 1;
        let now = times.last().unwrap_or(BEGIN);
        let (seq, folds) = (self.seq, Arc::new(folds));
        let flush = Flush {
            seq,
            now,
            lived: Duration::ZERO,
            width: WIDTH,
            series: new,
            folds,
            marks: Vec::new(),
            annotations: Vec::new(),
        };
        let commit = self.storage.commit(Arc::new(flush)).await;
        assert!(matches!(commit, Commit::Committed), "{commit:?}");
    }

    /// Numbers without a pattern that are small for some series and large for others.
    fn number(&mut self, place: usize) -> f64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random % (10u64 << (place % 10))) as f64
    }

    /// Does the housekeeping that there is at this time.
    pub(crate) async fn tidy(&self, now: Timestamp) {
        let policy = Arc::new(Policy::new(self.retention.clone(), now));
        while self.storage.maintain(now, &policy).await.expect("it is tidied up") == More::Yes {}
    }

    #[allow(dead_code, reason = "each bench has its own copy of this module")]
    /// Reads so many series from the first on; gives how many steps there are and how long it took.
    pub(crate) async fn read(&self, series: usize, range: Range, step: Width) -> (usize, Duration) {
        let ids = self.series[..series].iter().map(|series| series.id).collect();
        self.scan(ids, Groups::Apart, range, step).await
    }

    /// Reads how much all counters grew, by component.
    #[allow(dead_code, reason = "each bench has its own copy of this module")]
    pub(crate) async fn increase(&self, range: Range, step: Width) -> (usize, Duration) {
        let counters = self.series.iter().filter(|one| one.metric.kind == Kind::Counter);
        let ids: Arc<[SeriesId]> = counters.map(|series| series.id).collect();
        let groups = ids.iter().map(|id| id.component() - 1).collect();
        self.scan(ids, Groups::By(groups), range, step).await
    }

    async fn scan(
        &self,
        ids: Arc<[SeriesId]>,
        groups: Groups,
        range: Range,
        step: Width,
    ) -> (usize, Duration) {
        let begin = Instant::now();
        let scan = Scan {
            bounds: (ids[0], ids[ids.len() - 1]),
            series: ids,
            groups,
            range,
            step,
            parts: Parts::NoSketches,
            deadline: begin + Duration::from_mins(1),
        };
        let scanned = self.storage.scan(scan).await.expect("it is read");
        let steps = scanned.steps.into_folds().iter().map(Vec::len).sum();
        (steps, begin.elapsed())
    }
}

fn series_of(n: u32) -> Arc<Series> {
    let kind = if n.is_multiple_of(2) { Kind::Counter } else { Kind::Rolling };
    let metric = Metric {
        component: format!("component_{}", n / 100).into(),
        name: format!("metric_{}", n % 100).into(),
        kind,
        unit: "".into(),
        description: "".into(),
    };
    let id = SeriesId::new(1 + n / 100, n % 100);
    Arc::new(Series { id, metric: Arc::new(metric), labels: Labels::default() })
}
