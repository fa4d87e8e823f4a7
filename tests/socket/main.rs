//! The service from outside: real sockets, the generated client, the real binary, other languages.
//!
//! Every server is its own, on a port that it picks, and ends with its test. What every backend must
//! do runs on both.

mod bad_input;
mod clients;
mod defects;
mod ingest;
mod process;
mod query;
mod stop;
mod support;
mod system;
mod transport;
