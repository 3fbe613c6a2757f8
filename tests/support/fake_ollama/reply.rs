//! A reply under way: a lease and a prompt -> tokens at the model's pace, as a stream of frames or as a whole.

use super::sched::Lease;
use super::tokens::{decode, json_token, reply_token};
use axum::body::{Body, Bytes};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Everything that decides what a reply will be.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    /// Tokens of this reply that an earlier one already gave (an assistant message left open).
    pub(crate) skip: usize,
    pub(crate) tokens: usize,
    pub(crate) reason: &'static str,
    pub(crate) json: bool,
    pub(crate) prompt: Vec<u32>,
    pub(crate) prompt_count: usize,
    pub(crate) prompt_time: Duration,
    pub(crate) token_time: Duration,
    pub(crate) loops_after: Option<usize>,
}

/// One step of a reply.
#[derive(Debug)]
pub(crate) enum Piece {
    Token { index: usize, text: String },
    Done(Done),
}

/// The numbers of the last frame.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) reason: &'static str,
    pub(crate) context: Vec<u32>,
    pub(crate) total: Duration,
    pub(crate) load: Duration,
    pub(crate) prompt_count: usize,
    pub(crate) prompt_time: Duration,
    pub(crate) count: usize,
    pub(crate) time: Duration,
}

#[derive(Debug)]
pub(crate) struct Reply {
    lease: Lease,
    plan: Plan,
    began: Instant,
    given: Vec<u32>,
    over: bool,
}

impl Reply {
    pub(crate) fn begin(lease: Lease, plan: Plan) -> Self {
        let given = Vec::with_capacity(plan.tokens);
        Self { lease, plan, began: Instant::now(), given, over: false }
    }

    /// The next piece, when it is due; `None` when the reply is over, which the loop trap brings without `Done`.
    pub(crate) async fn next(&mut self) -> Option<Piece> {
        let index = self.given.len();
        if self.over || self.plan.loops_after.is_some_and(|limit| index >= limit) {
            return None;
        }
        if index == self.plan.tokens {
            self.over = true;
            return Some(Piece::Done(self.done()));
        }
        let nth = u32::try_from(index + 1).expect("a reply is shorter than 2^32 tokens");
        sleep_until(self.began + self.plan.prompt_time + self.plan.token_time * nth).await;
        let token =
            if self.plan.json { json_token(index) } else { reply_token(self.plan.seed, self.plan.skip + index) };
        self.given.push(token);
        Some(Piece::Token { index, text: decode(token) })
    }

    fn done(&self) -> Done {
        let time = self.began.elapsed();
        Done {
            reason: self.plan.reason,
            context: [self.plan.prompt.as_slice(), &self.given].concat(),
            total: self.lease.waited + time,
            load: self.lease.waited,
            prompt_count: self.plan.prompt_count,
            prompt_time: self.plan.prompt_time,
            count: self.given.len(),
            time: time.saturating_sub(self.plan.prompt_time),
        }
    }

    /// All of it at once; the model is let go before the answer is sent.
    pub(crate) async fn whole(mut self) -> (String, Option<Done>) {
        let mut text = String::new();
        let mut end = None;
        while let Some(piece) = self.next().await {
            match piece {
                Piece::Token { text: token, .. } => text.push_str(&token),
                Piece::Done(done) => end = Some(done),
            }
        }
        (text, end)
    }

    /// A body that sends each frame by itself. Dropped with its connection, it lets the model go.
    pub(crate) fn stream(self, render: impl FnMut(Piece) -> Vec<String> + Send + 'static) -> Body {
        let state = (self, render, VecDeque::new());
        Body::from_stream(futures_util::stream::unfold(state, |(mut reply, mut render, mut frames)| async move {
            while frames.is_empty() {
                frames.extend(render(reply.next().await?));
            }
            let frame: String = frames.pop_front()?;
            Some((Ok::<_, Infallible>(Bytes::from(frame)), (reply, render, frames)))
        }))
    }
}
