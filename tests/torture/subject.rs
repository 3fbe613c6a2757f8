//! Subject: a gateway that is tortured, ours or another -> how it is switched, and what is seen of it.

use std::time::Duration;

use tokio::time::Instant;

use super::bench::{Bench, LADDER};
use super::client::Clients;
use super::other::Other;

pub enum Subject<'a> {
    Ours(&'a mut Bench),
    Other(&'a mut Other),
}

impl Subject<'_> {
    /// The names of its rungs, the one it begins with first.
    pub fn rungs(&self) -> Vec<String> {
        match self {
            Subject::Ours(_) => LADDER.map(|(rung, _)| rung.to_owned()).to_vec(),
            Subject::Other(other) => other.order.clone(),
        }
    }

    /// Has it switch, and waits until it has. From when the rung served.
    pub async fn switch(&mut self, clients: &Clients, rung: &str, limit: Duration) -> Result<Instant, String> {
        match self {
            Subject::Ours(bench) => {
                bench.pin(rung).await?;
                bench.reach(clients, rung, limit).await
            }
            Subject::Other(other) => other.switch(clients, rung).await,
        }
    }

    pub async fn reach(&mut self, clients: &Clients, rung: &str, limit: Duration) -> Result<Instant, String> {
        match self {
            Subject::Ours(bench) => bench.reach(clients, rung, limit).await,
            Subject::Other(other) => other.reach(clients, rung).await,
        }
    }

    /// The model server behind it, where it is known.
    pub fn server(&self) -> Option<String> {
        match self {
            Subject::Ours(bench) => Some(bench.server.url.clone()),
            Subject::Other(_) => None,
        }
    }

    pub fn thrown_out(&self) -> Result<usize, String> {
        match self {
            Subject::Ours(bench) => bench.server.thrown_out(),
            Subject::Other(_) => Ok(0),
        }
    }

    pub fn check(&mut self) -> Result<(), String> {
        match self {
            Subject::Ours(bench) => bench.check(),
            Subject::Other(other) => other.check(),
        }
    }
}
