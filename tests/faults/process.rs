//! The process is killed: at any moment, or at a certain call.

use crate::rig::{Rig, Settings};
use crate::server::{Launch, Server};
use std::path::Path;
use std::time::Duration;

pub(crate) async fn kill(settings: Settings) -> bool {
    let mut rig = Rig::new("kill", settings);
    let database = rig.database();
    for cycle in 1..=settings.cycles {
        let server = rig.checked(&database, &format!("cycle {cycle}")).await;
        rig.clients.stream_to(server.address);
        rig.wait().await;
        rig.kill(server).await;
    }
    rig.end(&database).await
}

/// What a database file is changed by.
const CALLS: [&str; 3] = ["pwrite64", "fsync,fdatasync", "ftruncate,rename,unlink,unlinkat"];

const OFTEN: &str = "--flush-interval=1ms";

/// Runs that compaction made.
fn merged_runs(database: &Path) -> i64 {
    let connection = rusqlite::Connection::open(database).unwrap();
    let select = "SELECT count(*) FROM run WHERE level > 0 AND state = 1";
    connection.query_row(select, [], |row| row.get(0)).unwrap()
}

pub(crate) async fn points(settings: Settings) -> bool {
    let mut rig = Rig::new("points", settings);
    let database = rig.database();
    // So many flushes that they are merged every now and then, also at a start.
    rig.launch = std::mem::take(&mut rig.launch).flag(OFTEN);
    let (mut calls, mut reached) = (CALLS.to_vec(), 0);
    for n in 1.. {
        for call in std::mem::take(&mut calls) {
            let launch = Launch::injected(&database, call, &format!("signal=SIGKILL:when={n}"));
            let launch = launch.flag(OFTEN);
            let mut is_reached = true;
            // Some come before it serves.
            if let Ok(mut server) = Server::launch(&database, &launch).await {
                rig.clients.stream_to(server.address);
                let end = tokio::time::timeout(Duration::from_secs(10), server.ended()).await;
                is_reached = end.is_ok();
                rig.kill(server).await;
            }
            let server = rig.checked(&database, &format!("{call} {n}")).await;
            server.kill().await;
            // What does not come so often does not come more often.
            if is_reached {
                reached += 1;
                calls.push(call);
            } else {
                println!("points: there is no number {n} of {call}");
            }
        }
        if reached >= settings.cycles {
            break;
        }
        assert!(!calls.is_empty(), "there are {reached} points only");
    }
    let merged = merged_runs(&database);
    println!("points: killed at {reached}; there are {merged} merged runs");
    rig.expect("compaction", merged > 0, "nothing was merged".to_owned());
    rig.end(&database).await
}
