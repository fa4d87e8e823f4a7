//! The disk fails: it is full, it is slow, or it says that it could not write.

use crate::client::{Manner, ask};
use crate::power::Disk;
use crate::rig::{Rig, Settings};
use crate::server::{Launch, Server};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const SYNCS: &str = "fsync,fdatasync";

/// No answer takes longer, and nothing that goes on stands still for so long.
const SOON: Duration = Duration::from_secs(1);
/// What was held up is durable so soon after nothing holds it up any more.
const CAUGHT_UP: Duration = Duration::from_secs(5);
/// The most memory of a server that holds back what it cannot store, in MiB.
const MEMORY: u64 = 400;

/// Syncs that take two seconds more, for a process that loads it. (strace could hold them up as well, and
/// with them whoever starts a thread meanwhile.)
const SLOW_SYNCS: &str = "#define _GNU_SOURCE
#include <sys/syscall.h>
#include <unistd.h>
int fsync(int fd) { sleep(2); return syscall(SYS_fsync, fd); }
int fdatasync(int fd) { sleep(2); return syscall(SYS_fdatasync, fd); }
";

fn build_slow_syncs(directory: &Path) -> PathBuf {
    let (source, library) = (directory.join("slow.c"), directory.join("slow.so"));
    std::fs::write(&source, SLOW_SYNCS).unwrap();
    let mut compile = Command::new("cc");
    compile.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source);
    assert!(compile.status().unwrap().success(), "{compile:?}");
    library
}

/// Writes until there is no room left.
fn fill(path: &Path) {
    let mut file = File::create(path).unwrap();
    let mut size = 1 << 20;
    while size > 0 {
        // What fits of it is written.
        if file.write_all(&vec![0; size]).is_err() {
            size /= 2;
        }
    }
}

pub(crate) async fn full(settings: Settings) -> bool {
    let mut rig = Rig::new("full", settings);
    let disk = Disk::in_memory(rig.directory.path(), "64m");
    let (database, filler) = (disk.mount.join("health.db"), disk.mount.join("filler"));
    let server = rig.checked(&database, "before").await;
    rig.clients.stream_to(server.address);
    rig.wait().await;
    fill(&filler);
    let (begin, mut slowest) = (Instant::now(), Duration::ZERO);
    let mut told = false;
    while begin.elapsed() < settings.duration() {
        let asked = Instant::now();
        let answer = ask(server.address).await;
        slowest = slowest.max(asked.elapsed());
        match answer {
            Ok(status) => told |= status.storage.is_some_and(|storage| !storage.error.is_empty()),
            Err(error) => rig.count("while it is full", Err(error)),
        }
        // What was freed meanwhile, by a log that was emptied, is taken too.
        fill(&disk.mount.join("filler_too"));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("full: the slowest answer took {} ms", slowest.as_millis());
    rig.expect("answers", slowest <= SOON, format!("one took {slowest:?}"));
    rig.expect("status", told, "it never told that the storage fails".to_owned());
    let stuck = rig.clients.durable() < rig.clients.accepted();
    rig.expect("full", stuck, "everything became durable on a full disk".to_owned());
    std::fs::remove_file(&filler).unwrap();
    std::fs::remove_file(disk.mount.join("filler_too")).unwrap();
    let caught_up = rig.durable_within(CAUGHT_UP).await;
    println!("full: durable again after {caught_up:?}");
    rig.expect("afterwards", caught_up.is_some(), format!("not durable in {CAUGHT_UP:?}"));
    rig.kill(server).await;
    rig.end(&database).await
}

pub(crate) async fn slow(settings: Settings) -> bool {
    // They do not wait for what is durable, for as long as this lasts.
    let mut rig = Rig::with("slow", settings, Manner { ahead: 1 << 40, ..Manner::default() });
    let database = rig.database();
    let server = rig.checked(&database, "before").await;
    rig.clients.stream_to(server.address);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let usual = rig.clients.accepted();
    rig.kill(server).await;
    let library = build_slow_syncs(rig.directory.path());
    let launch = Launch::default().variable("LD_PRELOAD", library.to_str().unwrap());
    let server = Server::launch(&database, &launch).await.unwrap();
    rig.clients.stream_to(server.address);
    let (mut begin, mut longest, mut last) = (Instant::now(), Duration::ZERO, Instant::now());
    let mut accepted = rig.clients.accepted();
    let first = loop {
        // The epoch of a session is durable before the first request: that takes a sync.
        let now = rig.clients.accepted();
        if now > accepted {
            break now;
        }
        assert!(begin.elapsed() < Duration::from_secs(30), "nothing is accepted");
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    while begin.elapsed() < settings.duration() {
        let now = rig.clients.accepted();
        if now > accepted {
            (accepted, last) = (now, Instant::now());
        }
        if accepted == first {
            begin = Instant::now();
        }
        longest = longest.max(last.elapsed());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let pace = (accepted - first) / settings.seconds;
    println!("slow: {pace} requests a second accepted, {usual} in the first second without delay");
    println!("slow: the longest pause between acks took {} ms", longest.as_millis());
    rig.expect("acks", longest <= SOON, format!("none for {longest:?}"));
    let memory = server.most_memory();
    println!("slow: {memory} MiB at most");
    rig.expect("memory", memory <= MEMORY, format!("{memory} MiB"));
    rig.kill(server).await;
    rig.end(&database).await
}

pub(crate) async fn errors(settings: Settings) -> bool {
    let mut rig = Rig::new("errors", settings);
    let database = rig.database();
    let (begin, mut cycle) = (Instant::now(), 0);
    while begin.elapsed() < settings.duration() {
        cycle += 1;
        let first = 1 + rig.random.below(30);
        // Now and then, or several at once: then also what would put an error right fails.
        let when = match rig.random.below(2) {
            0 => format!("{first}+{}", 1 + rig.random.below(6)),
            _ => format!("{first}..{}", first + 1 + rig.random.below(4)),
        };
        let launch = Launch::injected(&database, SYNCS, &format!("error=EIO:when={when}"));
        // A server whose first commit fails does not start.
        if let Ok(server) = Server::launch(&database, &launch).await {
            rig.clients.stream_to(server.address);
            tokio::time::sleep(Duration::from_millis(500 + rig.random.below(1000))).await;
            if let Ok(status) = ask(server.address).await {
                let quarantined = status.storage.unwrap().quarantined_blocks;
                let wrong = format!("{quarantined} blocks put aside");
                rig.expect("quarantine", quarantined == 0, wrong);
            }
            rig.kill(server).await;
        }
        let server = rig.checked(&database, &format!("cycle {cycle}: EIO at {when}")).await;
        server.kill().await;
    }
    rig.end(&database).await
}
