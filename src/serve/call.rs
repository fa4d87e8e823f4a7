//! What surrounds every call: its deadline, whether answers are compressed, and statuses put right.
//!
//! The transport under this answers a passed deadline with CANCELLED. It starts its timer after this
//! layer has started its own and asks this layer first, which goes by the clock; so it never comes to that.

use super::status;
use axum::body::Body;
use axum::response::IntoResponse;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tonic::{Code, Status};
use tower::Service;

/// When the caller stops waiting. Among the extensions of a request that has one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline(pub(super) Instant);

impl Deadline {
    /// That of a request, if it has one.
    pub(super) fn of<T>(request: &tonic::Request<T>) -> Option<Instant> {
        request.extensions().get::<Self>().map(|deadline| deadline.0)
    }

    /// Waits until it has passed; for ever if there is none.
    pub(super) async fn passed(deadline: Option<Instant>) {
        match deadline {
            Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
            None => std::future::pending().await,
        }
    }
}

#[derive(Clone)]
pub(super) struct Calls<S> {
    inner: S,
    max_message_bytes: usize,
}

impl<S> Calls<S> {
    pub(super) const fn new(inner: S, max_message_bytes: usize) -> Self {
        Self { inner, max_message_bytes }
    }
}

impl<S> Service<Request<Body>> for Calls<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        // Read here and not in the future below: the transport's timer starts when this returns.
        let deadline = timeout(request.headers()).map(|timeout| Instant::now() + timeout);
        if let Some(deadline) = deadline {
            request.extensions_mut().insert(Deadline(deadline));
        }
        if likes_plain(request.headers()) {
            request.headers_mut().remove(ACCEPT_ENCODING);
        }
        let path = request.uri().clone();
        let (answer, max) = (self.inner.call(request), self.max_message_bytes);
        Box::pin(async move {
            let answer = match deadline {
                None => answer.await?,
                Some(deadline) => tokio::select! {
                    biased;
                    answer = answer => answer?,
                    () = passed(deadline) => return Ok(status::timed_out().into_http()),
                },
            };
            Ok(corrected(answer, max, path.path()))
        })
    }
}

/// Waits until the deadline has passed by the clock, whether its timer has been looked at or not: of two
/// timers that are due, the transport's may be first.
async fn passed(deadline: Instant) {
    let timer = tokio::time::sleep_until(deadline.into());
    tokio::pin!(timer);
    std::future::poll_fn(|context| match timer.as_mut().poll(context) {
        Poll::Pending if Instant::now() < deadline => Poll::Pending,
        _ => Poll::Ready(()),
    })
    .await;
}

/// A call that failed before its first message carries its status among the headers.
fn corrected(answer: Response<Body>, max_message_bytes: usize, path: &str) -> Response<Body> {
    match Status::from_header_map(answer.headers()) {
        Some(status) if status.code() == Code::Unimplemented && status.message().is_empty() => {
            status::unknown_method(path).into_http()
        }
        Some(status) if status.code() != Code::Ok => {
            status::of_transport(status, max_message_bytes).into_http()
        }
        _ => answer,
    }
}

/// What gRPC calls the encodings of an answer and of a request.
const ACCEPT_ENCODING: &str = "grpc-accept-encoding";
const ENCODING: &str = "grpc-encoding";

/// Whether answers are better not compressed: the caller names `identity` first and sends no
/// compressed messages itself. So do Python's and Node's clients unless they are told otherwise, and
/// on a near network compression takes longer than all the rest of a call.
fn likes_plain(headers: &HeaderMap<HeaderValue>) -> bool {
    let plain = |value: &HeaderValue| value.as_bytes().starts_with(b"identity");
    headers.get(ENCODING).is_none_or(plain) && headers.get(ACCEPT_ENCODING).is_some_and(plain)
}

/// The time that the caller gives the call: up to 8 digits and a unit, as gRPC over HTTP/2 has it
/// (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).
fn timeout(headers: &HeaderMap<HeaderValue>) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if number.len() > 8 || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = number.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

/// Answers what no service takes: a gRPC client in its own way, anybody else with a 404.
pub(super) async fn unknown(request: Request<Body>) -> Response<Body> {
    let content = request.headers().get(header::CONTENT_TYPE);
    if content.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc")) {
        return status::unknown_method(request.uri().path()).into_http();
    }
    (StatusCode::NOT_FOUND, "healthd speaks gRPC on this port.\n").into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_read_in_every_unit_and_nonsense_is_none() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().unwrap());
            timeout(&headers)
        };
        assert_eq!(read("2H"), Some(Duration::from_hours(2)));
        assert_eq!(read("3M"), Some(Duration::from_mins(3)));
        assert_eq!(read("4S"), Some(Duration::from_secs(4)));
        assert_eq!(read("5m"), Some(Duration::from_millis(5)));
        assert_eq!(read("6u"), Some(Duration::from_micros(6)));
        assert_eq!(read("99999999n"), Some(Duration::from_nanos(99_999_999)));
        for nonsense in ["", "S", "1", "1x", "-1S", "123456789S", "+1S"] {
            assert_eq!(read(nonsense), None, "{nonsense:?}");
        }
    }

    #[test]
    fn answers_are_plain_for_who_names_that_first_and_sends_so() {
        let plain = |accepts: &str, sends: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_ENCODING, accepts.parse().unwrap());
            if let Some(sends) = sends {
                headers.insert(ENCODING, sends.parse().unwrap());
            }
            likes_plain(&headers)
        };
        assert!(plain("identity, deflate, gzip", None));
        assert!(plain("identity,gzip", Some("identity")));
        assert!(!plain("identity, deflate, gzip", Some("gzip")));
        assert!(!plain("gzip,identity", None));
        assert!(!likes_plain(&HeaderMap::new()), "there is nothing to take away");
    }
}
