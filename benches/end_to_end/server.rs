//! The real server as a process of its own, and what the system says of it.

use healthd::serve::proto::v1;
use healthd::serve::proto::v1::admin_service_client::AdminServiceClient;
use healthd::serve::proto::v1::ingest_service_client::IngestServiceClient;
use healthd::serve::proto::v1::query_service_client::QueryServiceClient;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tonic::transport::Channel;

/// A server on a file of its own.
pub(super) struct Server {
    child: Child,
    path: PathBuf,
    pub(super) ingest: IngestServiceClient<Channel>,
    pub(super) query: QueryServiceClient<Channel>,
    admin: AdminServiceClient<Channel>,
}

impl Server {
    pub(super) async fn start(path: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_healthd"));
        command.args(["--listen=127.0.0.1:0", "--collect-interval=0", "--backup-enabled=false"]);
        command.arg("--db-path").arg(path);
        command.env_remove("RUST_LOG").stderr(Stdio::piped());
        let mut child = command.spawn().expect("the server was built with this bench");
        let mut log = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        let address = loop {
            let line = log.next().expect("the server says where it listens").expect("as text");
            if let Some((_, address)) = line.split_once("serving address=") {
                break address.split(' ').next().unwrap_or_default().to_owned();
            }
        };
        std::thread::spawn(move || log.for_each(drop));
        let channel = Channel::from_shared(format!("http://{address}")).expect("an address");
        let channel = channel.connect().await.expect("the server listens");
        Self {
            child,
            path: path.to_owned(),
            ingest: IngestServiceClient::new(channel.clone()),
            query: QueryServiceClient::new(channel.clone()).max_decoding_message_size(64 << 20),
            admin: AdminServiceClient::new(channel),
        }
    }

    /// CPU time of the process so far, in seconds.
    pub(super) fn cpu(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
        let stat = stat.expect("the server runs");
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        let ticks = |field: usize| fields[field].parse::<f64>().expect("a number");
        // Fields 14 and 15 of proc(5); the first after the name is the third.
        (ticks(11) + ticks(12)) / rustix::param::clock_ticks_per_second() as f64
    }

    /// The most memory that the process has had, in megabytes.
    pub(super) fn peak_rss(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("the server runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kb = line.and_then(|line| line.trim().strip_suffix(" kB"));
        kb.and_then(|kb| kb.parse::<f64>().ok()).expect("a number of kB") / 1024.0
    }

    /// Bytes of the database, and of its log.
    pub(super) fn file_bytes(&self) -> (u64, u64) {
        let size = |suffix: &str| {
            let mut path = self.path.clone().into_os_string();
            path.push(suffix);
            std::fs::metadata(path).map_or(0, |file| file.len())
        };
        (size(""), size("-wal"))
    }

    pub(super) async fn status(&mut self) -> v1::GetStatusResponse {
        let status = self.admin.get_status(v1::GetStatusRequest {}).await;
        status.expect("the server answers").into_inner()
    }

    /// Waits until the server has nothing left to do: no CPU time to speak of for some seconds, after
    /// the time that level 0 waits for more.
    pub(super) async fn settle(&mut self) {
        let begin = Instant::now();
        let mut since = (Instant::now(), self.cpu());
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let cpu = self.cpu();
            if cpu - since.1 > 0.03 {
                since = (Instant::now(), cpu);
            }
            if begin.elapsed() > Duration::from_secs(20)
                && since.0.elapsed() > Duration::from_secs(4)
            {
                return;
            }
        }
    }

    /// Ends it as a power cut would end it.
    pub(super) fn kill(self) {
        drop(self);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it ends");
    }
}
