//! healthd: counters and rolling metrics in over gRPC, folded in memory, kept in one SQLite file, and
//! answered about. Imports point down these layers only; `tests/tidy.rs` holds the project to it.
//!
//! | layer | module | what it is |
//! |---|---|---|
//! | | `main.rs` | the command line: flags in, exit code out |
//! | 5 | [`app`] | the composition root: build, watch, stop in the order that loses nothing |
//! | 4 | [`console`] | `healthd summary`, `query`, `export`, `import`, `sql`, `backup`, `restore`: the commands that do not serve |
//! | 4 | [`config`] | the sum of each module's own `Config`, from flags and HEALTH_ variables |
//! | 3 | [`serve`] | the doors: gRPC services, one mapping of errors to statuses, the contract |
//! | 3 | [`collect`] | the host's and the process's own metrics, ingested as ordinary series |
//! | 2 | [`engine`] | the verbs: ingest, flush, query, summarise, export, delete, back up; plain values in and out |
//! | 1 | [`state`] | the sharded live state: no I/O, no async |
//! | 1 | [`storage`] | the `Storage` trait and its two backends: memory, sqlite |
//! | 0 | [`canary`] | faults planted on purpose, in a build of their own |
//! | 0 | [`model`] | the nouns, a crate of its own: time, names, series, folds |

pub mod app;
pub mod canary;
pub mod collect;
pub mod config;
pub mod console;
pub mod engine;
pub mod serve;
pub mod state;
pub mod storage;
