//! Body: the bytes after an answer's head -> what they say, and where it ends.
//!
//! Chunks are taken out of their frames where they lie, so that all that came with one read stays one piece. Lines must end
//! as the standard says, and what is wrong ends the reply: a body that is read otherwise than it was meant would be passed
//! on as a whole one.

use bytes::BytesMut;

/// What may stand beside the data of one body: the rest of the size lines, and the trailers.
const BESIDE_MAX: usize = 16 << 10;
const DIGITS_MAX: usize = 15;

/// How far a body has come.
#[derive(Debug, PartialEq, Eq)]
pub enum Frames {
    /// So many bytes are to come.
    Length(u64),
    Chunks(Chunks),
    UntilClosed,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Chunks {
    at: At,
    /// The beginning of a line whose end has not come yet.
    begun: Vec<u8>,
    /// How much stood beside the data so far.
    beside: usize,
}

/// What comes next in a chunked body (RFC 9112, 7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// A line that says how long a chunk is.
    Size,
    Data {
        left: u64,
    },
    /// The end of a line after a chunk.
    DataEnd,
    /// A line after the last chunk.
    Trailer,
    Over,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Malformed {
    #[error("a chunk has no size")]
    Size,
    #[error("a chunk is longer than it says")]
    End,
    #[error("a line does not end as it must")]
    Line,
    #[error("there is too much beside the chunks")]
    Beside,
    #[error("its length is unclear")]
    Length,
    #[error("it has a transfer coding other than `chunked`")]
    Coding,
}

impl Frames {
    pub fn chunked() -> Self {
        Frames::Chunks(Chunks { at: At::Size, begun: Vec::new(), beside: 0 })
    }

    pub fn is_over(&self) -> bool {
        match self {
            Frames::Length(left) => *left == 0,
            Frames::Chunks(chunks) => chunks.at == At::Over,
            Frames::UntilClosed => false,
        }
    }

    /// Leaves of these bytes, the next of the body, only its data. Says how many came after its end.
    pub fn unwrap(&mut self, bytes: &mut BytesMut) -> Result<usize, Malformed> {
        match self {
            Frames::Length(left) => {
                let here = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                let after = bytes.len() - here;
                bytes.truncate(here);
                *left -= here as u64;
                Ok(after)
            }
            Frames::Chunks(chunks) => chunks.unwrap(bytes),
            Frames::UntilClosed => Ok(0),
        }
    }
}

impl Chunks {
    fn unwrap(&mut self, bytes: &mut BytesMut) -> Result<usize, Malformed> {
        let text: &mut [u8] = bytes;
        let (mut read, mut written) = (0, 0);
        while read < text.len() && self.at != At::Over {
            let At::Data { left } = self.at else {
                read += self.line(&text[read..])?;
                continue;
            };
            let here = (text.len() - read).min(usize::try_from(left).unwrap_or(usize::MAX));
            text.copy_within(read..read + here, written);
            (read, written) = (read + here, written + here);
            self.at = match left - here as u64 {
                0 => At::DataEnd,
                left => At::Data { left },
            };
        }
        let after = text.len() - read;
        bytes.truncate(written);
        Ok(after)
    }

    /// Reads a line, or as much as there is of it, and says how long that was.
    fn line(&mut self, text: &[u8]) -> Result<usize, Malformed> {
        let end = text.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
        let piece = &text[..end.unwrap_or(text.len())];
        if end.is_some() && self.begun.is_empty() {
            (self.at, self.beside) = self.after(piece)?;
            return Ok(piece.len());
        }
        self.begun.extend_from_slice(piece);
        match end {
            Some(_) => {
                let line = std::mem::take(&mut self.begun);
                (self.at, self.beside) = self.after(&line)?;
            }
            None => {
                // What cannot come to a good end is wrong now: nothing more may come for a long time.
                let rest: &[u8] = if self.begun.ends_with(b"\r") { b"\n" } else { b"\r\n" };
                self.after(&[&self.begun, rest].concat())?;
            }
        }
        Ok(piece.len())
    }

    /// What comes after this line, and how much has then stood beside the data.
    fn after(&self, line: &[u8]) -> Result<(At, usize), Malformed> {
        if self.at == At::DataEnd {
            return if line == b"\r\n" { Ok((At::Size, self.beside)) } else { Err(Malformed::End) };
        }
        let Some(line) = line.strip_suffix(b"\r\n") else {
            let is_size = self.at == At::Size && !line.contains(&b';');
            return Err(if is_size { Malformed::Size } else { Malformed::Line });
        };
        let (at, here) = match self.at {
            At::Trailer if line.is_empty() => (At::Over, line),
            At::Trailer => (At::Trailer, line),
            At::Size | At::Data { .. } | At::DataEnd | At::Over => match size(line)? {
                (0, rest) => (At::Trailer, rest),
                (left, rest) => (At::Data { left }, rest),
            },
        };
        if here.contains(&b'\r') {
            return Err(Malformed::Line);
        }
        let beside = self.beside + here.len();
        if beside > BESIDE_MAX { Err(Malformed::Beside) } else { Ok((at, beside)) }
    }
}

/// The size of a chunk, and what stands beside it on its line.
fn size(line: &[u8]) -> Result<(u64, &[u8]), Malformed> {
    let (mut size, mut digits) = (0, 0);
    while let Some(digit) = line.get(digits).and_then(|byte| char::from(*byte).to_digit(16)) {
        (size, digits) = (size << 4 | u64::from(digit), digits + 1);
    }
    let rest = &line[digits..];
    // Blanks may stand before an extension, and be all that there is. The beginning of an end is for others to look at.
    let is_beside = matches!(rest.iter().find(|byte| !b" \t".contains(byte)), None | Some(b';' | b'\r'));
    let is_size = (1..=DIGITS_MAX).contains(&digits) && is_beside;
    if is_size { Ok((size, rest)) } else { Err(Malformed::Size) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(frames: &mut Frames, pieces: &[&[u8]]) -> Result<Vec<u8>, Malformed> {
        let mut said = Vec::new();
        for piece in pieces {
            let mut bytes = BytesMut::from(*piece);
            let after = frames.unwrap(&mut bytes)?;
            assert_eq!(after, 0);
            said.extend_from_slice(&bytes);
        }
        Ok(said)
    }

    #[test]
    fn what_came_with_one_read_is_one_piece() {
        let mut frames = Frames::chunked();
        assert_eq!(read(&mut frames, &[b"3 \r\nabc\r\nA ;x=y\r\n0123456789\r\n"]).unwrap(), b"abc0123456789");
        assert!(!frames.is_over());
        assert_eq!(read(&mut frames, &[b"0\r\nx-trailer: y\r\n\r\n"]).unwrap(), b"");
        assert!(frames.is_over());
    }

    #[test]
    fn what_is_no_chunk_ends_the_reply() {
        for (wrong, why) in [
            ("\r\n", Malformed::Size),
            ("x\r\n", Malformed::Size),
            (";\r\n", Malformed::Size),
            ("-1\r\n", Malformed::Size),
            ("1\n", Malformed::Size),
            ("1000000000000000\r\n", Malformed::Size),
            ("1 2\r\n", Malformed::Size),
            ("1 \n", Malformed::Size),
            ("1;\n", Malformed::Line),
            ("1\x0b;\r\n", Malformed::Size),
            ("1;\r;\r\n", Malformed::Line),
            ("1\rx", Malformed::Line),
            ("1\r\nab", Malformed::End),
            ("x", Malformed::Size),
            ("0\r\nx\ry", Malformed::Line),
            ("1\r\na\n", Malformed::End),
            ("0\r\n\n", Malformed::Line),
            ("0\r\nx: y\n", Malformed::Line),
        ] {
            assert_eq!(read(&mut Frames::chunked(), &[wrong.as_bytes()]), Err(why), "{wrong:?}");
        }
        let long = format!("1;{}\r\n", "x".repeat(BESIDE_MAX));
        assert_eq!(read(&mut Frames::chunked(), &[long.as_bytes()]), Err(Malformed::Beside));
        let begun = format!("1;{}", "x".repeat(BESIDE_MAX));
        assert_eq!(read(&mut Frames::chunked(), &[begun.as_bytes()]), Err(Malformed::Beside));
        let trailer = format!("0\r\nx: {}\r\n", "y".repeat(BESIDE_MAX));
        assert_eq!(read(&mut Frames::chunked(), &[trailer.as_bytes()]), Err(Malformed::Beside));
    }

    #[test]
    fn what_comes_after_the_end_is_none_of_it() {
        let mut frames = Frames::Length(4);
        assert_eq!(read(&mut frames, &[b"ab", b"cd"]).unwrap(), b"abcd");
        assert!(frames.is_over());
        for (mut frames, text) in [(Frames::Length(2), "abHTTP"), (Frames::chunked(), "2\r\nab\r\n0\r\n\r\nHTTP")] {
            let mut bytes = BytesMut::from(text);
            assert_eq!(frames.unwrap(&mut bytes), Ok(4));
            assert_eq!(bytes, "ab");
            assert!(frames.is_over());
        }
    }

    proptest! {
        /// However the bytes are cut up, they say the same.
        #[test]
        fn cuts_change_nothing(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..8),
            cuts in prop::collection::vec(0_usize..400, 0..12),
        ) {
            let mut wire: Vec<u8> = Vec::new();
            for chunk in &chunks {
                wire.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
                wire.extend(chunk);
                wire.extend(b"\r\n");
            }
            wire.extend(b"0\r\n\r\n");
            let mut at: Vec<usize> = cuts.iter().map(|cut| (*cut).min(wire.len())).chain([0, wire.len()]).collect();
            at.sort_unstable();
            let pieces: Vec<&[u8]> = at.windows(2).map(|at| &wire[at[0]..at[1]]).collect();
            let mut frames = Frames::chunked();
            prop_assert_eq!(read(&mut frames, &pieces).unwrap(), chunks.concat());
            prop_assert!(frames.is_over());
        }
    }
}
