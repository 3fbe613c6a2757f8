//! Late: a reply that is still waited for, though its client has been answered with 200 -> comments, then the reply.
//!
//! Clients and the proxies before them give up on a stream that stays silent. A comment keeps them there and says
//! nothing; what goes wrong from here on can only be told by the API's error event.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::reply::{BoxError, ReplyBody};

/// How long a held request stays silent, and how often it is told that it still waits.
pub const SILENT_FOR: Duration = Duration::from_secs(5);
pub const COMMENT: &[u8] = b": waiting\n\n";

/// The reply, or how the stream ends without one.
pub type Awaited = Pin<Box<dyn Future<Output = Result<ReplyBody, Bytes>> + Send>>;

pub struct LateBody {
    stage: Stage,
}

enum Stage {
    Waiting(Awaited, Interval),
    Replying(Box<ReplyBody>),
    Over,
}

impl LateBody {
    pub fn new(awaited: Awaited) -> Self {
        let mut comments = tokio::time::interval_at(Instant::now(), SILENT_FOR);
        comments.set_missed_tick_behavior(MissedTickBehavior::Delay);
        LateBody { stage: Stage::Waiting(awaited, comments) }
    }
}

impl http_body::Body for LateBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        loop {
            match &mut this.stage {
                Stage::Over => return Poll::Ready(None),
                Stage::Replying(reply) => return Pin::new(reply.as_mut()).poll_frame(cx),
                Stage::Waiting(awaited, comments) => match awaited.as_mut().poll(cx) {
                    Poll::Ready(Ok(reply)) => this.stage = Stage::Replying(Box::new(reply)),
                    Poll::Ready(Err(ending)) => {
                        this.stage = Stage::Over;
                        return Poll::Ready(Some(Ok(Frame::data(ending))));
                    }
                    Poll::Pending => {
                        return comments.poll_tick(cx).map(|_| Some(Ok(Frame::data(Bytes::from_static(COMMENT)))));
                    }
                },
            }
        }
    }
}
