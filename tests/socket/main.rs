//! The service from outside: real sockets, the generated client, the real binary, other languages.
//!
//! Every server is its own, on a port that it picks, and ends with its test. What every backend must
//! do runs on both.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod answers;
mod backup;
mod bad_input;
mod bounds;
mod clients;
mod commands;
mod damage;
mod defects;
mod delete;
mod documents;
mod import;
mod ingest;
mod library;
mod outage;
mod process;
mod query;
mod session;
mod slow;
mod sql;
mod stop;
mod support;
mod system;
mod transport;
mod upgrade;
