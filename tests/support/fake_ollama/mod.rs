//! An Ollama for tests, in this process: a config -> a server that behaves as the recorded real one, traps included.
//!
//! `tests/fixtures/ollama-0.33.json` is the recording and `ollama_judge` holds the two together. Every handle is
//! about what a test must see or bring about: loads, unloads, requests, a failing load, a dead server.

mod ask;
mod clock;
mod config;
mod create;
mod http;
mod native;
mod openai;
mod others;
mod reply;
mod sched;
mod show;
mod tokens;

pub(crate) mod setup {
    //! What a test names to describe a fake.
    pub(crate) type Config = super::config::FakeConfig;
    pub(crate) type Model = super::config::Model;
}

use config::FakeConfig;
use http::Server;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use sched::{LoadFailure, ModelEvent};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

/// A request as the fake got it.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) body: String,
    pub(crate) at: Instant,
}

/// A running fake. Dropping it stops it.
#[derive(Debug)]
pub(crate) struct FakeOllama {
    pub(crate) addr: SocketAddr,
    server: Arc<Server>,
    process: Option<Process>,
}

#[derive(Debug)]
struct Process {
    stop: oneshot::Sender<()>,
    ended: JoinHandle<()>,
}

impl FakeOllama {
    pub(crate) async fn start(config: FakeConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free local port");
        let addr = listener.local_addr().expect("a bound listener has an address");
        let server = Arc::new(Server::new(config));
        let process = Some(Process::spawn(listener, Arc::clone(&server)));
        Self { addr, server, process }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    /// The server dies: its port is closed, every connection drops where it is, nothing is loaded any more.
    pub(crate) async fn kill(&mut self) {
        if let Some(Process { stop, ended }) = self.process.take() {
            self.server.scheduler.lose_everything();
            drop(stop);
            ended.await.expect("the accept loop does not panic");
            self.server.scheduler.lose_everything();
        }
    }

    /// The server comes up again on the same port, with the same disk and nothing loaded.
    pub(crate) async fn restart(&mut self) {
        self.kill().await;
        let listener = TcpListener::bind(self.addr).await.expect("the port it just left");
        self.process = Some(Process::spawn(listener, Arc::clone(&self.server)));
    }

    /// Loads that came up, oldest first.
    pub(crate) fn loads(&self) -> Vec<ModelEvent> {
        self.server.scheduler.loads()
    }

    /// Unloads that are complete, whoever asked for them; a reload is an unload and a load.
    pub(crate) fn unloads(&self) -> Vec<ModelEvent> {
        self.server.scheduler.unloads()
    }

    /// Loads whose client left before they were up.
    pub(crate) fn aborted_loads(&self) -> Vec<ModelEvent> {
        self.server.scheduler.aborted_loads()
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.server.requests().clone()
    }

    /// The next load answers this status with this text, in the error form of the route that asked.
    pub(crate) fn fail_next_load(&self, status: u16, message: &str) {
        self.server.scheduler.fail_next_load(LoadFailure { status, message: message.into() });
    }

    /// The next `/api/create` answers 500 with this text.
    pub(crate) fn fail_next_create(&self, message: &str) {
        *self.server.create_fails.lock().expect("no holder of this lock panics") = Some(message.into());
    }

    /// The next load never comes up; it ends when its client leaves or the server dies.
    pub(crate) fn hang_next_load(&self) {
        self.server.scheduler.hang_next_load();
    }

    /// From now on `/api/ps` is held up this long while a model loads.
    pub(crate) fn set_ps_delay(&self, delay: Duration) {
        self.server.scheduler.set_ps_delay(delay);
    }

    /// Models that take memory now: loaded, loading or on their way out.
    pub(crate) fn occupied(&self) -> usize {
        self.server.scheduler.occupied()
    }

    /// Resolves when this many models take memory.
    pub(crate) async fn until_occupied(&self, count: usize) {
        self.server.scheduler.wait_for(|scheduler| scheduler.occupied() == count).await;
    }
}

impl Process {
    fn spawn(listener: TcpListener, server: Arc<Server>) -> Self {
        let (stop, stopped) = oneshot::channel();
        Self { stop, ended: tokio::spawn(serve(listener, server, stopped)) }
    }
}

async fn serve(listener: TcpListener, server: Arc<Server>, mut stopped: oneshot::Receiver<()>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                stream.set_nodelay(true).expect("a fresh connection takes options");
                let server = Arc::clone(&server);
                let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                    Arc::clone(&server).answer(request.map(axum::body::Body::new))
                });
                connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        }
    }
    drop(listener);
    connections.shutdown().await;
}
