//! Arc: ZFS's own counts -> what of its cache it would give back, which the kernel counts as used.

use std::path::Path;

use super::{HostError, read};
use crate::units::Bytes;

/// All above its minimum is given back under pressure. `None` on a machine without ZFS.
pub fn reclaimable(root: &Path) -> Result<Option<Bytes>, HostError> {
    let path = root.join("proc/spl/kstat/zfs/arcstats");
    let Some(text) = read(&path)? else { return Ok(None) };
    let bytes = |name: &str| {
        let missing = || HostError::Content { path: path.clone(), what: format!("no `{name}`") };
        counted(&text, name).map(Bytes).ok_or_else(missing)
    };
    Ok(Some(bytes("size")?.saturating_sub(bytes("c_min")?)))
}

/// A name, a type and a number.
fn counted(text: &str, name: &str) -> Option<u64> {
    let mut rows = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.find_map(|row| match row[..] {
        [first, _, number] if first == name => number.parse().ok(),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::super::fixture::{Copied, fixture};
    use super::*;

    const COUNTS: &str = "proc/spl/kstat/zfs/arcstats";

    #[test]
    fn what_is_above_its_minimum_can_be_had() {
        assert_eq!(reclaimable(&fixture("bare-metal")).unwrap(), Some(Bytes::gib(2)));
    }

    #[test]
    fn absent_wrong_and_zero_are_three_answers() {
        assert_eq!(reclaimable(&fixture("wsl")).unwrap(), None);
        let tree = Copied::of("bare-metal");
        let text = std::fs::read_to_string(tree.root().join(COUNTS)).unwrap();
        let size = text.lines().find(|line| line.starts_with("size ")).unwrap();
        tree.edit(COUNTS, size, "size 4 0");
        assert_eq!(reclaimable(tree.root()).unwrap(), Some(Bytes::ZERO), "all of it is given back");
        tree.edit(COUNTS, "size 4 0", "size 4 much");
        assert!(matches!(reclaimable(tree.root()), Err(HostError::Content { .. })));
        tree.remove(COUNTS);
        std::fs::create_dir(tree.root().join(COUNTS)).unwrap();
        assert!(matches!(reclaimable(tree.root()), Err(HostError::Read { .. })));
    }
}
