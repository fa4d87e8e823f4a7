//! Answers without an end in sight: files and watches.
//!
//! Such an answer may take longer than others do. A client that is gone, a stop or the call's own
//! deadline end it, and the last two tell so.

use super::call::Deadline;
use crate::engine::Error;
use std::time::Instant;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// Carries an answer to its end; `turn` is the right to do so.
pub(super) async fn carry<T>(
    sending: impl Future<Output = Result<(), Error>>,
    turn: impl Send,
    answers: mpsc::Sender<Result<T, Status>>,
    stop: CancellationToken,
    deadline: Option<Instant>,
) {
    let result = tokio::select! {
        result = sending => result,
        () = answers.closed() => return,
        () = stop.cancelled() => Err(Error::Stopping),
        () = Deadline::passed(deadline) => Err(Error::Deadline),
    };
    drop(turn);
    if let Err(error) = result {
        drop(answers.send(Err(error.into())).await);
    }
}
