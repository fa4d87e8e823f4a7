//! The power goes: a file system that is shut down as it is, without what was not synced.
//!
//! The ioctl of ext4 and xfs that they were given for such tests; it takes root and a loop device. Beside
//! the service a plain writer that does not sync its commits is checked too: if it loses nothing, the rig
//! proves nothing.

use crate::rig::{Rig, Settings};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file system of its own.
pub(crate) struct Disk {
    image: PathBuf,
    pub(crate) mount: PathBuf,
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?} (as root?): {output:?}");
}

/// What keeps the files.
#[derive(Clone, Copy, clap::ValueEnum)]
pub(crate) enum FileSystem {
    Ext4,
    Xfs,
}

impl FileSystem {
    const fn fault(self) -> &'static str {
        match self {
            Self::Ext4 => "power on ext4",
            Self::Xfs => "power on xfs",
        }
    }
}

impl Disk {
    /// In memory, of this size.
    pub(crate) fn in_memory(directory: &Path, size: &str) -> Self {
        let mount = directory.join("mount");
        std::fs::create_dir(&mount).unwrap();
        let size = format!("size={size}");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&mount));
        Self { image: PathBuf::new(), mount }
    }

    /// In a file.
    fn new(directory: &Path, kind: FileSystem) -> Self {
        let (image, mount) = (directory.join("disk"), directory.join("mount"));
        // xfs refuses less than 300 MB.
        std::fs::File::create(&image).unwrap().set_len(320 << 20).unwrap();
        std::fs::create_dir(&mount).unwrap();
        let make = match kind {
            FileSystem::Ext4 => "mkfs.ext4",
            FileSystem::Xfs => "mkfs.xfs",
        };
        run(Command::new(make).arg("-q").arg(&image));
        let disk = Self { image, mount };
        disk.up();
        disk
    }

    fn up(&self) {
        run(Command::new("mount").args(["-o", "loop"]).arg(&self.image).arg(&self.mount));
    }

    /// XFS_IOC_GOINGDOWN, which ext4 has too, with the flag not to write the log.
    fn cut(&self) {
        let ioctl = "import fcntl, os, struct, sys
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587D, struct.pack('I', 2))";
        run(Command::new("python3").args(["-c", ioctl]).arg(&self.mount));
    }

    fn down(&self) {
        run(Command::new("umount").arg(&self.mount));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Where the rig failed in between it may still be there.
        drop(Command::new("umount").arg("--lazy").arg(&self.mount).output());
    }
}

/// Commits so many rows without a sync; the power goes before the writer does.
fn write_unsynced(path: &Path) -> rusqlite::Connection {
    let connection = rusqlite::Connection::open(path).unwrap();
    connection
        .execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
             CREATE TABLE IF NOT EXISTS row (id INTEGER PRIMARY KEY);",
        )
        .unwrap();
    for _ in 0..100 {
        connection.execute("INSERT INTO row DEFAULT VALUES", []).unwrap();
    }
    connection
}

fn rows(path: &Path) -> u64 {
    let connection = rusqlite::Connection::open(path).unwrap();
    let count = connection.query_row("SELECT count(*) FROM row", [], |row| row.get::<_, i64>(0));
    count.map_or(0, |count| count as u64)
}

pub(crate) async fn power(settings: Settings, on: FileSystem) -> bool {
    let mut rig = Rig::new(on.fault(), settings);
    let disk = Disk::new(rig.directory.path(), on);
    let (database, control) = (disk.mount.join("health.db"), disk.mount.join("control.db"));
    let mut lost = 0;
    for cycle in 1..=settings.cycles {
        let server = rig.checked(&database, &format!("cycle {cycle}")).await;
        rig.clients.stream_to(server.address);
        rig.wait().await;
        let before = rows(&control);
        let unsynced = write_unsynced(&control);
        // Where the power goes, nobody says anything any more. A file system that is shut down lets its
        // processes live, and an fsync that is under way may come back as if all were well.
        server.freeze();
        disk.cut();
        rig.clients.pause();
        server.kill().await;
        drop(unsynced);
        disk.down();
        disk.up();
        lost += before + 100 - rows(&control);
    }
    println!("power: the writer that does not sync lost {lost} of {} rows", settings.cycles * 100);
    rig.expect("control", lost > 0, "it lost nothing: this is no power cut".to_owned());
    rig.end(&database).await
}
