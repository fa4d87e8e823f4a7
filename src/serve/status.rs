//! The one mapping of errors to gRPC statuses, with details that a program can read.
//!
//! The client gets the kind, the field and what to do; the cause of what is the server's own fault
//! goes to the log.

use crate::engine::Error;
use std::collections::HashMap;
use std::fmt::Display;
use std::time::Duration;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// Of ErrorInfo: who names the reasons.
const DOMAIN: &str = "healthd";
/// When to try again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let text = error.to_string();
        match error {
            Error::Invalid { field, message } => invalid(field, message),
            Error::NotFound(_) => with(Code::NotFound, text, "NOT_FOUND", None),
            Error::Overloaded => {
                with(Code::ResourceExhausted, text, "PENDING_FULL", Some(RETRY_AFTER))
            }
            Error::Deadline => with(Code::DeadlineExceeded, text, "DEADLINE", None),
            Error::Changed => with(Code::Aborted, text, "CHANGED", Some(RETRY_AFTER)),
            Error::Fenced { epoch, .. } => {
                session(Code::Aborted, text, "FENCED", &[("epoch", &epoch)])
            }
            Error::SequenceGap { expected, .. } => {
                session(Code::OutOfRange, text, "SEQUENCE_GAP", &[("expected", &expected)])
            }
            Error::SessionUnknown { incarnation, .. } => {
                let details: Details<'_> = &[("incarnation", &incarnation)];
                session(Code::FailedPrecondition, text, "SESSION_UNKNOWN", details)
            }
            Error::SessionForgotten { incarnation, ttl, .. } => {
                let details: Details<'_> =
                    &[("incarnation", &incarnation), ("ttl_seconds", &ttl.as_secs())];
                session(Code::FailedPrecondition, text, "SESSION_FORGOTTEN", details)
            }
            Error::TooManySessions(_) => {
                with(Code::ResourceExhausted, text, "TOO_MANY_SESSIONS", None)
            }
            Error::NoRoom(_) => with(Code::ResourceExhausted, text, "NO_ROOM", None),
            Error::Shelf(_) => {
                with(Code::Unavailable, text, "BACKUPS_UNAVAILABLE", Some(RETRY_AFTER))
            }
            Error::BadBackup(_) => with(Code::DataLoss, text, "BACKUP_DAMAGED", None),
            Error::Off(_) => with(Code::FailedPrecondition, text, "OFF", None),
            Error::Stopping => with(Code::Unavailable, text, "STOPPING", Some(RETRY_AFTER)),
            Error::ReadOnly(_) => with(Code::Unavailable, text, "READ_ONLY", None),
            Error::Unavailable(cause) => {
                tracing::warn!(cause, "a call failed because the storage does not work");
                let text = "the storage does not answer; try again, and see AdminService.GetStatus";
                with(Code::Unavailable, text, "STORAGE_UNAVAILABLE", Some(RETRY_AFTER))
            }
            Error::Corrupt(cause) => {
                tracing::error!(cause, "a call failed because what is stored is damaged");
                let text = "what is stored is damaged; see the server's log";
                with(Code::DataLoss, text, "STORAGE_CORRUPT", None)
            }
        }
    }
}

/// INVALID_ARGUMENT with the field.
pub(super) fn invalid(field: &str, message: String) -> Status {
    let message = bounded(message);
    let mut details = ErrorDetails::with_bad_request_violation(field, &message);
    details.set_error_info("INVALID_FIELD", DOMAIN, []);
    Status::with_error_details(Code::InvalidArgument, format!("{field}: {message}"), details)
}

/// What a header can hold: errors may tell of what was sent.
fn bounded(message: String) -> String {
    const MAX_CHARS: usize = 1000;
    match message.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{}...", &message[..end]),
        None => message,
    }
}

fn with(code: Code, message: impl Into<String>, reason: &str, retry: Option<Duration>) -> Status {
    let message = bounded(message.into());
    let mut details = ErrorDetails::with_error_info(reason, DOMAIN, []);
    if retry.is_some() {
        details.set_retry_info(retry);
    }
    Status::with_error_details(code, message, details)
}

type Details<'a> = &'a [(&'a str, &'a dyn Display)];

/// What a session does not take, with what a client needs to go on.
fn session(code: Code, message: String, reason: &str, details: Details<'_>) -> Status {
    let details = details.iter().map(|(name, value)| ((*name).to_owned(), value.to_string()));
    let details: HashMap<String, String> = details.collect();
    let details = ErrorDetails::with_error_info(reason, DOMAIN, details);
    Status::with_error_details(code, message, details)
}

/// DEADLINE_EXCEEDED for a call whose own time ran out.
pub(super) fn timed_out() -> Status {
    with(Code::DeadlineExceeded, "the call's deadline passed", "DEADLINE", None)
}

/// RESOURCE_EXHAUSTED for a question for which there is no turn.
pub(super) fn too_many_answers(most: usize) -> Status {
    let text = format!(
        "{most} long answers are being sent, as many as HEALTH_MAX_ANSWERS allows; ask again"
    );
    with(Code::ResourceExhausted, text, "TOO_MANY_ANSWERS", Some(RETRY_AFTER))
}

/// RESOURCE_EXHAUSTED for a watch beyond the limit.
pub(super) fn too_many_watches(most: usize) -> Status {
    let text = format!("{most} clients are watching, as many as HEALTH_MAX_WATCHES allows");
    with(Code::ResourceExhausted, text, "TOO_MANY_WATCHES", Some(RETRY_AFTER))
}

/// UNIMPLEMENTED for a method that there is not.
pub(super) fn unknown_method(path: &str) -> Status {
    let text = format!("{path}: there is no such method; server reflection lists those there are");
    with(Code::Unimplemented, text, "UNKNOWN_METHOD", None)
}

/// Puts right what the transport says of a message that it could not take. It calls an oversized
/// one OUT_OF_RANGE, which clients of other servers retry, and one that is not the message INTERNAL,
/// which blames the server.
pub(super) fn of_transport(status: Status, max_message_bytes: usize) -> Status {
    let text = status.message();
    match status.code() {
        Code::OutOfRange | Code::ResourceExhausted if is_oversized(text) => {
            let text = format!(
                "the message is larger than the {max_message_bytes} bytes that \
                 HEALTH_MAX_MESSAGE_BYTES allows; send it in parts"
            );
            let mut details = ErrorDetails::with_error_info("MESSAGE_TOO_LARGE", DOMAIN, []);
            details.add_quota_failure_violation("HEALTH_MAX_MESSAGE_BYTES", &text);
            Status::with_error_details(Code::ResourceExhausted, text, details)
        }
        Code::Internal if is_malformed(text) => malformed(text),
        _ => status,
    }
}

/// INVALID_ARGUMENT for a message that is not what the method takes.
pub(super) fn malformed(why: &str) -> Status {
    let text = format!("the message cannot be read as what the method takes: {why}");
    let mut details = ErrorDetails::with_error_info("MALFORMED_MESSAGE", DOMAIN, []);
    details.add_bad_request_violation("", &text);
    Status::with_error_details(Code::InvalidArgument, text, details)
}

fn is_oversized(text: &str) -> bool {
    text.contains("message length too large") || text.contains("decompressing: size limit")
}

fn is_malformed(text: &str) -> bool {
    ["failed to decode Protobuf", "protocol error: received message", "Error decompressing"]
        .iter()
        .any(|part| text.contains(part))
}
