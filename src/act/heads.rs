//! Heads: the path of a model -> the heads of its files, read where they lie on this machine.
//!
//! Of each file only its first part is read, and more of it only as the reader asks for it.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::footprint::gguf::{self, GgufError, HEAD_MAX, Head};
use crate::units::Bytes;

/// Enough for most heads but their vocabulary.
const READ_FIRST: u64 = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub(super) enum HeadError {
    #[error("its path is relative to the server's folder: `{0}`")]
    Relative(String),
    #[error("could not read `{path}`: {why}")]
    Unreadable { path: String, why: io::Error },
    #[error("no file: `{0}`")]
    NoFile(String),
    #[error("could not read the head of `{path}`: {why}")]
    Head { path: String, why: GgufError },
}

/// The heads of `x-00001-of-00003.gguf` and its other parts, or of the one file that it is.
pub(super) fn read(path: &str) -> Result<Vec<Head>, HeadError> {
    parts(path).iter().map(|part| read_one(part)).collect()
}

/// What the files of a model take together.
pub(super) fn size(path: &str) -> Option<Bytes> {
    let size = |path: &String| std::fs::metadata(path).ok().map(|file| file.len()).filter(|size| *size > 0).map(Bytes);
    // A relative path is relative to the server's folder, which is not ours.
    if !Path::new(path).is_absolute() {
        return None;
    }
    parts(path).iter().map(size).sum()
}

pub(super) fn parts(path: &str) -> Vec<String> {
    let part_of = |path: &str| {
        let (first, count) = path.strip_suffix(".gguf")?.rsplit_once("-of-")?;
        let stem = first.strip_suffix("-00001")?.to_owned();
        let count: u32 = count.parse().ok().filter(|count| (1..=999).contains(count))?;
        Some((stem, count))
    };
    match part_of(path) {
        Some((stem, count)) => (1..=count).map(|part| format!("{stem}-{part:05}-of-{count:05}.gguf")).collect(),
        None => vec![path.to_owned()],
    }
}

fn read_one(path: &str) -> Result<Head, HeadError> {
    if !Path::new(path).is_absolute() {
        return Err(HeadError::Relative(path.to_owned()));
    }
    let unreadable = |why| HeadError::Unreadable { path: path.to_owned(), why };
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    // Opening a pipe would wait for whoever writes to it.
    if !metadata.is_file() {
        return Err(HeadError::NoFile(path.to_owned()));
    }
    let mut file = File::open(path).map_err(unreadable)?;
    let (mut bytes, mut wanted) = (Vec::new(), READ_FIRST);
    loop {
        let missing = wanted.min(HEAD_MAX) - bytes.len() as u64;
        let read = (&mut file).take(missing).read_to_end(&mut bytes).map_err(unreadable)?;
        match gguf::read(&bytes, metadata.len()) {
            Ok(head) => return Ok(head),
            // Twice as much each time, so that all of it is read over at most twice; a file that became shorter ends it.
            Err(GgufError::NeedsMore { at_least }) if read > 0 => wanted = at_least.max(wanted * 2),
            Err(why) => return Err(HeadError::Head { path: path.to_owned(), why }),
        }
    }
}
