//! Head: a request -> the bytes before its body, and the bytes before an answer's body -> what they say of it.

use std::mem::MaybeUninit;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};

use super::WireError;
use super::body::{Frames, Malformed};

pub const HEAD_MAX: usize = 64 << 10;
const HEADERS_MAX: usize = 100;

/// What an answer's head says.
pub struct Head {
    pub parts: http::response::Parts,
    pub frames: Frames,
    /// The server will answer once more on this connection.
    pub keeps: bool,
}

/// A request without its body.
pub struct Asked<'a> {
    pub method: &'a Method,
    pub target: &'a PathAndQuery,
    pub headers: &'a HeaderMap,
    pub length: usize,
}

impl Asked<'_> {
    /// The length and whom it is for are ours to say, and nothing else may be said of either.
    pub fn bytes(&self, host: &str) -> Bytes {
        let mut out = Vec::with_capacity(512);
        for part in [self.method.as_str(), " ", self.target.as_str(), " HTTP/1.1\r\nhost: ", host, "\r\n"] {
            out.extend_from_slice(part.as_bytes());
        }
        for (name, value) in self.headers {
            if ![HOST, CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION].contains(name) {
                for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                    out.extend_from_slice(part);
                }
            }
        }
        if self.length > 0 || [Method::POST, Method::PUT, Method::PATCH].contains(self.method) {
            out.extend_from_slice(format!("content-length: {}\r\n", self.length).as_bytes());
        }
        out.extend_from_slice(b"\r\n");
        Bytes::from(out)
    }
}

/// Takes the head off these bytes, once it is all there.
pub fn take(bytes: &mut BytesMut, asked: &Method) -> Result<Option<Head>, WireError> {
    // Empty ones would be written each time that there is a little more.
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut parsed = httparse::Response::new(&mut []);
    let read = httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut parsed, bytes, &mut headers);
    let httparse::Status::Complete(length) = read? else {
        return if bytes.len() > HEAD_MAX { Err(WireError::HeadTooLong) } else { Ok(None) };
    };
    if length > HEAD_MAX {
        return Err(WireError::HeadTooLong);
    }
    let status = StatusCode::from_u16(parsed.code.unwrap_or_default()).map_err(|_| httparse::Error::Status)?;
    let may_keep = parsed.version == Some(1);
    let base = bytes.as_ptr() as usize;
    let place = |part: &[u8]| {
        let start = part.as_ptr() as usize - base;
        start..start + part.len()
    };
    let places: Vec<(Range<usize>, Range<usize>)> =
        parsed.headers.iter().map(|header| (place(header.name.as_bytes()), place(header.value))).collect();
    let text = bytes.split_to(length).freeze();
    let mut headers = HeaderMap::with_capacity(places.len() + 4);
    for (name, value) in places {
        let name = HeaderName::from_bytes(&text[name]).map_err(|_| httparse::Error::HeaderName)?;
        let value = HeaderValue::from_maybe_shared(text.slice(value)).map_err(|_| httparse::Error::HeaderValue)?;
        headers.append(name, value);
    }
    let frames = frames((status, may_keep), &mut headers, asked)?;
    let keeps = may_keep && frames != Frames::UntilClosed && !says(&headers, &CONNECTION, b"close");
    let (mut parts, ()) = Response::new(()).into_parts();
    (parts.status, parts.headers) = (status, headers);
    Ok(Some(Head { parts, frames, keeps }))
}

/// How the end of the body is known (RFC 9112, 6.3).
fn frames(
    (status, is_current): (StatusCode, bool),
    headers: &mut HeaderMap,
    asked: &Method,
) -> Result<Frames, Malformed> {
    let bodiless = status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if bodiless || *asked == Method::HEAD {
        return Ok(Frames::Length(0));
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        // Nobody is to be given what is coded otherwise: the header that says so is for this connection only.
        let is_chunked = coding.as_bytes().eq_ignore_ascii_case(b"chunked") && codings.next().is_none() && is_current;
        headers.remove(CONTENT_LENGTH);
        return if is_chunked { Ok(Frames::chunked()) } else { Err(Malformed::Coding) };
    }
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let Some(length) = lengths.next() else { return Ok(Frames::UntilClosed) };
    let is_number = length.as_bytes().iter().all(u8::is_ascii_digit);
    let number = length.to_str().ok().and_then(|length| length.parse().ok()).filter(|_| is_number);
    match lengths.all(|other| other == length) {
        true => number.map(Frames::Length).ok_or(Malformed::Length),
        false => Err(Malformed::Length),
    }
}

/// Whether one of the words of this header is this one.
fn says(headers: &HeaderMap, name: &HeaderName, word: &[u8]) -> bool {
    let words = headers.get_all(name).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    words.into_iter().any(|said| said.trim_ascii().eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(text: &str, asked: Method) -> Result<Option<Head>, WireError> {
        take(&mut BytesMut::from(text), &asked)
    }

    #[test]
    fn a_request_says_its_length_once_and_whom_it_is_for() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-a", "1"),
            ("content-length", "99"),
            ("transfer-encoding", "chunked"),
            ("host", "elsewhere"),
            ("connection", "close"),
            ("x-a", "2"),
        ] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let target = PathAndQuery::from_static("/x?y");
        let asked = |method: Method, length| {
            let asked = Asked { method: &method, target: &target, headers: &headers, length }.bytes("server:1");
            String::from_utf8(asked.to_vec()).unwrap()
        };
        assert_eq!(
            asked(Method::POST, 7),
            "POST /x?y HTTP/1.1\r\nhost: server:1\r\nx-a: 1\r\nx-a: 2\r\ncontent-length: 7\r\n\r\n"
        );
        assert!(asked(Method::POST, 0).contains("content-length: 0\r\n"));
        assert!(!asked(Method::GET, 0).contains("content-length"));
    }

    #[test]
    fn it_is_known_where_the_body_ends() {
        for (text, asked, frames, keeps) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", Method::GET, Frames::Length(5), true),
            ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\n", Method::GET, Frames::Length(5), true),
            ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", Method::HEAD, Frames::Length(0), true),
            ("HTTP/1.1 204 No Content\r\n\r\n", Method::GET, Frames::Length(0), true),
            ("HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n", Method::GET, Frames::Length(0), true),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n", Method::GET, Frames::chunked(), true),
            ("HTTP/1.1 200 OK\r\n\r\n", Method::GET, Frames::UntilClosed, false),
            (
                "HTTP/1.1 200 OK\r\nconnection: x, Close\r\ncontent-length: 5\r\n\r\n",
                Method::GET,
                Frames::Length(5),
                false,
            ),
            ("HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\n", Method::GET, Frames::Length(5), false),
        ] {
            let head = taken(text, asked).unwrap().unwrap();
            assert_eq!((head.frames, head.keeps), (frames, keeps), "{text}");
        }
    }

    #[test]
    fn two_lengths_are_none() {
        let both = taken("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n", Method::GET);
        let both = both.unwrap().unwrap();
        assert_eq!((both.frames, both.parts.headers.get(CONTENT_LENGTH)), (Frames::chunked(), None));
        for lengths in [
            "content-length: 5\r\ncontent-length: 6",
            "content-length: -5",
            "content-length: +5",
            "content-length: 5, 5",
        ] {
            assert!(taken(&format!("HTTP/1.1 200 OK\r\n{lengths}\r\n\r\n"), Method::GET).is_err(), "{lengths}");
        }
    }

    #[test]
    fn what_is_coded_otherwise_than_in_chunks_is_no_answer() {
        for head in [
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, x",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked",
            "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked",
        ] {
            let taken = taken(&format!("{head}\r\n\r\n"), Method::GET);
            assert!(matches!(taken, Err(WireError::Body(Malformed::Coding))), "{head}");
        }
    }

    #[test]
    fn a_head_is_waited_for_but_not_for_ever() {
        let text = "HTTP/1.1 200 OK\r\nx-a: 1\r\n\r\n";
        for end in 0..text.len() {
            assert!(taken(&text[..end], Method::GET).unwrap().is_none(), "{end}");
        }
        let mut bytes = BytesMut::from(format!("{text}rest").as_str());
        assert_eq!(take(&mut bytes, &Method::GET).unwrap().unwrap().parts.headers["x-a"], "1");
        assert_eq!(bytes, "rest");
        let long = format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(HEAD_MAX));
        for long in [long.clone(), long + "\r\n\r\n"] {
            assert!(matches!(taken(&long, Method::GET), Err(WireError::HeadTooLong)));
        }
        assert!(matches!(taken("SSH-2.0-x\r\n\r\n", Method::GET), Err(WireError::Head(_))));
    }
}
