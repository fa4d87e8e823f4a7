//! What the tests share: a server of one's own, a client, and short ways to say samples.

use healthd::app::App;
use healthd::config::Config;
use healthd::engine::Clock;
use healthd::serve::proto::v1::admin_service_client::AdminServiceClient;
use healthd::serve::proto::v1::ingest_service_client::IngestServiceClient;
use healthd::serve::proto::v1::query_service_client::QueryServiceClient;
use healthd::serve::proto::v1::{self, metric::Value};
use prost_types::Timestamp;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::transport::Channel;

/// Where a server keeps its metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    Sqlite,
    Memory,
}

/// A service in this process.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) backend: Backend,
    directory: tempfile::TempDir,
    stop: CancellationToken,
    running: JoinHandle<anyhow::Result<()>>,
}

impl Server {
    /// One that flushes only when it is asked to: nothing here waits for an interval.
    pub(crate) async fn start(backend: Backend) -> Self {
        Self::with(backend, &["--flush-interval=1h"]).await
    }

    /// One with these flags, without the collector unless they turn it on.
    pub(crate) async fn with(backend: Backend, flags: &[&str]) -> Self {
        Self::at(backend, tempfile::tempdir().unwrap(), flags).await
    }

    async fn at(backend: Backend, directory: tempfile::TempDir, flags: &[&str]) -> Self {
        let path = directory.path().join("health.db");
        let mut all = flags_for(&path);
        all.push(format!("--persistence-enabled={}", backend == Backend::Sqlite).into());
        all.extend(flags.iter().map(OsString::from));
        let (config, warnings) = Config::read(all.into_iter(), std::iter::empty()).unwrap();
        assert!(warnings.is_empty());
        let app = App::build(config, Clock::system()).await.unwrap();
        let (address, stop) = (app.address(), CancellationToken::new());
        #[expect(clippy::disallowed_methods, reason = "the server is joined by `stop`")]
        let running = tokio::spawn(app.run(stop.clone()));
        Self { address, backend, directory, stop, running }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("health.db")
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.address).await
    }

    /// Tells it to stop without waiting.
    pub(crate) fn tell(&self) {
        self.stop.cancel();
    }

    /// Stops it and gives what its run gave.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.stop.cancel();
        self.running.await.unwrap()
    }

    /// Stops it cleanly and starts it again on the same file.
    pub(crate) async fn restart(self, flags: &[&str]) -> Self {
        self.restart_with(flags, |_| {}).await
    }

    /// The same, with something done to its file in between.
    pub(crate) async fn restart_with(self, flags: &[&str], between: impl FnOnce(&Path)) -> Self {
        self.stop.cancel();
        self.running.await.unwrap().unwrap();
        between(&self.directory.path().join("health.db"));
        Self::at(self.backend, self.directory, flags).await
    }
}

/// Flags that make a server of its own.
pub(crate) fn flags_for(path: &Path) -> Vec<OsString> {
    let mut database = OsString::from("--db-path=");
    database.push(path);
    let flags =
        ["healthd", "--listen=127.0.0.1:0", "--collect-interval=0", "--backup-enabled=false"];
    flags.into_iter().map(OsString::from).chain([database]).collect()
}

/// The generated clients on one connection.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) channel: Channel,
    pub(crate) ingest: IngestServiceClient<Channel>,
    pub(crate) query: QueryServiceClient<Channel>,
    pub(crate) admin: AdminServiceClient<Channel>,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let channel =
            Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
        Self {
            ingest: IngestServiceClient::new(channel.clone()),
            query: QueryServiceClient::new(channel.clone()),
            admin: AdminServiceClient::new(channel.clone()),
            channel,
        }
    }

    /// Streams the requests, closes, and gives every ack.
    pub(crate) async fn stream(
        &mut self,
        requests: Vec<v1::IngestRequest>,
    ) -> Result<Vec<v1::IngestResponse>, Status> {
        let mut acks = self.ingest.ingest(tokio_stream::iter(requests)).await?.into_inner();
        let mut all = Vec::new();
        while let Some(ack) = acks.message().await? {
            all.push(ack);
        }
        Ok(all)
    }

    /// Records without waiting.
    pub(crate) async fn record(&mut self, metrics: Vec<v1::Metric>) -> v1::RecordResponse {
        let request = v1::RecordRequest { metrics, wait_durable: false, ..Default::default() };
        self.ingest.record(request).await.unwrap().into_inner()
    }

    /// Records and waits until it is durable.
    pub(crate) async fn record_durably(&mut self, metrics: Vec<v1::Metric>) -> v1::RecordResponse {
        let request = v1::RecordRequest { metrics, wait_durable: true, ..Default::default() };
        self.ingest.record(request).await.unwrap().into_inner()
    }

    /// The current values of a component by metric name; one series each.
    pub(crate) async fn current(&mut self, component: &str) -> BTreeMap<String, f64> {
        let request =
            v1::GetCurrentRequest { component: component.to_owned(), ..Default::default() };
        let answer = self.query.get_current(request).await.unwrap().into_inner();
        answer.series.into_iter().map(|series| (series.name, value_of(series.value))).collect()
    }

    /// All messages of an extraction in one: its series and its coverage.
    pub(crate) async fn extract(
        &mut self,
        request: v1::ExtractRequest,
    ) -> Result<(Vec<v1::SeriesPoints>, v1::Coverage), Status> {
        let mut answer = self.query.extract(request).await?.into_inner();
        let (mut series, mut coverage) = (Vec::new(), None);
        while let Some(message) = answer.message().await? {
            assert_eq!(coverage, None, "the coverage is in the last message only");
            series.extend(message.series);
            coverage = message.coverage;
        }
        Ok((series, coverage.expect("the last message holds the coverage")))
    }

    pub(crate) async fn status(&mut self) -> v1::GetStatusResponse {
        self.admin.get_status(v1::GetStatusRequest {}).await.unwrap().into_inner()
    }
}

fn value_of(value: Option<v1::current_series::Value>) -> f64 {
    match value.expect("a current series has a value") {
        v1::current_series::Value::Total(value) | v1::current_series::Value::Last(value) => value,
    }
}

pub(crate) fn now_ms() -> i64 {
    #[expect(clippy::disallowed_methods, reason = "a client has its own clock")]
    let now = SystemTime::now();
    now.duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

/// The start of a whole second, this long ago.
pub(crate) fn second_ago(seconds: i64) -> i64 {
    now_ms() / 1000 * 1000 - seconds * 1000
}

pub(crate) fn time(ms: i64) -> Timestamp {
    Timestamp { seconds: ms.div_euclid(1000), nanos: (ms.rem_euclid(1000) * 1_000_000) as i32 }
}

pub(crate) fn metric(component: &str, name: &str, value: Value) -> v1::Metric {
    v1::Metric {
        component: component.to_owned(),
        name: name.to_owned(),
        value: Some(value),
        ..Default::default()
    }
}

pub(crate) fn increment(component: &str, name: &str, by: f64) -> v1::Metric {
    metric(component, name, Value::Increment(by))
}

pub(crate) fn observation(component: &str, name: &str, value: f64) -> v1::Metric {
    metric(component, name, Value::Observation(value))
}

pub(crate) fn at(metric: v1::Metric, ms: i64) -> v1::Metric {
    v1::Metric { time: Some(time(ms)), ..metric }
}

pub(crate) fn labelled(metric: v1::Metric, labels: &[(&str, &str)]) -> v1::Metric {
    let labels = labels.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    v1::Metric { labels, ..metric }
}

pub(crate) fn plain(metrics: Vec<v1::Metric>) -> v1::IngestRequest {
    v1::IngestRequest { metrics, ..Default::default() }
}

pub(crate) fn declare(reference: u32, component: &str, name: &str, kind: v1::Kind) -> v1::Series {
    v1::Series {
        r#ref: reference,
        component: component.to_owned(),
        name: name.to_owned(),
        kind: kind.into(),
        ..Default::default()
    }
}

pub(crate) fn packed(series: Vec<v1::Series>, packed: v1::Packed) -> v1::IngestRequest {
    v1::IngestRequest { series, packed: Some(packed), ..Default::default() }
}

/// Waits until the condition holds. The limit is far beyond what it ever takes; a test that reaches
/// it hangs.
pub(crate) async fn until<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let limit = std::time::Instant::now() + Duration::from_mins(1);
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(std::time::Instant::now() < limit, "{what} does not come true");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Runs promises on both backends: each gets a server of its own.
macro_rules! on_both {
    ($($promise:ident),+ $(,)?) => {
        mod on_sqlite {
            use crate::support::{Backend, Server};
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                super::$promise(Server::start(Backend::Sqlite).await).await;
            })+
        }
        mod on_memory {
            use crate::support::{Backend, Server};
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                super::$promise(Server::start(Backend::Memory).await).await;
            })+
        }
    };
}
pub(crate) use on_both;
