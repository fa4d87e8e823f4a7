//! What a client may be told.

use std::path::PathBuf;
use std::time::Duration;

/// How a client works. The defaults suit a service that sends to a healthd on its own machine.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where healthd is. Default: `http://127.0.0.1:4317`.
    pub address: String,
    /// What the client is called at the server, in front of a number of its own: 1 to 150 of
    /// `A-Z a-z 0-9 _ . : / -`. Default: `client`.
    pub name: String,
    /// The component of metrics that name none. Default: `global`.
    pub component: String,
    /// The width of the folds that are sent: at multiples of it since 1970, what was recorded is cut and
    /// sent. At least 10 ms. Default: a second, which is the server's.
    pub interval: Duration,
    /// The most series. What would be of one more is refused. A rolling series takes at most 16 KiB.
    /// Default: 10,000.
    pub max_series: usize,
    /// The most bytes of requests that are not durable yet. When there are as many, what is recorded is
    /// still folded and nothing is lost, but it is cut only when there is room: its times become coarse.
    /// Default: 16 MiB, which is an hour of about 250 series.
    pub max_outbox_bytes: usize,
    /// A file in which requests wait until they are durable at the server, so that they outlive this
    /// process. Only one process uses it at a time. Default: none.
    pub spill: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            address: "http://127.0.0.1:4317".to_owned(),
            name: "client".to_owned(),
            component: model::GLOBAL.to_owned(),
            interval: Duration::from_secs(1),
            max_series: 10_000,
            max_outbox_bytes: 16 << 20,
            spill: None,
        }
    }
}
