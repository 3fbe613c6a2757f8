//! Client: a port -> replies, whole ones only, and how long they took.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use super::stand_in::{CHUNKS, find};

const OK: &[u8] = b"HTTP/1.1 200";
const END: &[u8] = b"\r\n0\r\n\r\n";
const DONE: &[u8] = b"data: [DONE]\n\n";
const RECORD: &[u8] = b"data: ";
/// Counting the records of each reply would be much of what is measured.
const COUNTED_EACH: u64 = 64;
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection to a server or a proxy.
pub struct Connection {
    stream: TcpStream,
    request: Vec<u8>,
    /// What came of the reply so far.
    reply: Vec<u8>,
    replies: u64,
}

#[expect(clippy::disallowed_methods, reason = "the run's clock counts milliseconds, which is too coarse here")]
pub fn now() -> Instant {
    Instant::now()
}

impl Connection {
    pub fn open(port: u16, prompt: &str) -> std::io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let body = serde_json::json!({
            "model": "auto", "stream": true, "messages": [{ "role": "user", "content": prompt }],
        });
        let body = body.to_string();
        let request = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len(),
        );
        Ok(Connection { stream, request: request.into_bytes(), reply: Vec::with_capacity(64 << 10), replies: 0 })
    }

    /// Whether a reply comes, and not an error.
    pub fn gets_a_reply(mut self) -> bool {
        self.ask();
        let mut piece = [0; 4 << 10];
        while !self.reply.ends_with(END) {
            match self.stream.read(&mut piece) {
                Ok(read) if read > 0 => self.reply.extend_from_slice(&piece[..read]),
                Ok(_) | Err(_) => return false,
            }
        }
        self.reply.starts_with(OK) && self.text().ends_with(DONE)
    }

    pub fn ask(&mut self) {
        self.reply.clear();
        self.stream.write_all(&self.request).unwrap();
    }

    /// Reads on; the answer must be a good one.
    fn read(&mut self) {
        let before = self.reply.len();
        self.reply.resize(before + (32 << 10), 0);
        let read = self.stream.read(&mut self.reply[before..]).unwrap();
        self.reply.truncate(before + read);
        assert!(read > 0, "the reply broke off: {}", String::from_utf8_lossy(&self.reply));
        assert!(self.reply.starts_with(OK), "{}", String::from_utf8_lossy(&self.reply));
    }

    pub fn first_byte(&mut self) {
        while find(&self.reply, RECORD).is_none() {
            self.read();
        }
    }

    /// Reads until so many records have come.
    pub fn records(&mut self, count: usize) {
        while self.count() < count {
            self.read();
        }
    }

    pub fn finish(&mut self) {
        while !self.reply.ends_with(END) {
            self.read();
        }
        let text = self.text();
        assert!(text.ends_with(DONE), "the reply has no end: {}", String::from_utf8_lossy(&text));
        self.replies += 1;
    }

    pub fn whole_reply(&mut self) {
        self.ask();
        self.finish();
        if self.replies % COUNTED_EACH == 1 {
            assert_eq!(self.count(), CHUNKS, "{}", String::from_utf8_lossy(&self.reply));
        }
    }

    pub fn count(&self) -> usize {
        self.text().windows(RECORD.len()).filter(|window| *window == RECORD).count()
    }

    /// What was said so far. A proxy may cut it into other pieces than the server did.
    fn text(&self) -> Vec<u8> {
        let mut text = Vec::with_capacity(self.reply.len());
        let mut at = find(&self.reply, b"\r\n\r\n").map_or(self.reply.len(), |end| end + 4);
        while let Some(line) = find(&self.reply[at..], b"\r\n") {
            let size = std::str::from_utf8(&self.reply[at..at + line]).unwrap();
            let size = usize::from_str_radix(size, 16).unwrap();
            let begin = at + line + 2;
            let end = begin + size;
            text.extend_from_slice(&self.reply[begin.min(self.reply.len())..end.min(self.reply.len())]);
            at = (end + 2).min(self.reply.len());
        }
        text
    }
}

/// How many replies so many connections got, one after the other on each, and in what time.
pub fn replies(
    port: u16,
    prompt: &'static str,
    connections: usize,
    enough: impl Fn(u64, Duration) -> bool + Copy + Send + 'static,
) -> (u64, f64) {
    let began = now();
    let client = move || {
        let mut connection = Connection::open(port, prompt).unwrap();
        while !enough(connection.replies, began.elapsed()) {
            connection.whole_reply();
        }
        connection.replies
    };
    let clients: Vec<_> = (0..connections).map(|_| thread::spawn(client)).collect();
    let replies = clients.into_iter().map(|client| client.join().unwrap()).sum();
    (replies, began.elapsed().as_secs_f64())
}
