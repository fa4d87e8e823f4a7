//! Sends counters and rolling metrics to healthd, each counted once, without making the caller wait.
//!
//! A call folds its sample into a cell in memory and returns; a thread of the client's own cuts the cells
//! at each whole second, numbers what it cut, and sends it until the server says that it is durable:
//! through lost connections, restarts and power cuts of the server. A million calls a second are a few
//! numbers a second on the wire. Whatever happens, what was recorded is in memory, or in the spill file, or
//! durable at the server, or counted in the [`Report`] as lost.
//!
//! ```no_run
//! # async fn f() -> Result<(), Box<dyn std::error::Error>> {
//! use healthd_client::{Client, Settings};
//!
//! let health = Client::new(&Settings { component: "checkout".into(), ..Settings::default() })?;
//! health.incr("orders", 1.0);
//! health.incr_component("payments", "declined", 1.0);
//! health.observe("latency_ms", 12.5);
//!
//! let germany = health.series("orders").label("country", "de").counter()?;
//! germany.incr(1.0);
//!
//! health.close(std::time::Duration::from_secs(5)).await;
//! # Ok(())
//! # }
//! ```
//!
//! What is in memory ends with the process: call [`Client::close`] or [`Client::flush`] before. With
//! [`Settings::spill`] what was cut outlives it, and the next process sends it.

mod cell;
mod clock;
mod courier;
mod link;
mod outbox;
mod proto;
mod registry;
mod report;
mod request;
mod series;
mod settings;
mod spill;
mod sync;

use cell::Sample;
use courier::{Command, Courier};
pub use model::{LabelsError, NameError, TextError};
use parking_lot::Mutex;
use registry::Registry;
pub use registry::SeriesError;
pub use report::{Link, Report};
pub use series::{Counter, Rolling, SeriesBuilder};
pub use settings::Settings;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tonic::transport::Endpoint;

/// A client. Clones are the same one; it ends when it is closed, or some time after the last is dropped.
#[derive(Clone)]
pub struct Client {
    registry: Arc<Registry>,
    commands: mpsc::Sender<Command>,
    report: Arc<Mutex<Report>>,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address.
    #[error("address {0:?} cannot be used: {1}; write it as http://127.0.0.1:4317")]
    Address(String, String),
    /// The client's name.
    #[error("name {0}")]
    Name(NameError),
    /// The component.
    #[error("component {0}")]
    Component(NameError),
    /// The interval.
    #[error("interval {0:?} cannot be used; it is 10ms to a day")]
    Interval(Duration),
    /// The spill file.
    #[error("spill {0}: {1}")]
    Spill(PathBuf, io::Error),
    /// A series in the spill file.
    #[error("a series in the spill file: {0}")]
    Series(#[from] SeriesError),
    /// No thread, or no runtime in it.
    #[error("the client's thread did not start: {0}")]
    Thread(#[from] io::Error),
    /// The system has no random number for the client's name.
    #[error("no random number: {0}")]
    Random(String),
}

/// Why what was recorded is not known to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// The client was closed before.
    #[error("the client was closed before it was durable")]
    Closed,
    /// The server forgot the client while it was on its way; the report counts it.
    #[error("the server forgot this client: nobody knows whether it was counted")]
    Uncertain,
}

impl Client {
    /// A client, which connects by itself when there is a server.
    pub fn new(settings: &Settings) -> Result<Self, Error> {
        let address = &settings.address;
        let failed =
            |error: tonic::transport::Error| Error::Address(address.clone(), error.to_string());
        let endpoint = Endpoint::from_shared(address.clone()).map_err(failed)?;
        if !(10..=86_400_000).contains(&settings.interval.as_millis()) {
            return Err(Error::Interval(settings.interval));
        }
        model::check_name(&settings.component).map_err(Error::Component)?;
        let registry = Arc::new(Registry::new(&settings.component, settings.max_series));
        let (commands, orders) = mpsc::channel(16);
        let link = link::Link::new(endpoint);
        let courier = Courier::new(registry.clone(), link, settings, orders)?;
        let report = courier.report.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new()
            .name("healthd-client".to_owned())
            .spawn(move || runtime.block_on(courier.run()))?;
        Ok(Self { registry, commands, report })
    }

    /// Counts `by` more of a counter of the client's component: finite, zero or more. Never waits; what
    /// cannot be taken is counted in the report.
    pub fn incr(&self, name: &str, by: f64) {
        self.incr_component(self.registry.component(), name, by);
    }

    /// As [`Client::incr`], of another component.
    pub fn incr_component(&self, component: &str, name: &str, by: f64) {
        self.registry.record(component, name, Sample::Increment(by));
    }

    /// Notes what was seen of a rolling metric of the client's component: finite. Never waits; what cannot
    /// be taken is counted in the report.
    pub fn observe(&self, name: &str, value: f64) {
        self.observe_component(self.registry.component(), name, value);
    }

    /// As [`Client::observe`], of another component.
    pub fn observe_component(&self, component: &str, name: &str, value: f64) {
        self.registry.record(component, name, Sample::Observation(value));
    }

    /// Describes a series, to hold it: it may have labels, and takes samples without looking for its name.
    pub fn series(&self, name: &str) -> SeriesBuilder {
        SeriesBuilder::new(self.registry.clone(), name)
    }

    /// Waits until all that was recorded before is durable at the server, however long it takes.
    pub async fn flush(&self) -> Result<(), Lost> {
        self.ask(Command::Flush).await
    }

    /// Waits until all that was recorded before outlives this process: it is in the spill file, or, if
    /// there is none that works, durable at the server.
    pub async fn keep(&self) -> Result<(), Lost> {
        self.ask(Command::Keep).await
    }

    async fn ask(&self, command: impl FnOnce(courier::Answer) -> Command) -> Result<(), Lost> {
        let (answer, answered) = oneshot::channel();
        self.commands.send(command(answer)).await.map_err(|_| Lost::Closed)?;
        answered.await.unwrap_or(Err(Lost::Closed))
    }

    /// Takes nothing more, sends what there is, and ends when it is durable, or after this time. The
    /// report says what is still pending; with a spill file the next client of it goes on there.
    pub async fn close(&self, within: Duration) -> Report {
        let (answer, answered) = oneshot::channel();
        if self.commands.send(Command::Close(within, answer)).await.is_ok() {
            drop(answered.await);
        }
        self.report()
    }

    /// As [`Client::close`], for programs without async. Panics inside of async code.
    pub fn close_blocking(&self, within: Duration) -> Report {
        let (answer, answered) = oneshot::channel();
        if self.commands.blocking_send(Command::Close(within, answer)).is_ok() {
            drop(answered.blocking_recv());
        }
        self.report()
    }

    /// What became of what was recorded.
    pub fn report(&self) -> Report {
        let mut report = self.report.lock().clone();
        let (refused, why) = self.registry.refused();
        report.refused_calls = refused;
        report.problem = report.problem.or(why);
        report
    }
}
