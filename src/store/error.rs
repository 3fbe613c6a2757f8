//! What can go wrong with the file: where it is, what was seen -> words that say what to do.

use std::path::PathBuf;

/// Why there is no store. The program runs without one, and says this once.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(
        "`{path}` cannot be written, so nothing is remembered; write `store: PATH` into the config with a place that this user may write: {why}",
        path = path.display()
    )]
    Unwritable { path: PathBuf, why: String },
    #[error(
        "`{path}` is of a newer tierkeeper (version {found} of its tables, this one knows {known}), so it is left as it is and nothing is remembered; update, or write `store: PATH` with another file",
        path = path.display()
    )]
    Newer { path: PathBuf, found: i64, known: i64 },
    #[error(
        "`{path}` is a database of another program, so it is left as it is; write `store: PATH` with another file",
        path = path.display()
    )]
    NotOurs { path: PathBuf },
    #[error("`{path}` is no database, or a broken one: {why}", path = path.display())]
    Broken { path: PathBuf, why: String },
    #[error("`{path}` is broken and cannot be set aside; move it away: {source}", path = path.display())]
    InTheWay { path: PathBuf, source: std::io::Error },
    #[error("cannot start the thread that writes what was learned: {source}")]
    Thread { source: std::io::Error },
}
