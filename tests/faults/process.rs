//! The process is killed: at any moment, or at a certain call.

use crate::rig::{Rig, Settings};
use crate::server::{Launch, Server};
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

pub(crate) async fn points(settings: Settings) -> bool {
    let mut rig = Rig::new("points", settings);
    let database = rig.database();
    let (mut calls, mut reached) = (CALLS.to_vec(), 0);
    for n in 1.. {
        for call in std::mem::take(&mut calls) {
            let launch = Launch::injected(&database, call, &format!("signal=SIGKILL:when={n}"));
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
    println!("points: killed at {reached}");
    rig.end(&database).await
}
