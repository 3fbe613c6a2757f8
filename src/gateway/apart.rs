//! Apart: a gateway -> the same, served on a thread of its own.
//!
//! What passes a token on works little and waits much. Where threads share such work, each piece that comes wakes another
//! thread to look for more of it, and that costs more than the piece; one thread has enough for thousands of tokens a
//! second. What else the program does does not stand before them there.

use std::future::Future;
use std::io;
use std::thread;

use tokio::net::TcpListener;
use tokio::runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::Gateway;
use crate::units::Span;

impl Gateway {
    /// As `serve`; it ends at once when the task that is given back is aborted, which ends when it does, however that is.
    pub fn serve_apart(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send + 'static,
        grace: Span,
    ) -> io::Result<JoinHandle<usize>> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = listener.into_std()?;
        let listener = {
            let _within = runtime.enter();
            TcpListener::from_std(listener)?
        };
        let (mut ended, end) = oneshot::channel();
        let serve = move || {
            runtime.block_on(async move {
                let broken = tokio::select! {
                    broken = self.serve(listener, shutdown, grace) => broken,
                    () = ended.closed() => return,
                };
                // Whoever does not wait for it does not want to know.
                ended.send(broken).ok();
            });
            // A name that is being looked up is not waited for.
            runtime.shutdown_background();
        };
        thread::Builder::new().name("gateway".to_owned()).spawn(serve)?;
        Ok(tokio::spawn(async move { end.await.unwrap_or_default() }))
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;
    use crate::gateway::tests::gateway;

    async fn serving() -> (SocketAddr, oneshot::Sender<()>, JoinHandle<usize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let shutdown = async move { drop(stopped.await) };
        let serving = gateway().serve_apart(listener, shutdown, Span::seconds(5)).unwrap();
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        (address, stop, serving)
    }

    #[tokio::test]
    async fn it_ends_when_it_is_told_to() {
        let (address, stop, serving) = serving().await;
        stop.send(()).unwrap();
        assert_eq!(serving.await.unwrap(), 0);
        assert!(TcpStream::connect(address).await.is_err());
    }

    #[tokio::test]
    async fn it_is_seen_when_its_thread_dies() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dies = async { panic!("as it must here") };
        assert_eq!(gateway().serve_apart(listener, dies, Span::seconds(5)).unwrap().await.unwrap(), 0);
    }

    #[tokio::test]
    async fn it_ends_when_nobody_waits_for_it() {
        let (address, _stop, serving) = serving().await;
        serving.abort();
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    }
}
