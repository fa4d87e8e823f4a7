//! The command line: flags in, exit code out. `healthd` serves; `healthd summary`, `query`, `export` and
//! `sql` ask, `import` sends, `backup` and `restore` keep copies. 0 after a clean stop, 1 after a failure, 2 for a wrong flag, 130 when a second
//! signal cut the stop short.

use clap::Parser;
use healthd::app::App;
use healthd::config::Config;
use healthd::console;
use healthd::engine::Clock;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().collect();
    if console::Command::is_meant(&words) {
        return ask(console::Command::parse_from(words));
    }
    let (config, warnings) = match Config::read(std::env::args_os(), std::env::vars_os()) {
        Ok(read) => read,
        Err(error) => error.exit(),
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!("no threads to run on: {error}");
            return ExitCode::FAILURE;
        }
    };
    let served = runtime.block_on(serve(config));
    // What is still at work after the stop waits for a disk, and may do so for ever.
    runtime.shutdown_background();
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Asks instead of serving.
fn ask(command: console::Command) -> ExitCode {
    match command.run(&mut std::io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            drop(writeln!(std::io::stderr(), "error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let persistence = if config.persistence_enabled {
        config.sqlite.db_path.display().to_string()
    } else {
        "none".to_owned()
    };
    let app = App::build(config, Clock::system()).await?;
    tracing::info!(address = %app.address(), persistence, "serving");
    let stop = CancellationToken::new();
    let signals = signals(stop.clone())?;
    tokio::pin!(signals);
    let run = app.run(stop);
    tokio::pin!(run);
    tokio::select! {
        result = &mut run => result,
        () = &mut signals => {
            tracing::warn!("a second signal: what is not committed yet is lost");
            std::process::exit(130)
        }
    }
}

/// The signal of a file that grew beyond its limit, on Linux.
const SIGXFSZ: i32 = 25;

/// Cancels the token at the first Ctrl-C or SIGTERM, and ends at the second.
fn signals(stop: CancellationToken) -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    // Beyond a limit on file sizes a write is to fail, as on a full disk, and not to end the process.
    drop(signal(SignalKind::from_raw(SIGXFSZ))?);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        for _ in 0..2 {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if stop.is_cancelled() {
                return;
            }
            stop.cancel();
        }
    })
}
