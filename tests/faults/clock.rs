//! The wall clock is set: an hour or ten years, ahead and back. The monotonic clock goes on.

use crate::rig::{Rig, Settings};
use std::path::PathBuf;
use std::time::Duration;

const STEPS: [&str; 8] = ["+1h", "+0", "-1h", "+0", "+10y", "+0", "-10y", "+0"];

/// Debian's libfaketime.
fn library() -> PathBuf {
    let machine = std::env::consts::ARCH;
    let path = format!("/usr/lib/{machine}-linux-gnu/faketime/libfaketimeMT.so.1");
    assert!(PathBuf::from(&path).is_file(), "{path} is missing: install faketime");
    path.into()
}

pub(crate) async fn clock(settings: Settings) -> bool {
    let mut rig = Rig::new("clock", settings);
    let (database, offset) = (rig.database(), rig.directory.path().join("offset"));
    std::fs::write(&offset, "+0").unwrap();
    let launch = std::mem::take(&mut rig.launch);
    // Sessions that a step of the clock would expire; history that is kept however old it looks.
    let launch = launch.flag("--session-ttl=5m").flag("--retention=1s:100y");
    rig.launch = launch
        .variable("LD_PRELOAD", library().to_str().unwrap())
        .variable("FAKETIME_TIMESTAMP_FILE", offset.to_str().unwrap())
        .variable("FAKETIME_NO_CACHE", "1")
        .variable("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    for step in STEPS.iter().cycle().take(settings.cycles as usize) {
        // The step comes while it serves, and the next one starts after it.
        let server = rig.checked(&database, &format!("before {step}")).await;
        rig.clients.stream_to(server.address);
        rig.wait().await;
        std::fs::write(&offset, step).unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        let caught_up = rig.durable_within(Duration::from_secs(5)).await;
        rig.expect(step, caught_up.is_some(), "nothing becomes durable any more".to_owned());
        rig.kill(server).await;
    }
    rig.end(&database).await
}
