//! Wire: a request as bytes for the server -> its answer, piece by piece, on connections that are kept.
//!
//! A small HTTP/1.1 client, and not hyper's: there a task beside the reader hands over one chunk each time that it runs, and
//! with a token a chunk that was most of what a stream cost. Here whoever reads a reply reads the socket. What one read
//! brought goes on as one piece, nothing runs beside it, and a reply that waits holds a small buffer at most.

mod body;
mod connection;
mod head;
pub mod incoming;
pub mod pool;

use std::io;

use self::body::Malformed;

/// Why there is no answer, or no more of it.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    #[error("could not connect: {0}")]
    Connect(io::Error),
    #[error("could not connect within {} s", pool::CONNECT_MAX.as_secs())]
    ConnectSlow,
    #[error("{0}")]
    Connection(#[from] io::Error),
    #[error("the connection was closed before the end")]
    Closed,
    #[error("the answer is no HTTP: {0}")]
    Head(#[from] httparse::Error),
    #[error("the answer changes to another protocol, or there are too many before it")]
    NoAnswer,
    #[error("the answer has more than {} bytes of headers", head::HEAD_MAX)]
    HeadTooLong,
    #[error("the answer is no HTTP: {0}")]
    Body(#[from] Malformed),
}
