//! The settings: the sum of what each module may be told. Each is a flag and a HEALTH_ variable.
//!
//! A wrong flag is refused, since somebody has just typed it. A wrong variable is logged and its
//! default used, so that a service which runs unattended starts; if it says what to keep, nothing is
//! dropped until it is mended.

use crate::{collect, engine, serve, storage};
use clap::{ArgMatches, Args, Command, CommandFactory, FromArgMatches, Parser};
use std::ffi::OsString;
use std::time::Duration;

/// What every variable's name begins with.
const PREFIX: &str = "HEALTH_";

/// A metrics service in one binary: counters and rolling metrics over gRPC, kept in one SQLite file.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "healthd",
    version,
    args_override_self = true,
    after_help = "Commands that ask a running service, each with a --help of its own:\n  healthd summary  what is \
                  wrong, since when and where\n  healthd query    functions of series over a range\n  healthd export   \
                  everything of a range into a file\n  healthd import   a file's rows into the service, each \
                  once\n  healthd backup   make, list, try out and remove backups\n  healthd restore  go on from a backup, \
                  while the service is stopped\n  healthd sql      a statement in SQL, also of a file"
)]
#[group(skip)]
pub struct Config {
    /// Keep metrics in a file. With false they are kept in memory and end with the process
    #[arg(
        long,
        default_value_t = true,
        action = clap::ArgAction::Set,
        num_args = 0..=1,
        default_missing_value = "true",
        value_name = "BOOL"
    )]
    pub persistence_enabled: bool,

    #[expect(missing_docs, reason = "clap would show it as a description of the group")]
    #[command(flatten)]
    pub sqlite: storage::sqlite::Config,

    #[expect(missing_docs, reason = "clap would show it as a description of the group")]
    #[command(flatten)]
    pub memory: storage::memory::Config,

    #[expect(missing_docs, reason = "clap would show it as a description of the group")]
    #[command(flatten)]
    pub engine: engine::Config,

    #[expect(missing_docs, reason = "clap would show it as a description of the group")]
    #[command(flatten)]
    pub backup: engine::BackupConfig,

    #[expect(missing_docs, reason = "clap would show it as a description of the group")]
    #[command(flatten)]
    pub serve: serve::Config,

    #[expect(missing_docs, reason = "clap would show it as a description of the group")]
    #[command(flatten)]
    pub collect: collect::Config,

    /// How long a stop may take before it gives up and says what was lost
    #[arg(long, default_value = "10s", value_name = "SPAN", value_parser = model::parse_span)]
    pub stop_timeout: Duration,
}

impl Config {
    /// Reads flags and variables; a flag counts before a variable. Gives what was wrong with the
    /// variables too, for the log. Err is what to print and exit with: a wrong flag, or --help.
    pub fn read(
        flags: impl Iterator<Item = OsString>,
        variables: impl Iterator<Item = (OsString, OsString)>,
    ) -> Result<(Self, Vec<String>), clap::Error> {
        let (from_variables, warnings) = read_variables(variables);
        let mut flags = flags;
        // Later flags override earlier ones: so the variables' come first.
        let all = flags.next().into_iter().chain(from_variables).chain(flags);
        let matches: ArgMatches = command().try_get_matches_from(all)?;
        Ok((Self::from_arg_matches(&matches)?, warnings))
    }
}

/// The command line with the variables' names in its help.
fn command() -> Command {
    Config::command().mut_args(|arg| match arg.get_long().map(variable) {
        Some(name) if !is_builtin(arg.get_id().as_str()) => {
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            arg.help(format!("{help} [env: {name}]"))
        }
        _ => arg,
    })
}

fn is_builtin(id: &str) -> bool {
    matches!(id, "help" | "version")
}

fn variable(flag: &str) -> String {
    format!("{PREFIX}{}", flag.to_uppercase().replace('-', "_"))
}

/// The flags that good variables stand for, and what is wrong with the others.
fn read_variables(
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> (Vec<OsString>, Vec<String>) {
    let command = Config::augment_args(Command::new("healthd"));
    let known: Vec<String> =
        command.get_arguments().filter_map(|arg| arg.get_long()).map(str::to_owned).collect();
    let (mut flags, mut warnings, mut held) = (Vec::new(), Vec::new(), false);
    for (name, value) in variables {
        let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) else { continue };
        let Some(long) = known.iter().find(|long| variable(long) == name) else {
            warnings.push(format!("{name} is not a setting; see healthd --help"));
            continue;
        };
        // As environment files have it, an empty one is one that is not set.
        if value.is_empty() {
            continue;
        }
        let mut flag = OsString::from(format!("--{long}="));
        flag.push(&value);
        let alone = [OsString::from("healthd"), flag.clone()];
        match command.clone().try_get_matches_from(alone) {
            Ok(_) => flags.push(flag),
            Err(error) => {
                let (value, why) = (value.display(), first_line(&error));
                let mut instead = "its default is used".to_owned();
                if engine::HOLD_IF_WRONG.contains(&long.as_str()) {
                    instead += ", and nothing is rolled up or dropped for its age";
                    held = true;
                }
                warnings.push(format!("{name}={value} cannot be read, so {instead}: {why}"));
            }
        }
    }
    if held {
        flags.push("--retention-hold=true".into());
    }
    (flags, warnings)
}

fn first_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(flags: &[&str], variables: &[(&str, &str)]) -> (Config, Vec<String>) {
        try_read(flags, variables).unwrap()
    }

    fn try_read(
        flags: &[&str],
        variables: &[(&str, &str)],
    ) -> Result<(Config, Vec<String>), clap::Error> {
        let flags = std::iter::once("healthd").chain(flags.iter().copied()).map(OsString::from);
        let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
        Config::read(flags, variables)
    }

    #[test]
    fn a_flag_counts_before_a_variable_and_a_variable_before_the_default() {
        let variables = [("HEALTH_FLUSH_INTERVAL", "250ms"), ("HEALTH_BATCH_SIZE", "7")];
        let (config, warnings) = read(&["--batch-size", "9"], &variables);
        assert_eq!(config.engine.flush_interval, Duration::from_millis(250));
        assert_eq!(config.engine.batch_size.get(), 9);
        assert_eq!(config.engine.max_series.get(), 1_000_000);
        assert!(warnings.is_empty(), "{warnings:?}");
    }

    #[test]
    fn a_variable_that_cannot_be_read_is_told_and_its_default_used() {
        let variables = [("HEALTH_FLUSH_INTERVAL", "soon"), ("HEALTH_RETENTION", "forever")];
        let (config, warnings) = read(&[], &variables);
        assert_eq!(config.engine.flush_interval, Duration::from_secs(1));
        assert_eq!(config.engine.retention, engine::RetentionSetting::default());
        assert_eq!(warnings.len(), 2);
        assert!(warnings[0].starts_with("HEALTH_FLUSH_INTERVAL=soon cannot be read"));
        assert!(warnings[0].contains("not a span of time"), "{warnings:?}");
    }

    #[test]
    fn what_says_what_to_keep_drops_nothing_when_it_cannot_be_read() {
        for (name, value) in
            [("HEALTH_RETENTION", "7d"), ("HEALTH_RETENTION_FILE", "/no/such/file")]
        {
            let (config, warnings) = read(&[], &[(name, value)]);
            assert!(config.engine.retention_hold, "{name}");
            assert!(warnings[0].contains("nothing is rolled up or dropped"), "{warnings:?}");
        }
        assert!(!read(&[], &[("HEALTH_RETENTION", "1s:7d")]).0.engine.retention_hold);
    }

    #[test]
    fn a_wrong_flag_is_refused() {
        assert!(try_read(&["--flush-interval", "soon"], &[]).is_err());
        assert!(try_read(&["--flush-interval", "0"], &[]).is_err());
        assert!(try_read(&["--no-such-flag"], &[]).is_err());
        for limit in ["batch-size", "max-series", "max-pending-bytes", "max-streams"] {
            assert!(try_read(&[&format!("--{limit}=0")], &[]).is_err(), "{limit} 0 serves nothing");
        }
    }

    #[test]
    fn an_unknown_health_variable_is_warned_of_and_others_are_not_ours() {
        let (_, warnings) = read(&[], &[("HEALTH_FLUSH_INTERVALL", "1s"), ("PATH", "/bin")]);
        assert_eq!(warnings, ["HEALTH_FLUSH_INTERVALL is not a setting; see healthd --help"]);
    }

    #[test]
    fn persistence_is_a_variable_with_a_value_and_a_flag_with_or_without() {
        let off = [("HEALTH_PERSISTENCE_ENABLED", "false")];
        assert!(!read(&[], &off).0.persistence_enabled);
        assert!(read(&["--persistence-enabled"], &off).0.persistence_enabled);
        assert!(!read(&["--persistence-enabled=false"], &[]).0.persistence_enabled);
    }

    #[test]
    fn help_names_every_variable_and_says_the_engines_defaults() {
        let help = command().render_long_help().to_string();
        for name in ["HEALTH_LISTEN", "HEALTH_DB_PATH", "HEALTH_MAX_SERIES", "HEALTH_RETENTION"] {
            assert!(help.contains(&format!("[env: {name}]")), "{name} in {help}");
        }
        let (config, _) = read(&[], &[]);
        assert_eq!(format!("{:?}", config.engine), format!("{:?}", engine::Config::default()));
        Config::command().debug_assert();
    }
}
