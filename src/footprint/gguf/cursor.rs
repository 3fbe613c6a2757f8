//! Cursor: the bytes that were read and the length of their file -> one thing after the other, or where it ends.
//!
//! What would end after the file is wrong; what would only end after the bytes that were read asks for more of them.

use super::{GgufError, HEAD_MAX, Problem};

pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    file_length: u64,
    at: u64,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8], file_length: u64) -> Self {
        Cursor { bytes, file_length, at: 0 }
    }

    pub(super) fn wrong(&self, problem: Problem) -> GgufError {
        GgufError::Wrong { problem, offset: self.at }
    }

    /// Whether so much is still in the file, read or not.
    pub(super) fn has(&self, what: &'static str, length: u64) -> Result<(), GgufError> {
        let left = self.file_length.saturating_sub(self.at);
        if length > left {
            return Err(self.wrong(Problem::BeyondTheFile { what, length, left }));
        }
        Ok(())
    }

    /// The same of what begins after the padding up to the next multiple of `alignment`.
    pub(super) fn has_after_padding(&self, what: &'static str, alignment: u64, length: u64) -> Result<(), GgufError> {
        if length == 0 {
            return Ok(());
        }
        let padding = self.at.next_multiple_of(alignment) - self.at;
        self.has(what, padding.saturating_add(length))
    }

    pub(super) fn skip(&mut self, what: &'static str, length: u64) -> Result<&'a [u8], GgufError> {
        self.has(what, length)?;
        let end = self.at + length;
        if end > HEAD_MAX {
            return Err(self.wrong(Problem::TooLong));
        }
        // Both ends are at most HEAD_MAX, which any machine can count to.
        let Some(taken) = self.bytes.get(self.at as usize..end as usize) else {
            return Err(GgufError::NeedsMore { at_least: end });
        };
        self.at = end;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], GgufError> {
        let taken = self.skip("a value", N as u64)?;
        Ok(taken.try_into().expect("as many bytes were taken as the array has"))
    }

    pub(super) fn u32(&mut self) -> Result<u32, GgufError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, GgufError> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn count(&mut self, what: &'static str, limit: u64) -> Result<u64, GgufError> {
        let count = self.u64()?;
        if count > limit { Err(self.wrong(Problem::TooMany { what, count, limit })) } else { Ok(count) }
    }

    pub(super) fn text(&mut self, what: &'static str, limit: u64) -> Result<String, GgufError> {
        let length = self.count(what, limit)?;
        let taken = self.skip(what, length)?;
        std::str::from_utf8(taken).map(str::to_owned).map_err(|_| self.wrong(Problem::NotText))
    }

    /// `None` when it is longer than `limit` or no UTF-8: it was stepped over.
    pub(super) fn text_if_short(&mut self, what: &'static str, limit: u64) -> Result<Option<String>, GgufError> {
        let length = self.u64()?;
        let taken = self.skip(what, length)?;
        let kept = std::str::from_utf8(taken).ok().filter(|text| text.len() as u64 <= limit);
        Ok(kept.map(str::to_owned))
    }
}
