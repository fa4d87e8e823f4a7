//! The host's and the process's own metrics, ingested as ordinary series of component `system`.
//!
//! Nothing is invented: a figure that the platform does not give is absent, and what can only be
//! told from two looks is told from the second look on.

use crate::engine::{Engine, Plain, Source};
use crate::state::Value;
use model::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use sysinfo::{Disks, Networks, ProcessRefreshKind, ProcessesToUpdate, System};
use tokio::runtime::Handle;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

/// What the collector may be told.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Config {
    /// How often the system component is sampled; 0 turns it off
    #[arg(long, default_value = "60s", value_name = "SPAN", value_parser = model::parse_span)]
    pub collect_interval: Duration,
}

/// The component of these metrics.
const COMPONENT: &str = "system";
/// From the first look to the first sample: long enough for a CPU figure, and within the two seconds
/// in which somebody who has just started the service asks.
const FIRST_SAMPLE: Duration = Duration::from_secs(1);

/// One figure.
#[derive(Clone, Debug, PartialEq)]
struct Figure {
    name: &'static str,
    unit: &'static str,
    description: &'static str,
    label: Option<(&'static str, String)>,
    value: Value,
}

/// The task that samples. It holds nothing that could be lost.
pub struct Collector {
    engine: Arc<Engine>,
    interval: Duration,
    started: Timestamp,
}

impl Collector {
    /// One that samples into the engine; none if it is turned off.
    pub fn new(engine: Arc<Engine>, config: &Config) -> Option<Self> {
        let started = engine.now();
        let interval = config.collect_interval;
        (!interval.is_zero()).then_some(Self { engine, interval, started })
    }

    /// Samples at the interval until told to stop.
    pub async fn run(self, stop: CancellationToken) {
        let mut look = match tokio::task::spawn_blocking(Look::first).await {
            Ok(Ok(look)) => look,
            Ok(Err(error)) => return tracing::warn!(error, "no system metrics on this platform"),
            Err(error) => return tracing::warn!(%error, "no system metrics"),
        };
        let mut tick = tokio::time::interval_at(Instant::now() + FIRST_SAMPLE, self.interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            // Reading /proc of a busy host takes milliseconds, so not on a thread that serves.
            let sampled = tokio::task::spawn_blocking(move || {
                let figures = look.again();
                (look, figures)
            });
            let Ok((next, mut figures)) = sampled.await else { return };
            look = next;
            figures.extend(self.service());
            figures.extend(self.storage().await);
            self.record(&figures);
        }
    }

    /// What the service knows of itself.
    fn service(&self) -> [Figure; 3] {
        let uptime = self.engine.now().since(self.started).as_secs_f64();
        let tasks = Handle::current().metrics().num_alive_tasks() as f64;
        let bytes = self.engine.state_bytes() as f64;
        [
            seen("uptime_seconds", "seconds", "Time since the service started", uptime),
            seen("tasks", "", "Live tokio tasks of the service", tasks),
            seen("health_data_size", "bytes", "Memory that the live state takes", bytes),
        ]
    }

    /// What the storage says of itself; nothing when it does not answer.
    async fn storage(&self) -> Vec<Figure> {
        let status = self.engine.status().await;
        let Ok(storage) = status.storage else { return Vec::new() };
        let bytes = |name, description, bytes: u64| seen(name, "bytes", description, bytes as f64);
        let count = |name, description, count: u64| seen(name, "", description, count as f64);
        vec![
            bytes("storage_bytes", "Size of the database file", storage.file_bytes),
            bytes("storage_log_bytes", "Size of the write-ahead log", storage.wal_bytes),
            count("storage_blocks", "Stored blocks", storage.blocks),
            count("storage_damaged_blocks", "Blocks put aside as damaged", storage.quarantined),
            count("pending_folds", "Folds that are not committed yet", status.pending_folds),
        ]
    }

    fn record(&self, figures: &[Figure]) {
        let labels: Vec<BTreeMap<String, String>> =
            figures.iter().map(|figure| labels(figure.label.as_ref())).collect();
        let samples = figures.iter().zip(&labels).map(|(figure, labels)| Plain {
            source: Source {
                component: COMPONENT,
                name: figure.name,
                labels,
                unit: figure.unit,
                description: figure.description,
            },
            value: Some(figure.value),
            time: None,
        });
        match self.engine.record(samples) {
            Ok(receipt) => {
                for rejection in receipt.rejections {
                    tracing::warn!(rejection.message, "a system metric was refused");
                }
            }
            Err(error) => tracing::debug!(%error, "a sample of the system metrics was left out"),
        }
    }
}

fn labels(label: Option<&(&'static str, String)>) -> BTreeMap<String, String> {
    label.map(|(name, value)| ((*name).to_owned(), value.clone())).into_iter().collect()
}

fn seen(name: &'static str, unit: &'static str, description: &'static str, value: f64) -> Figure {
    Figure { name, unit, description, label: None, value: Value::Observation(value) }
}

fn grew(name: &'static str, unit: &'static str, description: &'static str, by: u64) -> Figure {
    Figure { value: Value::Increment(by as f64), ..seen(name, unit, description, 0.0) }
}

impl Figure {
    fn of(self, label: &'static str, value: &str) -> Self {
        // What a platform calls a disk may hold anything; a label value may not.
        let value = value.chars().filter(|c| !c.is_control()).collect();
        Self { label: Some((label, value)), ..self }
    }
}

/// What sysinfo has seen so far: its deltas are against the look before.
struct Look {
    system: System,
    disks: Option<Disks>,
    networks: Option<Networks>,
    pid: Option<sysinfo::Pid>,
    /// When the process was looked at before, and the CPU time that it had spent by then, in ms.
    spent: Option<(std::time::Instant, u64)>,
}

impl Look {
    fn first() -> Result<Self, String> {
        let system = System::new().map_err(|error| format!("{error:?}"))?;
        let mut look = Self {
            system,
            disks: Disks::new_with_refreshed_list().ok(),
            networks: Networks::new_with_refreshed_list().ok(),
            pid: sysinfo::get_current_pid().ok(),
            spent: None,
        };
        look.refresh();
        look.process(&mut Vec::new());
        Ok(look)
    }

    fn refresh(&mut self) {
        self.system.refresh_cpu_usage();
        self.system.refresh_memory();
        if let Some(pid) = self.pid {
            let kind = ProcessRefreshKind::nothing().with_cpu().with_memory();
            self.system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), false, kind);
        }
        if let Some(disks) = &mut self.disks {
            disks.refresh(true);
        }
        if let Some(networks) = &mut self.networks {
            networks.refresh(true);
        }
    }

    fn again(&mut self) -> Vec<Figure> {
        self.refresh();
        let mut figures = Vec::new();
        self.process(&mut figures);
        self.host(&mut figures);
        self.disks(&mut figures);
        self.networks(&mut figures);
        figures
    }

    fn process(&mut self, figures: &mut Vec<Figure>) {
        let Some(process) = self.pid.and_then(|pid| self.system.process(pid)) else { return };
        let memory = process.memory() as f64;
        figures.push(seen("memory_bytes", "bytes", "Resident memory of the service", memory));
        // Not the library's own figure: that is 0 as long as the process is young.
        let now = (std::time::Instant::now(), process.accumulated_cpu_time());
        if let Some((when, spent)) = self.spent.replace(now) {
            let elapsed_ms = (now.0 - when).as_secs_f64() * 1000.0;
            let cpu = 100.0 * now.1.saturating_sub(spent) as f64 / elapsed_ms.max(1.0);
            figures.push(seen(
                "cpu_percent",
                "percent",
                "CPU of the service; 100 is one core",
                cpu,
            ));
        }
    }

    fn host(&self, figures: &mut Vec<Figure>) {
        let system = &self.system;
        if !system.cpus().is_empty() {
            let cpu = f64::from(system.global_cpu_usage());
            figures.push(seen("host_cpu_percent", "percent", "CPU of the host; 100 is all", cpu));
        }
        if system.total_memory() > 0 {
            let memory =
                |name, description, bytes: u64| seen(name, "bytes", description, bytes as f64);
            figures.extend([
                memory("host_memory_total_bytes", "Memory of the host", system.total_memory()),
                memory("host_memory_used_bytes", "Memory in use", system.used_memory()),
                memory(
                    "host_memory_available_bytes",
                    "Memory that can be had without swapping",
                    system.available_memory(),
                ),
                memory("host_swap_used_bytes", "Swap space in use", system.used_swap()),
            ]);
        }
        if let Ok(load) = System::load_average() {
            let description = "Load average of the host";
            figures.extend([
                seen("host_load1", "", description, load.one),
                seen("host_load5", "", description, load.five),
                seen("host_load15", "", description, load.fifteen),
            ]);
        }
    }

    fn disks(&self, figures: &mut Vec<Figure>) {
        let disks = self.disks.iter().flat_map(|disks| disks.iter());
        for disk in disks.filter(|disk| disk.total_space() > 0) {
            let mount = disk.mount_point().to_string_lossy();
            let space = [
                ("host_disk_total_bytes", "Size of the file system", disk.total_space()),
                ("host_disk_available_bytes", "Space that can be used", disk.available_space()),
            ];
            figures.extend(space.map(|(name, description, bytes)| {
                seen(name, "bytes", description, bytes as f64).of("mount", &mount)
            }));
            let usage = disk.usage();
            let moved = [
                ("host_disk_read_bytes", "Read from the disk", usage.read_bytes),
                ("host_disk_written_bytes", "Written to the disk", usage.written_bytes),
            ];
            figures.extend(moved.map(|(name, description, bytes)| {
                grew(name, "bytes", description, bytes).of("mount", &mount)
            }));
        }
    }

    fn networks(&self, figures: &mut Vec<Figure>) {
        for (interface, network) in self.networks.iter().flatten() {
            let interface = interface.to_string_lossy();
            let moved = [
                ("host_network_received_bytes", "Received", "bytes", network.received()),
                ("host_network_sent_bytes", "Sent", "bytes", network.transmitted()),
                (
                    "host_network_receive_errors",
                    "Packets that could not be received",
                    "",
                    network.errors_on_received(),
                ),
                (
                    "host_network_send_errors",
                    "Packets that could not be sent",
                    "",
                    network.errors_on_transmitted(),
                ),
            ];
            figures.extend(moved.map(|(name, description, unit, by)| {
                grew(name, unit, description, by).of("interface", &interface)
            }));
        }
    }
}

#[cfg(test)]
#[path = "collect_tests.rs"]
mod tests;
