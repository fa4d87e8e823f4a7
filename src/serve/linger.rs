//! Connections that are closed without cutting off what was just said.
//!
//! A socket that is closed while its peer's bytes are unread is reset, and the peer loses what it had
//! not read yet: a last ack, the end of an answer. So after its own end a connection reads on, and
//! drops what it reads, until the peer has ended too or a moment has passed.

use std::io::Result;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tonic::transport::server::{Connected, TcpConnectInfo};

/// How long the peer has to read and to end.
const MOMENT: Duration = Duration::from_secs(1);

pub(super) struct Lingering {
    stream: TcpStream,
    /// Since its own end: until when it reads on.
    ended: Option<Pin<Box<Sleep>>>,
}

impl Lingering {
    pub(super) const fn new(stream: TcpStream) -> Self {
        Self { stream, ended: None }
    }

    #[cfg(test)]
    pub(super) fn nodelay(&self) -> Result<bool> {
        self.stream.nodelay()
    }
}

impl Connected for Lingering {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Lingering {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Lingering {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[std::io::IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        let Self { stream, ended } = &mut *self;
        if ended.is_none() {
            ready!(Pin::new(&mut *stream).poll_shutdown(context))?;
        }
        let ended = ended.get_or_insert_with(|| Box::pin(tokio::time::sleep(MOMENT)));
        let mut bytes = [0; 4096];
        while ended.as_mut().poll(context).is_pending() {
            let mut buffer = ReadBuf::new(&mut bytes);
            // An error is an end too: there is nobody left to lose anything.
            let read = ready!(Pin::new(&mut *stream).poll_read(context, &mut buffer));
            if read.is_err() || buffer.filled().is_empty() {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;

    async fn pair() -> (TcpStream, Lingering) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (peer, Lingering::new(listener.accept().await.unwrap().0))
    }

    #[tokio::test]
    async fn a_peer_that_still_sends_reads_the_last_word() {
        let (mut peer, mut own) = pair().await;
        peer.write_all(&vec![7; 100_000]).await.unwrap();
        own.write_all(b"the last word").await.unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { own.shutdown().await });
        let mut said = Vec::new();
        peer.read_to_end(&mut said).await.unwrap();
        peer.write_all(b"a window update").await.unwrap();
        assert_eq!(said, b"the last word");
        drop(peer);
        tasks.join_all().await.remove(0).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_never_ends_is_waited_for_a_moment_only() {
        let (_peer, mut own) = pair().await;
        let begun = tokio::time::Instant::now();
        own.shutdown().await.unwrap();
        assert_eq!(begun.elapsed(), MOMENT);
    }
}
