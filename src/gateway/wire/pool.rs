//! Pool: connections whose last answer has come to its end -> the same ones for the next requests, for a while.

use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, Method, Response};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, sleep, timeout};

use super::WireError;
use super::connection::{Connection, Sending};
use super::head::Asked;
use super::incoming::{Exchange, Incoming};
use crate::gateway::instance::locked;

pub const CONNECT_MAX: Duration = Duration::from_secs(5);
const PORT: u16 = 80;

pub struct Pool {
    authority: Authority,
    /// Whom requests are for: whatever stands before the host is for nobody's eyes.
    host: String,
    idle_max: usize,
    idle_for: Duration,
    idle: Mutex<Idle>,
}

#[derive(Default)]
struct Idle {
    /// The last one that was used stands last, and is used first.
    connections: Vec<(Connection, Instant)>,
    /// A task closes those that have stood too long.
    is_looked_after: bool,
}

impl Pool {
    pub fn new(authority: Authority, idle_max: usize, idle_for: Duration) -> Arc<Self> {
        let port = authority.port_u16().map(|port| format!(":{port}")).unwrap_or_default();
        let host = format!("{}{port}", authority.host());
        Arc::new(Pool { authority, host, idle_max, idle_for, idle: Mutex::default() })
    }

    /// Sends a request; the answer begins with its head.
    pub async fn ask(
        self: &Arc<Self>,
        (method, target): (&Method, &PathAndQuery),
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Response<Incoming>, WireError> {
        let head = Asked { method, target, headers, length: body.len() }.bytes(&self.host);
        if let Some(connection) = self.kept() {
            let sending = Sending::new(head.clone(), body.clone());
            match Exchange::new(connection, sending).answer(method, self.clone()).await {
                // It was closed while it was taken, and nothing is done twice by asking once more.
                Err(WireError::Closed | WireError::Connection(_)) if method.is_safe() => {}
                answer => return answer,
            }
        }
        // It is large, and seldom needed.
        let connection = Box::pin(self.connect()).await?;
        Exchange::new(connection, Sending::new(head, body)).answer(method, self.clone()).await
    }

    /// To the first of its addresses that answers; none has all of the time.
    async fn connect(&self) -> Result<Connection, WireError> {
        let host = self.authority.host().trim_start_matches('[').trim_end_matches(']');
        let port = self.authority.port_u16().unwrap_or(PORT);
        let looked_up = timeout(CONNECT_MAX, lookup_host((host, port))).await.map_err(|_| WireError::ConnectSlow)?;
        let addresses: Vec<_> = looked_up.map_err(WireError::Connect)?.collect();
        let mut failed = WireError::Connect(std::io::ErrorKind::NotFound.into());
        for address in &addresses {
            let each = CONNECT_MAX / u32::try_from(addresses.len()).unwrap_or(u32::MAX);
            match timeout(each, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    // Without it each small piece waits for the acknowledgement of the one before: 40 ms on a loopback.
                    stream.set_nodelay(true)?;
                    return Ok(Connection::new(stream));
                }
                Ok(Err(error)) => failed = WireError::Connect(error),
                Err(_) => failed = WireError::ConnectSlow,
            }
        }
        Err(failed)
    }

    fn kept(&self) -> Option<Connection> {
        let mut idle = locked(&self.idle);
        let now = Instant::now();
        while let Some((connection, since)) = idle.connections.pop() {
            if now.duration_since(since) < self.idle_for && connection.is_quiet() {
                return Some(connection);
            }
        }
        None
    }

    /// For the next request, if there is a place.
    pub fn put(self: &Arc<Self>, connection: Connection) {
        let mut idle = locked(&self.idle);
        if idle.connections.len() >= self.idle_max {
            return;
        }
        idle.connections.push((connection, Instant::now()));
        if !std::mem::replace(&mut idle.is_looked_after, true) {
            tokio::spawn(look_after(Arc::downgrade(self), self.idle_for));
        }
    }

    /// Closes what has stood too long; false when none is left.
    fn tidy(&self) -> bool {
        let mut idle = locked(&self.idle);
        let now = Instant::now();
        idle.connections.retain(|(_, since)| now.duration_since(*since) < self.idle_for);
        idle.is_looked_after = !idle.connections.is_empty();
        idle.is_looked_after
    }
}

async fn look_after(pool: Weak<Pool>, each: Duration) {
    loop {
        sleep(each).await;
        if !pool.upgrade().is_some_and(|pool| pool.tidy()) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    const SOON: Duration = Duration::from_secs(10);
    const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

    struct Rig {
        pool: Arc<Pool>,
        listener: TcpListener,
    }

    impl Rig {
        async fn new(idle_for: Duration) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let authority = listener.local_addr().unwrap().to_string().parse().unwrap();
            Rig { pool: Pool::new(authority, 2, idle_for), listener }
        }

        async fn accepted(&self) -> TcpStream {
            self.listener.accept().await.unwrap().0
        }
    }

    async fn ask(pool: &Arc<Pool>, body: &'static [u8]) -> Result<Response<Incoming>, WireError> {
        let target = PathAndQuery::from_static("/");
        pool.ask((&Method::POST, &target), &HeaderMap::new(), Bytes::from_static(body)).await
    }

    /// Reads one request whose body is this, and answers it.
    async fn serve(stream: &mut TcpStream, body: &[u8], answer: &str) {
        let mut read = Vec::new();
        while !read.ends_with(body) || !read.windows(4).any(|window| window == b"\r\n\r\n") {
            assert!(stream.read_buf(&mut read).await.unwrap() > 0);
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
    }

    /// Soon, and not only when the pool lets go of what it does not need.
    async fn is_closed(stream: &mut TcpStream) -> bool {
        matches!(timeout(SOON, stream.read(&mut [0; 16])).await, Ok(Ok(0) | Err(_)))
    }

    #[tokio::test]
    async fn a_connection_is_used_again_when_its_answer_is_over() {
        let rig = Rig::new(Duration::from_secs(60)).await;
        let served = async {
            let mut stream = rig.accepted().await;
            serve(&mut stream, b"one", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n").await;
            serve(&mut stream, b"two", OK).await;
            stream
        };
        let asked = async {
            for body in [b"one", b"two"] {
                let answer = ask(&rig.pool, body).await.unwrap();
                assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "ok");
            }
        };
        tokio::join!(served, asked);
    }

    #[tokio::test]
    async fn a_connection_that_cannot_be_used_again_is_closed() {
        for answer in [
            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
            "HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n",
        ] {
            let rig = Rig::new(Duration::from_secs(60)).await;
            let served = async {
                let mut stream = rig.accepted().await;
                serve(&mut stream, b"one", answer).await;
                assert!(is_closed(&mut stream).await, "{answer}");
            };
            let asked = async {
                let answer = ask(&rig.pool, b"one").await.unwrap();
                assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "ok");
            };
            tokio::join!(served, asked);
        }
    }

    #[tokio::test]
    async fn one_that_the_server_has_closed_is_not_used() {
        let rig = Rig::new(Duration::from_secs(60)).await;
        let served = async {
            for _ in 0..2 {
                serve(&mut rig.accepted().await, b"one", OK).await;
            }
        };
        let asked = async {
            for _ in 0..2 {
                let answer = ask(&rig.pool, b"one").await.unwrap();
                assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "ok");
                // Until the end of the connection has come.
                loop {
                    let idle = locked(&rig.pool.idle).connections.first().is_some_and(|(idle, _)| idle.is_quiet());
                    if !idle {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
            }
        };
        timeout(SOON, async { tokio::join!(served, asked) }).await.expect("the end of a connection is seen");
    }

    #[tokio::test]
    async fn what_was_asked_on_one_that_closes_meanwhile_is_asked_again_only_where_nothing_is_done_twice() {
        for (method, is_asked_again) in [(Method::GET, true), (Method::POST, false)] {
            let rig = Rig::new(Duration::from_secs(60)).await;
            let served = async {
                let mut stream = rig.accepted().await;
                serve(&mut stream, b"", OK).await;
                assert!(stream.read(&mut [0; 256]).await.unwrap() > 0);
                drop(stream);
                if is_asked_again {
                    serve(&mut rig.accepted().await, b"", OK).await;
                }
            };
            let asked = async {
                let (target, headers) = (PathAndQuery::from_static("/"), HeaderMap::new());
                let ask = || rig.pool.ask((&method, &target), &headers, Bytes::new());
                ask().await.unwrap().into_body().collect().await.unwrap();
                assert_eq!(ask().await.is_ok(), is_asked_again, "{method}");
            };
            timeout(SOON, async { tokio::join!(served, asked) }).await.expect("each is answered or fails");
        }
    }

    #[tokio::test]
    async fn what_only_comes_before_an_answer_is_none() {
        for answer in
            ["HTTP/1.1 101 Switching Protocols\r\n\r\n".to_owned(), "HTTP/1.1 100 Continue\r\n\r\n".repeat(17)]
        {
            let rig = Rig::new(Duration::from_secs(60)).await;
            let served = async {
                let mut stream = rig.accepted().await;
                serve(&mut stream, b"one", &answer).await;
                stream
            };
            let (_stream, asked) = tokio::join!(served, ask(&rig.pool, b"one"));
            assert!(matches!(asked, Err(WireError::NoAnswer)), "{answer}");
        }
    }

    #[tokio::test]
    async fn one_that_nobody_uses_is_closed_after_a_while() {
        let rig = Rig::new(Duration::from_millis(50)).await;
        let served = async {
            let mut stream = rig.accepted().await;
            serve(&mut stream, b"one", OK).await;
            assert!(is_closed(&mut stream).await);
        };
        let asked = async {
            let answer = ask(&rig.pool, b"one").await.unwrap();
            answer.into_body().collect().await.unwrap();
        };
        tokio::join!(served, asked);
        assert!(locked(&rig.pool.idle).connections.is_empty());
    }

    #[tokio::test]
    async fn an_answer_that_breaks_off_is_no_whole_one() {
        for answer in [
            "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nokx",
        ] {
            let rig = Rig::new(Duration::from_secs(60)).await;
            let served = async { serve(&mut rig.accepted().await, b"one", answer).await };
            let asked = async {
                let answered = ask(&rig.pool, b"one").await.unwrap();
                assert!(answered.into_body().collect().await.is_err(), "{answer}");
            };
            tokio::join!(served, asked);
        }
        let rig = Rig::new(Duration::from_secs(60)).await;
        let served = async { serve(&mut rig.accepted().await, b"one", "HTTP/1.1 200 OK\r\n").await };
        let asked = async { assert!(matches!(ask(&rig.pool, b"one").await, Err(WireError::Closed))) };
        tokio::join!(served, asked);
    }

    #[tokio::test]
    async fn whoever_leaves_before_the_end_closes_the_connection() {
        let rig = Rig::new(Duration::from_secs(60)).await;
        let served = async {
            let mut stream = rig.accepted().await;
            serve(&mut stream, b"one", "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok").await;
            assert!(is_closed(&mut stream).await);
        };
        let asked = async { drop(ask(&rig.pool, b"one").await.unwrap()) };
        tokio::join!(served, asked);
    }

    #[tokio::test]
    async fn an_answer_may_come_before_all_is_sent() {
        let rig = Rig::new(Duration::from_secs(60)).await;
        static LONG: [u8; 16 << 20] = [b'x'; 16 << 20];
        let served = async {
            let mut stream = rig.accepted().await;
            stream.write_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno").await.unwrap();
            stream
        };
        let asked = async {
            let answer = ask(&rig.pool, &LONG).await.unwrap();
            assert_eq!(answer.status(), 413);
            assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "no");
            assert!(
                locked(&rig.pool.idle).connections.is_empty(),
                "the rest of the request is not sent on it any more"
            );
        };
        tokio::join!(served, asked);
    }

    #[test]
    fn whom_a_request_is_for_has_no_password() {
        for (authority, host) in
            [("me:secret@server:1", "server:1"), ("server", "server"), ("[::1]:8080", "[::1]:8080")]
        {
            let pool = Pool::new(Authority::from_static(authority), 1, Duration::ZERO);
            assert_eq!(pool.host, host);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_takes_no_more_connections_is_not_waited_for_long() {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let listener = socket.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let mut waiting = Vec::new();
        while let Ok(stream) = timeout(CONNECT_MAX, TcpStream::connect(address)).await {
            waiting.push(stream.unwrap());
        }
        let pool = Pool::new(address.to_string().parse().unwrap(), 1, Duration::ZERO);
        let asked =
            timeout(2 * CONNECT_MAX, ask(&pool, b"one")).await.expect("it is not waited for as long as for an answer");
        assert!(matches!(asked, Err(WireError::ConnectSlow)));
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_told_from_one_that_breaks_off() {
        let rig = Rig::new(Duration::from_secs(60)).await;
        drop(rig.listener);
        assert!(matches!(ask(&rig.pool, b"one").await, Err(WireError::Connect(_))));
    }
}
