//! Incoming: a request sent on a connection -> its answer's head, and then its body as it comes.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::{Method, Response, StatusCode};
use http_body::Frame;

use super::WireError;
use super::body::Frames;
use super::connection::{Connection, Sending};
use super::head::{self, Head};
use super::pool::Pool;

/// Answers before the answer (RFC 9110, 15.2).
const INTERIM_MAX: u8 = 16;

/// The body of an answer. Whoever polls it reads the socket; dropped before its end it closes the connection.
pub struct Incoming {
    /// Until the body is over.
    connection: Option<Connection>,
    /// What of the request is still to be sent.
    sending: Option<Sending>,
    frames: Frames,
    /// What came together with the head.
    first: BytesMut,
    keeps: bool,
    pool: Arc<Pool>,
}

/// A request that is being sent, until its answer begins.
pub struct Exchange {
    connection: Connection,
    sending: Option<Sending>,
    read: BytesMut,
    /// Answers that only said that the answer would come.
    interim: u8,
}

impl Exchange {
    pub fn new(connection: Connection, sending: Sending) -> Self {
        Exchange { connection, sending: Some(sending), read: BytesMut::new(), interim: 0 }
    }

    /// A server may answer before it has read everything.
    pub async fn answer(mut self, asked: &Method, pool: Arc<Pool>) -> Result<Response<Incoming>, WireError> {
        let head = std::future::poll_fn(|cx| self.poll_head(asked, cx)).await?;
        let Exchange { connection, sending, read, interim: _ } = self;
        let body = Incoming {
            connection: Some(connection),
            sending,
            frames: head.frames,
            first: read,
            keeps: head.keeps,
            pool,
        };
        let mut response = Response::from_parts(head.parts, body);
        response.body_mut().end_if_over(0);
        Ok(response)
    }

    fn poll_head(&mut self, asked: &Method, cx: &mut Context<'_>) -> Poll<Result<Head, WireError>> {
        send(&mut self.sending, &mut self.connection, cx);
        loop {
            while let Some(head) = head::take(&mut self.read, asked)? {
                if !head.parts.status.is_informational() {
                    return Poll::Ready(Ok(head));
                }
                self.interim += 1;
                if head.parts.status == StatusCode::SWITCHING_PROTOCOLS || self.interim > INTERIM_MAX {
                    return Poll::Ready(Err(WireError::NoAnswer));
                }
            }
            let bytes = ready!(self.connection.poll_read(cx))?;
            if bytes.is_empty() {
                return Poll::Ready(Err(WireError::Closed));
            }
            self.read.unsplit(bytes);
        }
    }
}

/// Sends what can be sent now. Where it fails the server's answer says more than the failure.
fn send(sending: &mut Option<Sending>, connection: &mut Connection, cx: &mut Context<'_>) {
    if let Some(Poll::Ready(Ok(()))) = sending.as_mut().map(|sending| sending.poll(connection, cx)) {
        *sending = None;
    }
}

impl Incoming {
    /// Gives the connection back, or closes it.
    fn end_if_over(&mut self, after: usize) {
        if !self.frames.is_over() {
            return;
        }
        let clean = self.keeps && after == 0 && self.sending.is_none() && self.first.is_empty();
        if let Some(connection) = self.connection.take().filter(|_| clean) {
            self.pool.put(connection);
        }
    }

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, WireError>>> {
        loop {
            let Some(connection) = &mut self.connection else { return Poll::Ready(None) };
            send(&mut self.sending, connection, cx);
            let mut bytes = match self.first.is_empty() {
                true => ready!(connection.poll_read(cx))?,
                false => std::mem::take(&mut self.first),
            };
            if bytes.is_empty() {
                self.connection = None;
                return Poll::Ready(match self.frames {
                    Frames::UntilClosed => None,
                    Frames::Length(_) | Frames::Chunks(_) => Some(Err(WireError::Closed)),
                });
            }
            let after = self.frames.unwrap(&mut bytes)?;
            self.end_if_over(after);
            if !bytes.is_empty() {
                return Poll::Ready(Some(Ok(bytes.freeze())));
            }
        }
    }
}

impl http_body::Body for Incoming {
    type Data = Bytes;
    type Error = WireError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, WireError>>> {
        let this = self.get_mut();
        let data = ready!(this.poll_data(cx));
        if let Some(Err(_)) = &data {
            this.connection = None;
        }
        Poll::Ready(data.map(|data| data.map(Frame::data)))
    }
}
