//! A month of 1,000 series: size, blocks and how long questions take, by day.
//!
//! Every series has a sample each 30 s; days are rolled up to the minute after a week. `cargo bench
//! --bench month` takes some minutes, and prints a line a day.

mod stored;

use model::{Range, Width};
use std::time::Duration;
use stored::{BEGIN, Stored};

/// The service's own allocator, so that the figures are the service's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

#[tokio::main]
async fn main() {
    let measured = std::env::args().any(|word| word == "--bench");
    let (days, series, step) = if measured { (30, 1000, 30) } else { (3, 120, 3600) };
    let mut stored = Stored::new(series, "1s:7d,1m:90d,1h:3y").await;
    say(
        "| day | rows | MB | bytes/sample | blocks | 1 series, 2 h, raw | 100 series, 2 h, by the \
         minute | 1 series, all, by the hour |",
    );
    say("|---|---|---|---|---|---|---|---|");
    let mut rows = 0;
    for day in 0..days {
        let begin = BEGIN.after(DAY * day);
        for hour in 0..24 {
            let start = begin.after(HOUR * hour);
            let times = (0..3600 / step).map(|n| start.after(Duration::from_secs(n * step)));
            rows += 3600 / step * u64::from(series);
            stored.flush(times).await;
            stored.tidy(start.after(HOUR)).await;
        }
        let end = begin.after(DAY);
        stored.tidy(end.after(HOUR + Duration::from_mins(2))).await;
        let status = healthd::storage::Storage::status(&*stored.storage).await.expect("a status");
        let last = Range::new(end.before(HOUR * 2), end);
        let all = Range::new(BEGIN, end);
        let raw = Width::from_secs(step as i64);
        let (minute, hour) = (Width::from_secs(60), Width::from_secs(3600));
        let figures = [
            median(&stored, 1, last, raw).await,
            median(&stored, 100, last, if step > 60 { hour } else { minute }).await,
            median(&stored, 1, all, hour).await,
        ];
        let bytes = (status.file_bytes + status.wal_bytes) as f64;
        say(&format!(
            "| {} | {rows} | {:.2} | {:.3} | {} | {} |",
            day + 1,
            bytes / 1e6,
            bytes / rows as f64,
            status.blocks,
            figures.join(" | "),
        ));
    }
}

/// The middle of several reads, in words.
async fn median(stored: &Stored, series: usize, range: Range, step: Width) -> String {
    let mut times = Vec::new();
    for _ in 0..21 {
        times.push(stored.read(series, range, step).await.1);
    }
    times.sort_unstable();
    format!("{:.2} ms", times[10].as_secs_f64() * 1e3)
}

#[expect(clippy::print_stdout, reason = "the figures are what this program is for")]
fn say(line: &str) {
    println!("{line}");
}
