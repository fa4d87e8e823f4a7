//! The real binary as a process of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

/// Which binary is tried, if not the one that was built with the rig.
pub(crate) static BINARY: OnceLock<PathBuf> = OnceLock::new();

/// The fault that is planted in it, if it has them.
pub(crate) static PLANTED: parking_lot::Mutex<Option<&str>> = parking_lot::Mutex::new(None);

/// How the binary is started.
#[derive(Clone, Default)]
pub(crate) struct Launch {
    /// What it is started by, with its arguments.
    under: Vec<String>,
    variables: Vec<(String, String)>,
    flags: Vec<String>,
}

impl Launch {
    /// Under strace, which does this to these calls on the files of a database.
    pub(crate) fn injected(database: &Path, calls: &str, what: &str) -> Self {
        let mut under = vec!["strace", "--follow-forks", "--quiet=all"];
        if !what.starts_with("signal") {
            // Only these calls stop: the rest is as quick as ever. Signals are not sent then.
            under.push("--seccomp-bpf");
        }
        let (trace, inject) = (format!("--trace={calls}"), format!("--inject={calls}:{what}"));
        under.extend(["--output=/dev/null", &trace, &inject]);
        let mut under: Vec<String> = under.into_iter().map(str::to_owned).collect();
        for suffix in ["", "-wal", "-shm"] {
            under.extend(["-P".to_owned(), format!("{}{suffix}", database.display())]);
        }
        Self { under, ..Self::default() }
    }

    pub(crate) fn variable(mut self, name: &str, value: impl Into<String>) -> Self {
        self.variables.push((name.to_owned(), value.into()));
        self
    }

    pub(crate) fn flag(mut self, flag: &str) -> Self {
        self.flags.push(flag.to_owned());
        self
    }
}

pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
    _reading: JoinSet<()>,
}

impl Server {
    /// Starts it on a file, with flushes that follow each other closely.
    pub(crate) async fn start(database: &Path) -> Self {
        let started = Self::launch(database, &Launch::default()).await;
        started.unwrap_or_else(|said| panic!("no start: {said:#?}"))
    }

    /// Starts it in this way. If it ends before it serves: what it said.
    pub(crate) async fn launch(database: &Path, launch: &Launch) -> Result<Self, Vec<String>> {
        let binary = BINARY.get().map_or(Path::new(env!("CARGO_BIN_EXE_healthd")), |path| path);
        let mut command = match launch.under.split_first() {
            Some((program, arguments)) => {
                let mut command = Command::new(program);
                command.args(arguments).arg(binary);
                command
            }
            None => Command::new(binary),
        };
        command.args(["--listen=127.0.0.1:0", "--collect-interval=0", "--flush-interval=20ms"]);
        command.arg("--backup-enabled=false");
        command.arg("--db-path").arg(database).args(&launch.flags).env_remove("RUST_LOG");
        command.envs(PLANTED.lock().map(|name| ("HEALTH_CANARY", name)));
        command.envs(launch.variables.iter().map(|(name, value)| (name, value)));
        let child = command.stderr(Stdio::piped()).kill_on_drop(true).spawn();
        let mut child = child.unwrap_or_else(|error| panic!("{command:?}: {error}"));
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

    /// Stops it where it is; what it has asked the kernel for goes on.
    pub(crate) fn freeze(&self) {
        let pid = self.child.id().and_then(|pid| rustix::process::Pid::from_raw(pid as i32));
        rustix::process::kill_process(pid.unwrap(), rustix::process::Signal::STOP).unwrap();
    }

    /// SIGKILL, if it has not ended by itself; comes back when it is gone.
    pub(crate) async fn kill(mut self) {
        // Whoever traces it would leave it running.
        if let Some(traced) = self.traced() {
            rustix::process::kill_process(traced, rustix::process::Signal::KILL).unwrap();
            self.child.wait().await.unwrap();
        } else if self.child.id().is_some() {
            self.child.kill().await.unwrap();
        }
    }

    /// Waits until it has ended by itself.
    pub(crate) async fn ended(&mut self) {
        self.child.wait().await.unwrap();
    }

    /// The most memory that it ever had, in MiB.
    pub(crate) fn most_memory(&self) -> u64 {
        let pid = self.traced().map(|pid| pid.as_raw_nonzero().get() as u32).or(self.child.id());
        let status = std::fs::read_to_string(format!("/proc/{}/status", pid.unwrap())).unwrap();
        let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        most.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
    }

    fn traced(&self) -> Option<rustix::process::Pid> {
        let pid = self.child.id()?;
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        rustix::process::Pid::from_raw(children.split_whitespace().next()?.parse().ok()?)
    }
}
