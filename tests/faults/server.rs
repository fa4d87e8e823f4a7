//! The real binary as a process of its own.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Server {
    /// Starts it on a file, with flushes that follow each other closely.
    pub(crate) async fn start(path: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_healthd"));
        command.args(["--listen=127.0.0.1:0", "--collect-interval=0", "--flush-interval=20ms"]);
        command.arg("--db-path").arg(path).env_remove("RUST_LOG");
        let mut child = command.stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut before = Vec::new();
        let address = loop {
            let Some(line) = log.next_line().await.unwrap() else {
                panic!("it does not start: {before:#?}");
            };
            if let Some((_, address)) = line.split_once("serving address=") {
                break address.split(' ').next().unwrap().parse().unwrap();
            }
            before.push(line);
        };
        Self { child, address }
    }

    /// SIGKILL; comes back when it is gone.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }
}
