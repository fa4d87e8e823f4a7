//! Ends the streams of the standard services (health Watch, reflection) when the server stops.
//!
//! They know nothing of a stop and would hold it up for as long as their clients like. Our own
//! services end their streams themselves, with a last answer.

use axum::body::{Body, Bytes};
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tower::Service;

/// Knows when to stop.
#[derive(Clone)]
pub(super) struct Draining {
    stop: CancellationToken,
}

impl Draining {
    pub(super) const fn new(stop: CancellationToken) -> Self {
        Self { stop }
    }

    /// Puts itself around a service.
    pub(super) fn around<S>(self, inner: S) -> Drained<S> {
        Drained { inner, draining: self }
    }
}

#[derive(Clone)]
pub(super) struct Drained<S> {
    inner: S,
    draining: Draining,
}

impl<S> Service<Request<Body>> for Drained<S>
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

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let standard = request.uri().path().starts_with("/grpc.");
        if !standard {
            return Box::pin(self.inner.call(request));
        }
        let stop = self.draining.stop.clone();
        // Both ways: a service that reflects goes on as long as it is asked.
        let answer = self.inner.call(request.map(|body| until(body, &stop, None)));
        Box::pin(async move {
            let status = tonic::Status::from(crate::engine::Error::Stopping);
            Ok(answer.await?.map(|body| until(body, &stop, Some(status))))
        })
    }
}

/// The body, ended when the server stops, with the status if there is one.
fn until(body: Body, stop: &CancellationToken, status: Option<tonic::Status>) -> Body {
    let stopped = Box::pin(stop.clone().cancelled_owned());
    Body::new(Until { body: Some(body), stopped, status })
}

struct Until {
    body: Option<Body>,
    stopped: Pin<Box<WaitForCancellationFutureOwned>>,
    status: Option<tonic::Status>,
}

impl http_body::Body for Until {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        if let ready @ Poll::Ready(_) = Pin::new(body).poll_frame(context) {
            return ready;
        }
        std::task::ready!(self.stopped.as_mut().poll(context));
        self.body = None;
        let mut trailers = http::HeaderMap::new();
        match self.status.take().map(|status| status.add_header(&mut trailers)) {
            Some(Ok(())) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            Some(Err(_)) | None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        // Less may come than the body has.
        SizeHint::default()
    }
}
