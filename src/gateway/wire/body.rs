//! Body: the bytes after an answer's head -> what they say, and where it ends.
//!
//! Chunks are taken out of their frames where they lie, so that all that came with one read stays one piece. Lines must end
//! as the standard says, and what is wrong ends the reply: a body that is read otherwise than it was meant would be passed
//! on as a whole one.

use bytes::BytesMut;

/// What may stand beside the data of one body: the rest of the size lines, and the trailers.
const BESIDE_MAX: usize = 16 << 10;
const DIGITS_MAX: u8 = 15;

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
    /// How much stood beside the data so far.
    beside: usize,
}

/// What the next byte of a chunked body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Size {
        size: u64,
        digits: u8,
    },
    /// In the blanks after the size.
    Blank {
        size: u64,
    },
    /// In an extension, until the line ends.
    Rest {
        size: u64,
    },
    SizeEnd {
        size: u64,
    },
    Data {
        left: u64,
    },
    DataEnd,
    DataEnded,
    /// At the beginning of a line after the last chunk.
    Trailer,
    WithinTrailer,
    TrailerEnd,
    LastEnd,
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
        Frames::Chunks(Chunks { at: At::Size { size: 0, digits: 0 }, beside: 0 })
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
        let (mut read, mut written) = (0, 0);
        while let Some(byte) = bytes.get(read).copied().filter(|_| self.at != At::Over) {
            if let At::Data { left } = self.at {
                let here = (bytes.len() - read).min(usize::try_from(left).unwrap_or(usize::MAX));
                bytes.copy_within(read..read + here, written);
                (read, written) = (read + here, written + here);
                let left = left - here as u64;
                self.at = if left == 0 { At::DataEnd } else { At::Data { left } };
                continue;
            }
            self.at = self.at.after(byte)?;
            self.beside += usize::from(self.at.is_beside());
            if self.beside > BESIDE_MAX {
                return Err(Malformed::Beside);
            }
            read += 1;
        }
        let after = bytes.len() - read;
        bytes.truncate(written);
        Ok(after)
    }
}

impl At {
    fn is_beside(self) -> bool {
        match self {
            At::Blank { .. } | At::Rest { .. } | At::WithinTrailer => true,
            At::Size { .. }
            | At::SizeEnd { .. }
            | At::Data { .. }
            | At::DataEnd
            | At::DataEnded
            | At::Trailer
            | At::TrailerEnd
            | At::LastEnd
            | At::Over => false,
        }
    }

    fn after(self, byte: u8) -> Result<At, Malformed> {
        let digit = char::from(byte).to_digit(16).map(u64::from);
        match (self, byte) {
            (At::Size { size, digits }, _) if digit.is_some() && digits < DIGITS_MAX => {
                Ok(At::Size { size: size << 4 | digit.unwrap_or_default(), digits: digits + 1 })
            }
            (At::Size { size, digits: 1.. } | At::Blank { size } | At::Rest { size }, b'\r') => {
                Ok(At::SizeEnd { size })
            }
            (At::Size { size, digits: 1.. } | At::Blank { size }, b' ' | b'\t') => Ok(At::Blank { size }),
            (At::Size { size, digits: 1.. } | At::Blank { size }, b';') => Ok(At::Rest { size }),
            (At::Size { .. } | At::Blank { .. }, _) => Err(Malformed::Size),
            (At::Rest { .. } | At::WithinTrailer, b'\n') => Err(Malformed::Line),
            (At::Rest { size }, _) => Ok(At::Rest { size }),
            (At::SizeEnd { size: 0 }, b'\n') => Ok(At::Trailer),
            (At::SizeEnd { size }, b'\n') => Ok(At::Data { left: size }),
            (At::DataEnd, b'\r') => Ok(At::DataEnded),
            (At::DataEnded, b'\n') => Ok(At::Size { size: 0, digits: 0 }),
            (At::DataEnd | At::DataEnded, _) => Err(Malformed::End),
            (At::Trailer, b'\r') => Ok(At::LastEnd),
            (At::Trailer, b'\n') => Err(Malformed::Line),
            (At::Trailer, _) => Ok(At::WithinTrailer),
            (At::WithinTrailer, b'\r') => Ok(At::TrailerEnd),
            (At::WithinTrailer, _) => Ok(At::WithinTrailer),
            (At::TrailerEnd, b'\n') => Ok(At::Trailer),
            (At::LastEnd, b'\n') => Ok(At::Over),
            (At::SizeEnd { .. } | At::TrailerEnd | At::LastEnd, _) => Err(Malformed::Line),
            // Neither is asked: the first is not read byte by byte, and after the last nothing is.
            (At::Data { .. } | At::Over, _) => Ok(self),
        }
    }
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
            ("1\rx", Malformed::Line),
            ("1\r\nab", Malformed::End),
            ("1\r\na\n", Malformed::End),
            ("0\r\n\n", Malformed::Line),
            ("0\r\nx: y\n", Malformed::Line),
        ] {
            assert_eq!(read(&mut Frames::chunked(), &[wrong.as_bytes()]), Err(why), "{wrong:?}");
        }
        let long = format!("1;{}\r\n", "x".repeat(BESIDE_MAX));
        assert_eq!(read(&mut Frames::chunked(), &[long.as_bytes()]), Err(Malformed::Beside));
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
