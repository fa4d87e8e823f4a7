//! The real binary as a process of its own.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
    _reading: JoinSet<()>,
}

impl Server {
    /// Starts it on a file, with flushes that follow each other closely.
    pub(crate) async fn start(database: &Path) -> Self {
        let command = Command::new(env!("CARGO_BIN_EXE_healthd"));
        Self::begin(command, database).await.unwrap_or_else(|said| panic!("no start: {said:#?}"))
    }

    /// Starts it so that it is killed at the n-th call of this kind on its files. None if that comes
    /// before it serves.
    pub(crate) async fn start_killed_at(database: &Path, call: &str, n: u32) -> Option<Self> {
        let mut command = Command::new("strace");
        command.args(["--follow-forks", "--quiet=all", "--output=/dev/null"]);
        command.arg(format!("--trace={call}"));
        command.arg(format!("--inject={call}:signal=SIGKILL:when={n}"));
        for suffix in ["", "-wal", "-shm"] {
            command.arg("-P").arg(format!("{}{suffix}", database.display()));
        }
        command.arg(env!("CARGO_BIN_EXE_healthd"));
        Self::begin(command, database).await.ok()
    }

    async fn begin(mut command: Command, database: &Path) -> Result<Self, Vec<String>> {
        command.args(["--listen=127.0.0.1:0", "--collect-interval=0", "--flush-interval=20ms"]);
        command.arg("--db-path").arg(database).env_remove("RUST_LOG");
        let mut child = command.stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut said = Vec::new();
        while let Some(line) = log.next_line().await.unwrap() {
            if let Some((_, address)) = line.split_once("serving address=") {
                let address = address.split(' ').next().unwrap().parse().unwrap();
                // Who writes to a pipe that nobody holds is ended by it.
                let mut reading = JoinSet::new();
                reading.spawn(async move { while let Ok(Some(_)) = log.next_line().await {} });
                return Ok(Self { child, address, _reading: reading });
            }
            said.push(line);
        }
        child.wait().await.unwrap();
        Err(said)
    }

    /// SIGKILL; comes back when it is gone.
    pub(crate) async fn kill(mut self) {
        // Whoever traces it would leave it running.
        if let Some(traced) = self.traced() {
            rustix::process::kill_process(traced, rustix::process::Signal::KILL).unwrap();
            self.child.wait().await.unwrap();
        } else {
            self.child.kill().await.unwrap();
        }
    }

    /// Waits until it has ended by itself.
    pub(crate) async fn ended(&mut self) {
        self.child.wait().await.unwrap();
    }

    fn traced(&self) -> Option<rustix::process::Pid> {
        let pid = self.child.id()?;
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        rustix::process::Pid::from_raw(children.split_whitespace().next()?.parse().ok()?)
    }
}
