//! Machines: this machine's CPU -> the kinds of CPU that a server can be run on here, and what it cannot run on them.
//!
//! Where this one has AMX, the same server is run once more as on a CPU without: llama.cpp asks the kernel for its
//! registers, and is refused.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tierkeeper::act::cpu;
use tierkeeper::footprint::cpu::Cpu;

use super::llama::{Llama, command, free_port};

/// With AMX this server ends when it loads one of these: it has packed matrices for it that it then multiplies with
/// what does not lie in one piece, which AMX's code does not do. Left as they are, they run.
pub(crate) const NOT_WITH_AMX: [&str; 2] = ["mamba", "compressed"];
/// How it ends, as it says itself.
const ENDS_WITH: &str = "GGML_ASSERT(*cur_backend_id != -1) failed";

/// What a server is started on.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub(crate) cpu: Cpu,
    preload: Option<PathBuf>,
}

impl Machine {
    pub(crate) fn this() -> Self {
        Machine { cpu: cpu::read(Path::new(cpu::CPUINFO)), preload: None }
    }

    /// The same one without AMX, if it has that.
    pub(crate) fn without_amx(&self, folder: &Path) -> Option<Self> {
        (self.cpu == Cpu::Amx).then(|| Machine { cpu: Cpu::Avx512, preload: Some(refusal(folder)) })
    }

    pub(crate) fn runs(&self, shape: &str, arguments: &str) -> bool {
        self.cpu != Cpu::Amx || arguments.contains("--no-repack") || !NOT_WITH_AMX.contains(&shape)
    }

    pub(crate) fn start(&self, arguments: &[&str]) -> Llama {
        let port = free_port();
        let mut command = command(port);
        if let Some(preload) = &self.preload {
            command.env("LD_PRELOAD", preload);
        }
        Llama { process: command.args(arguments).spawn().unwrap(), port }
    }
}

/// What the server says when it cannot run a model here; one that can would have to leave the list.
pub(crate) fn ends_as_known(model: &Path) {
    let mut command = command(free_port());
    command.args(["-c", "512", "--cache-ram", "64", "-m"]).arg(model);
    let output = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(!output.status.success() && said.contains(ENDS_WITH), "{}: {said}", output.status);
}

fn refusal(folder: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/footprint_llama/no_amx.c");
    let library = folder.join("no_amx.so");
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).arg("-ldl").status();
    assert!(built.unwrap().success(), "cc has to build the library");
    library
}
