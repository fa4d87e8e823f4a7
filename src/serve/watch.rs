//! Watch as a stream: a change is made when there is room for it, so a slow client gets fewer and longer
//! ones, and nothing waits for it.

use super::answers::{functions, grouping, selector, to_group};
use super::convert::{self, to_timestamp};
use super::page::Token;
use super::proto::v1;
use super::summary::{to_finding, to_rule};
use crate::engine::{Change, Error, Watch, Watching};
use model::Timestamp;
use prost::Message;
use tokio::sync::mpsc;
use tonic::Status;

/// What to watch, and what its tokens are bound to.
pub(super) fn watch(mut request: v1::WatchRequest) -> Result<(Watch, Token), Error> {
    let token = std::mem::take(&mut request.resume_token);
    let tokens = Token::new(request.encode_to_vec());
    let from = tokens.read(&token).map_err(|_| Error::Invalid {
        field: "resume_token",
        message:
            "does not go on with this request; send that of its last change with the rest as it \
                  was, or none to begin now"
                .to_owned(),
    })?;
    let interval = request.interval.map(|interval| convert::span("interval", &interval));
    let watch = Watch {
        selector: selector(request.selector)?,
        interval: interval.transpose()?,
        functions: functions(&request.functions)?,
        grouping: grouping(request.group_by),
        max_series: Some(request.max_series),
        max_bytes: Some(request.max_bytes),
        from: from.and_then(|ms| ms.parse().ok()).map(Timestamp::from_ms),
        with_rules: request.rules,
        with_findings: request.findings,
    };
    Ok((watch, tokens))
}

/// Where changes go.
type Answers = mpsc::Sender<Result<v1::WatchResponse, Status>>;

/// Tells changes for as long as somebody takes them.
pub(super) async fn tell(
    mut watching: Watching,
    tokens: Token,
    answers: Answers,
) -> Result<(), Error> {
    // Room first: what comes meanwhile is in the change that is made then.
    while let Ok(room) = answers.reserve().await {
        room.send(Ok(to_change(watching.next().await?, &tokens)));
    }
    Ok(())
}

fn to_change(change: Change, tokens: &Token) -> v1::WatchResponse {
    v1::WatchResponse {
        start: Some(to_timestamp(change.range.start)),
        end: Some(to_timestamp(change.range.end)),
        groups: change.groups.into_iter().map(to_group).collect(),
        omitted: change.omitted,
        rules: change.rules.iter().map(to_rule).collect(),
        findings: change.findings.into_iter().map(to_finding).collect(),
        resume_token: tokens.write(&change.range.end.as_ms().to_string()),
    }
}
