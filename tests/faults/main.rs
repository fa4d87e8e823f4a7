//! Faults, and what must survive them: `cargo test --test faults -- kill --cycles 1000`.
//!
//! A fault is done to the real binary while clients stream to it that number their requests, each of which
//! is unlike any other. After each fault the server must hold what the requests up to its mark come to,
//! and nothing else, and the mark may not be below what any client was told to be durable.

#![expect(clippy::unwrap_used, reason = "in a rig a panic is the report")]
#![expect(clippy::print_stdout, reason = "what it counts is what it is for")]

mod backup;
mod canary;
mod client;
mod clock;
mod disk;
mod library;
mod net;
mod power;
mod process;
mod rig;
mod server;

use clap::{Parser, Subcommand};
use power::FileSystem;
use rig::Settings;
use std::path::PathBuf;
use std::process::ExitCode;

/// Does faults to a running service and checks that nothing is lost or counted twice.
#[derive(Parser)]
#[command(name = "faults")]
struct Command {
    #[command(subcommand)]
    fault: Fault,
    /// Another binary than the one that was built with this
    #[arg(long, global = true, value_name = "FILE")]
    binary: Option<PathBuf>,
}

#[derive(Subcommand, Clone)]
enum Fault {
    /// SIGKILL in the middle of streams
    Kill(Settings),
    /// SIGKILL at the n-th write or sync of a database file, for n from 1 on; needs strace
    Points(Settings),
    /// The power goes: what was not synced is gone. On a file system of its own; needs root
    Power {
        #[command(flatten)]
        settings: Settings,
        /// Which file system
        #[arg(long, default_value = "ext4")]
        on: FileSystem,
    },
    /// The disk is full for a while; needs root
    Full(Settings),
    /// Every sync takes two seconds more
    Slow(Settings),
    /// Syncs fail now and then; needs strace
    Errors(Settings),
    /// Connections are cut at any byte, requests come late and twice; a cycle is a cut
    Cuts(Settings),
    /// The wall clock is set ahead and back; needs faketime
    Clock(Settings),
    /// SIGKILL of an application that sends with the client library
    Library(Settings),
    /// SIGKILL while backups are made
    Backup(Settings),
    /// Planted faults are caught; needs a binary that has them, and what those faults need
    Canaries(Settings),
    /// The application of `library`
    #[command(hide = true)]
    Sender(library::Sender),
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let settings = |cycles| Settings { cycles, seconds: 60, seed: 1, clients: 4 };
    let names = <Fault as Subcommand>::augment_subcommands(clap::Command::new("faults"));
    let is_fault = |name: &str| names.get_subcommands().any(|fault| fault.get_name() == name);
    let faults = match &*arguments {
        // As `cargo test` runs it beside all others: what needs nothing but the binary, for a short time.
        [] => vec![
            Fault::Kill(settings(50)),
            Fault::Cuts(settings(1000)),
            Fault::Library(settings(20)),
            Fault::Backup(settings(20)),
        ],
        // Names of tests that are none of these.
        [first, ..] if !is_fault(first) && !["help", "--help", "-h"].contains(&&**first) => {
            println!("0 passed, 0 failed");
            return ExitCode::SUCCESS;
        }
        _ => {
            let command = Command::parse();
            if let Some(binary) = command.binary {
                server::BINARY.set(binary).unwrap();
            }
            vec![command.fault]
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let done = faults.into_iter().map(|fault| runtime.block_on(run(fault)));
    // All of them, also after one that failed.
    let failed = done.filter(|passed| !passed).count();
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn run(fault: Fault) -> bool {
    match fault {
        Fault::Kill(settings) => process::kill(settings).await,
        Fault::Points(settings) => process::points(settings).await,
        Fault::Power { settings, on } => power::power(settings, on).await,
        Fault::Full(settings) => disk::full(settings).await,
        Fault::Slow(settings) => disk::slow(settings).await,
        Fault::Errors(settings) => disk::errors(settings).await,
        Fault::Cuts(settings) => net::cuts(settings).await,
        Fault::Clock(settings) => clock::clock(settings).await,
        Fault::Library(settings) => library::library(settings).await,
        Fault::Backup(settings) => backup::backup(settings).await,
        Fault::Canaries(settings) => canary::canaries(settings).await,
        Fault::Sender(sender) => library::send(sender).await,
    }
}
