//! Connection: one socket to the server -> what comes on it, in a buffer that is used again when nobody has any of it left.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio_util::io::poll_read_buf;

/// How much is read at once: as little as most answers have, and more while all of it is filled.
const ROOM_MIN: usize = 4 << 10;
const ROOM_MAX: usize = 64 << 10;
/// A larger buffer is not kept by a connection that waits: there may be a thousand of them.
const KEPT_MAX: usize = 8 << 10;

pub struct Connection {
    stream: TcpStream,
    room: usize,
    buffer: BytesMut,
}

/// A request on its way out.
pub struct Sending {
    head: Bytes,
    body: Bytes,
}

impl Connection {
    pub fn new(stream: TcpStream) -> Self {
        Connection { stream, room: ROOM_MIN, buffer: BytesMut::new() }
    }

    /// What is there now, and nothing at the end of it.
    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<BytesMut>> {
        // Only then is room made.
        ready!(self.stream.poll_read_ready(cx))?;
        self.buffer.reserve(self.room);
        let room = self.buffer.capacity();
        let read = ready!(poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.buffer))?;
        if read == room {
            self.room = (2 * self.room).min(ROOM_MAX);
        } else if read < self.room / 4 {
            // Whoever keeps a little of it keeps all of it.
            self.room = (self.room / 2).max(ROOM_MIN);
        }
        let bytes = self.buffer.split();
        if room > KEPT_MAX {
            self.buffer = BytesMut::new();
        }
        Poll::Ready(Ok(bytes))
    }

    /// Whether nothing is known to have come since the last answer, not even the end: it can be asked once more.
    pub fn is_quiet(&self) -> bool {
        matches!(self.stream.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

impl Sending {
    pub fn new(head: Bytes, body: Bytes) -> Self {
        Sending { head, body }
    }

    /// Ready when all of it is on its way.
    pub fn poll(&mut self, connection: &mut Connection, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.head.has_remaining() || self.body.has_remaining() {
            let parts = [io::IoSlice::new(&self.head), io::IoSlice::new(&self.body)];
            let written = ready!(Pin::new(&mut connection.stream).poll_write_vectored(cx, &parts))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_head = written.min(self.head.len());
            self.head.advance(of_head);
            self.body.advance(written - of_head);
        }
        Poll::Ready(Ok(()))
    }
}
