//! The client's side of the wire: messages in, bytes out.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::AsyncWrite;

use crate::protocol::error::ErrorFields;
use crate::protocol::frame::{BadLength, HEADER_BYTES, Header};
use crate::transport::buffer::{BUFFER_BYTES, Buffer};
use crate::transport::stream::Stream;

use super::End;
use super::copy_query::CopyWriter;
use super::worker::Worker;

/// A client's socket and what waits to be read and written there.
pub struct Client {
    pub(super) stream: Stream,
    /// Lent by the worker while anything is in it.
    pub(super) inbox: Buffer,
    /// Small answers of the router on their way out.
    pub(super) out: BytesMut,
    /// Bytes at the front of the inbox that belong to the request being answered.
    pub(super) request_bytes: usize,
    /// Bytes of the CopyData message under way that nobody has taken yet; a copy that has failed
    /// leaves them to be passed over.
    pub(super) copy_bytes: usize,
    /// Prints the rows of an answer as COPY does, on their way out.
    pub(super) copy_writer: Option<Box<CopyWriter>>,
    /// How often something has left for the client: what waited before that cannot be taken back.
    pub(super) departures: u64,
    worker: Rc<Worker>,
}

/// How much of a client's further requests is taken in while one is being answered.
const READ_AHEAD_BYTES_MAX: usize = 64 << 10;

impl Client {
    /// `leftover` is what the client sent after its startup, before it was asked.
    pub fn new(stream: Stream, leftover: &[u8], worker: Rc<Worker>) -> Self {
        let mut inbox = Buffer::default();
        if !leftover.is_empty() {
            inbox.extend(leftover);
        }
        Self {
            stream,
            inbox,
            out: BytesMut::new(),
            request_bytes: 0,
            copy_bytes: 0,
            copy_writer: None,
            departures: 0,
            worker,
        }
    }

    /// The header of the next message if all of it is there.
    pub(super) fn next_message(&mut self, bytes_max: usize) -> Result<Option<Header>, End> {
        let left_over = self.copy_bytes.min(self.inbox.len());
        self.inbox.consume(left_over);
        self.copy_bytes -= left_over;
        let Some(header) = Header::parse(self.inbox.filled()).map_err(invalid_length)? else { return Ok(None) };
        if self.inbox.len() >= header.total {
            return Ok(Some(header));
        }
        if header.total > bytes_max {
            let message =
                format!("a message of {} bytes is longer than limits.message_bytes_max ({bytes_max})", header.total);
            return Err(End::Fatal(ErrorFields::fatal("54000", message)));
        }
        Ok(None)
    }

    /// Waits for bytes, unless the client is to leave; holds no buffer while there are none.
    pub(super) async fn read_more_unless(&mut self, is_dismissed: impl Fn(&Context<'_>) -> bool) -> Result<(), End> {
        if self.out.is_empty() && self.out.capacity() > 0 {
            self.out = BytesMut::new();
        }
        poll_fn(|cx| match self.poll_more(cx) {
            Poll::Pending if is_dismissed(cx) => Poll::Ready(Err(dismissed())),
            other => other,
        })
        .await
    }

    /// Waits until the client has gone; what it sends meanwhile is kept.
    pub(super) async fn watch(&mut self) -> End {
        poll_fn(|cx| self.poll_watch(cx)).await
    }

    /// Ready when the client has gone. Its further messages are taken in up to a bound; then its
    /// socket is left alone, and it has to wait.
    pub(super) fn poll_watch(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        while self.inbox.len() < READ_AHEAD_BYTES_MAX {
            match self.poll_some(cx, 1) {
                Poll::Ready(Ok(0)) => return Poll::Ready(End::ClientLeft),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(End::ClientGone(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Pending
    }

    /// Ready when more bytes have come or the client has gone.
    pub(super) fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        let room = self.missing_bytes();
        self.poll_some(cx, room).map(|result| match result {
            Ok(0) => Err(End::ClientLeft),
            Ok(_) => Ok(()),
            Err(error) => Err(End::ClientGone(error)),
        })
    }

    /// Whether the client waits for answers: no further request of it is here.
    pub(super) fn inbox_has_little_more(&self) -> bool {
        self.request_bytes >= self.inbox.len()
    }

    /// Reads once; no buffer is held while nothing comes.
    fn poll_some(&mut self, cx: &mut Context<'_>, room: usize) -> Poll<io::Result<usize>> {
        let Self { stream, inbox, worker, .. } = self;
        if !inbox.is_empty() {
            return inbox.poll_read(cx, stream, room);
        }
        if !inbox.is_unbacked() {
            worker.buffers.give_back(std::mem::take(inbox));
        }
        let mut buffer = worker.buffers.lend();
        let result = buffer.poll_read_more(cx, stream);
        if matches!(result, Poll::Ready(Ok(1..))) {
            *inbox = buffer;
        } else {
            worker.buffers.give_back(buffer);
        }
        result
    }

    /// How many bytes the message that has begun still lacks, at most a buffer's worth beyond what
    /// is held: a length field alone makes nobody allocate.
    fn missing_bytes(&self) -> usize {
        match Header::parse(self.inbox.filled()) {
            Ok(Some(header)) => {
                header.total.saturating_sub(self.inbox.len()).clamp(1, self.inbox.len().max(BUFFER_BYTES))
            }
            _ => HEADER_BYTES,
        }
    }

    /// Writes all that waits.
    pub(super) async fn flush(&mut self) -> Result<(), End> {
        if self.out.is_empty() {
            return Ok(());
        }
        self.departures += 1;
        if let Some(writer) = &mut self.copy_writer {
            let mut printed = BytesMut::new();
            writer.take(&self.out, &mut printed);
            self.out = printed;
        }
        write_all(&mut self.stream, &self.out).await.map_err(End::ClientGone)?;
        self.out.clear();
        Ok(())
    }

    /// Writes these bytes behind all that waits.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), End> {
        if self.copy_writer.is_some() {
            self.out.extend_from_slice(bytes);
            return self.flush().await;
        }
        self.flush().await?;
        write_all(&mut self.stream, bytes).await.map_err(End::ClientGone)
    }
}

/// What a client hears that is asked to leave.
pub(super) fn dismissed() -> End {
    End::Fatal(ErrorFields::fatal("57P01", "terminating connection due to administrator command"))
}

/// A length that no message has: the stream cannot be followed any further.
pub(super) fn invalid_length(bad: BadLength) -> End {
    let message = format!("invalid message length {} of message type {}", bad.length, bad.tag);
    End::Fatal(ErrorFields::fatal("08P01", message))
}

/// Writes all bytes; waits while the peer takes none.
pub(super) async fn write_all(stream: &mut Stream, mut bytes: &[u8]) -> io::Result<()> {
    poll_fn(|cx| {
        while !bytes.is_empty() {
            match Pin::new(&mut *stream).poll_write(cx, bytes) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => bytes = &bytes[n..],
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        if stream.is_tls() { Pin::new(&mut *stream).poll_flush(cx) } else { Poll::Ready(Ok(())) }
    })
    .await
}
