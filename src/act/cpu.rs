//! Cpu: the kernel's text about the processors -> what the models of a server on this machine are packed for.

use std::path::Path;

use crate::footprint::cpu::Cpu;

/// Where the kernel describes this machine's processors.
pub const CPUINFO: &str = "/proc/cpuinfo";

/// By the first processor. What cannot be read counts as what a machine of this kind commonly has.
pub fn read(cpuinfo: &Path) -> Cpu {
    match std::fs::read_to_string(cpuinfo) {
        Ok(text) => features(&text).map_or_else(usual, |features| Cpu::of_features(&features)),
        Err(_) => usual(),
    }
}

/// `flags : ...` on x86, `Features : ...` on ARM.
fn features(text: &str) -> Option<Vec<&str>> {
    let is_theirs = |name: &str| ["flags", "Features"].contains(&name.trim());
    let line = text.lines().filter_map(|line| line.split_once(':')).find(|(name, _)| is_theirs(name))?;
    Some(line.1.split_whitespace().collect())
}

fn usual() -> Cpu {
    if cfg!(target_arch = "aarch64") { Cpu::Arm } else { Cpu::Avx2 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Cpu {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        read(file.path())
    }

    #[test]
    fn the_first_processor_speaks_for_all() {
        assert_eq!(of("processor\t: 0\nflags\t\t: fpu avx2\nvmx flags\t: amx_int8 avx512_vnni\n"), Cpu::Avx2);
        assert_eq!(of("flags\t\t: avx512f avx512_vnni amx_tile amx_int8\n\nflags : fpu\n"), Cpu::Amx);
        assert_eq!(of("processor\t: 0\nFeatures\t: fp asimd crc32\n"), Cpu::Arm);
    }

    #[test]
    fn what_is_not_told_is_what_is_common() {
        assert_eq!(read(Path::new("/nowhere")), usual());
        assert_eq!(of("processor\t: 0\n"), usual());
    }
}
