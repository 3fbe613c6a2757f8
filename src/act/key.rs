//! Key: what a server tells of a model and how it loads it -> the key under which its footprint is learned.
//!
//! llama-server gives no digest. Its files' size and time of change stand for one: they cost a look that is needed for
//! the size anyway, where a hash would read megabytes of every model each time. A file that was only touched is learned
//! anew, which costs one load; a file that was replaced is never taken for the one before.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::arguments::{Arguments, GPU_LAYERS};
use crate::footprint::cpu::Cpu;
use crate::footprint::key::FootprintKey;
use crate::footprint::load::{Held, Load, Packing};

/// What it keeps its cache in when nobody says otherwise.
const USUAL_CACHE: &str = "f16";

/// The key of a model of Ollama. It reads weights into memory where it runs them on the CPU.
pub(super) fn of_ollama(version: &str, model: &str, digest: Option<&str>, cpu: Cpu) -> FootprintKey {
    FootprintKey {
        server: version.to_owned(),
        model: model.to_owned(),
        digest: digest.filter(|digest| !digest.is_empty()).map(str::to_owned),
        weights: Some(Held::Copied),
        packed: Some(cpu),
        ..FootprintKey::default()
    }
}

/// The key of a model of llama-server on this CPU, by the command line that it has or would have, and its files.
pub(super) async fn of_llama_server(
    (version, model, cpu): (&str, &str, Cpu),
    arguments: Arguments<'_>,
    files: Option<&[String]>,
) -> FootprintKey {
    let types = (arguments.value(&["--cache-type-k", "-ctk"]), arguments.value(&["--cache-type-v", "-ctv"]));
    let cache = match types {
        (None, None) => None,
        (keys, values) => Some(format!("{}/{}", keys.unwrap_or(USUAL_CACHE), values.unwrap_or(USUAL_CACHE))),
    };
    let load = arguments.load();
    let digest = match files {
        Some(files) => digest(files).await,
        None => None,
    };
    FootprintKey {
        server: version.to_owned(),
        model: model.to_owned(),
        digest,
        // Zero is the model's own.
        context: arguments.number(&["--ctx-size", "-c"]).filter(|tokens| *tokens > 0),
        parallel: arguments.number(&["--parallel", "-np"]),
        cache,
        gpu_layers: arguments.value(&GPU_LAYERS).map(str::to_owned),
        weights: Some(arguments.held()),
        batch: Some(load.batch).filter(|batch| *batch != Load::default().batch),
        cells: Some(load.cells).filter(|cells| *cells != Load::default().cells),
        windows: Some(load.windows).filter(|windows| *windows != Load::default().windows),
        packed: Some(match load.packing {
            Packing::Packed => cpu,
            Packing::AsTheyAre => Cpu::Plain,
        }),
    }
}

/// The size of all files and the latest change of any; `None` where one of them cannot be seen from here.
async fn digest(files: &[String]) -> Option<String> {
    let (mut size, mut changed) = (0, (0, 0));
    for file in files {
        // A relative path is relative to the server's folder, which is not ours.
        if !Path::new(file).is_absolute() {
            return None;
        }
        let found = tokio::fs::metadata(file).await.ok()?;
        size += found.len();
        changed = changed.max((found.mtime(), found.mtime_nsec()));
    }
    (size > 0).then(|| format!("{size}-{}.{:09}", changed.0, changed.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[tokio::test]
    async fn the_command_line_tells_how_a_model_is_loaded() {
        let key = async |line: &str| {
            let key = of_llama_server(("llama-server b1", "a", Cpu::Amx), Arguments(&words(line)), None).await;
            key.to_string().strip_prefix("server=llama-server%20b1 model=a ").unwrap().to_owned()
        };
        assert_eq!(
            key("llama-server -c 8192 --parallel 2 -ctk q8_0 -ngl 99 --no-mmap").await,
            "context=8192 parallel=2 cache=q8_0/f16 gpu_layers=99 weights=copied cells=each packed=amx"
        );
        assert_eq!(
            key("llama-server -np 2 -kvu -ub 256 --swa-full --no-repack").await,
            "parallel=2 weights=mapped batch=256 windows=full packed=plain"
        );
        assert_eq!(key("llama-server -c 0").await, "weights=mapped packed=amx");
    }

    #[tokio::test]
    async fn a_file_that_was_replaced_is_another_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name).display().to_string();
        std::fs::write(file("one"), b"weights").unwrap();
        std::fs::write(file("two"), b"and more").unwrap();
        let both = [file("one"), file("two")];
        let first = digest(&both).await.unwrap();
        assert!(first.starts_with("15-"), "{first}");
        assert_eq!(digest(&both).await.as_ref(), Some(&first), "it stays while nothing changes");
        let later = std::fs::File::options().append(true).open(file("one")).unwrap();
        later.set_modified(std::time::SystemTime::now() + std::time::Duration::from_secs(5)).unwrap();
        assert_ne!(digest(&both).await, Some(first));
        assert_eq!(digest(&[file("one"), file("none")]).await, None);
        assert_eq!(digest(&["one".to_owned()]).await, None, "it is relative to a folder that is not ours");
    }
}
