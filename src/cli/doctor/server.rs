//! Server: what the model server says and how it was started -> what of it works with us, and what could be better.

use super::finding::Finding;
use crate::config::ServerKind;
use crate::sample::host::cgroup::{Sight, tightest};
use crate::sample::host::view::View;
use crate::units::Bytes;

/// How a server was started, as far as its process tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Started {
    pub arguments: Vec<String>,
    /// Of its environment what begins with `OLLAMA_`; `None` when we may not read it.
    pub environment: Option<Vec<(String, String)>>,
}

/// Whether the server's processes, and the files that they map, can be seen from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Processes {
    Seen {
        count: usize,
    },
    /// They are seen, but not which model files they map.
    WeightsHidden {
        count: usize,
    },
    Hidden,
}

/// Who tells what the server's processes hold of a card's own memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Video {
    Told,
    /// The processes are not seen, so nobody can be asked of them.
    Hidden,
    /// The processes' own files, which may not be read from here.
    FilesHidden,
    /// The driver does not name them, or names others than are seen from here.
    Untold,
}

/// What llama-server's cache of prompts may grow to when nobody says otherwise.
const PROMPT_CACHE: Bytes = Bytes::gib(8);
/// More of it than this is more than most conversations need.
const PROMPT_CACHE_ENOUGH: Bytes = Bytes::gib(1);

pub fn processes(seen: Processes, kind: ServerKind, view: View) -> Finding {
    match seen {
        Processes::Seen { count } => {
            Finding::fine("processes", format!("{count} seen: what its models hold is measured"))
        }
        Processes::WeightsHidden { count } => Finding::better(
            "processes",
            format!("{count} seen, but not the model files they map: their use is understated"),
            "run tierkeeper as the user of the model server",
        ),
        Processes::Hidden => Finding::better(
            "processes",
            "not seen from here: what its models hold is estimated",
            match (view, kind) {
                (View::Container, ServerKind::Ollama) => "in the compose file: pid: \"service:ollama\"",
                (View::Container, ServerKind::LlamaServer) => "in the compose file: pid: \"service:llama-server\"",
                (View::Machine | View::Lxcfs | View::Wsl | View::DockerDesktop, _) => {
                    "run tierkeeper on the machine of the model server, as its user or as root"
                }
            },
        ),
    }
}

/// What of the graphics memory is its own. Where that is not told, what a load was seen to add counts as its own.
pub fn video(told: Video, kind: ServerKind, view: View) -> Finding {
    const NAME: &str = "GPU memory";
    const ESTIMATED: &str = "what its models hold of it is estimated";
    let in_container = match kind {
        ServerKind::Ollama => "in the compose file: pid: host, instead of \"service:ollama\"",
        ServerKind::LlamaServer => "in the compose file: pid: host, instead of \"service:llama-server\"",
    };
    let by_user = "run tierkeeper on the machine of the model server, as its user or as root";
    let at = |outside| if view == View::Container { in_container } else { outside };
    match told {
        Video::Told => Finding::fine(NAME, "what each of its processes holds of it is told"),
        Video::Hidden => {
            Finding::better(NAME, format!("its processes are not seen from here: {ESTIMATED}"), at(by_user))
        }
        Video::FilesHidden => {
            Finding::better(NAME, format!("its processes' files may not be read: {ESTIMATED}"), at(by_user))
        }
        Video::Untold => Finding::better(
            NAME,
            format!("its driver does not name the processes that are seen here: {ESTIMATED}"),
            at("see whether `nvidia-smi` names them; under WSL it never does"),
        ),
    }
}

/// How much is seen out of a container.
pub fn level(processes: Processes, group: &Sight) -> Finding {
    const NAME: &str = "container";
    match (processes, group) {
        (Processes::Hidden, _) => Finding::absent(NAME, "level 1 of 3: the machine's memory is seen"),
        (_, Sight::Hidden) => {
            Finding::fine(NAME, "level 2 of 3: the machine's memory and the server's processes are seen")
        }
        (_, Sight::Seen(_)) => {
            Finding::fine(NAME, "level 3 of 3: memory, processes and the server's own limit are seen")
        }
    }
}

/// The limit of its control group, which may be far below what the machine has.
pub fn limit(group: &Sight, view: View) -> Finding {
    const NAME: &str = "memory limit";
    match group {
        Sight::Seen(groups) => match tightest(groups, Bytes::ZERO) {
            None => Finding::fine(NAME, "none but the machine's"),
            Some(group) => Finding::fine(NAME, format!("{}, {} of it in use", group.limit, group.used(Bytes::ZERO))),
        },
        Sight::Hidden if view == View::Container => Finding::better(
            NAME,
            "whether its container has one is not seen from here",
            "in the compose file: pid: host, and volumes: [\"/sys/fs/cgroup:/host/cgroup:ro\"]; not needed without a limit",
        ),
        Sight::Hidden => Finding::absent(NAME, "whether it has one is not seen from here"),
    }
}

/// How many models it can hold: with one, every switch has a gap.
pub fn room_for_two(models_max: Option<u32>, kind: ServerKind, started: Option<&Started>) -> Finding {
    let told = match kind {
        ServerKind::Ollama => started.and_then(|started| started.variable("OLLAMA_MAX_LOADED_MODELS")?.parse().ok()),
        ServerKind::LlamaServer => None,
    };
    let mend = match kind {
        ServerKind::Ollama => "start it with: OLLAMA_MAX_LOADED_MODELS=2",
        ServerKind::LlamaServer => "start it with: --models-max 2",
    };
    // Zero is its word for choosing by itself.
    match models_max.or(told).filter(|count| *count > 0) {
        Some(1) => Finding::better("models at once", "one: callers wait while one goes and another comes", mend),
        Some(count) => Finding::fine("models at once", count.to_string()),
        None => Finding::absent("models at once", "not told; two are tried where both fit"),
    }
}

/// llama-server keeps old prompts in memory, beside the model.
pub fn prompt_cache(started: &Started) -> Finding {
    let told = started.argument(&["--cache-ram", "-cram"]).and_then(|mib| mib.parse::<i64>().ok());
    let mend = "start it with: --cache-ram 512";
    match told {
        Some(0) => Finding::fine("prompt cache", "off"),
        Some(mib) if mib < 0 => Finding::better("prompt cache", "may grow without end beside the model", mend),
        Some(mib) if Bytes::mib(mib.unsigned_abs()) <= PROMPT_CACHE_ENOUGH => {
            Finding::fine("prompt cache", format!("at most {}", Bytes::mib(mib.unsigned_abs())))
        }
        Some(mib) => {
            let most = Bytes::mib(mib.unsigned_abs());
            Finding::better("prompt cache", format!("may grow to {most} beside the model"), mend)
        }
        None => Finding::better("prompt cache", format!("may grow to {PROMPT_CACHE} beside the model"), mend),
    }
}

impl Started {
    /// The value of the last of these flags, written `--flag value` or `--flag=value`.
    fn argument(&self, flags: &[&str]) -> Option<&str> {
        let pairs = self.arguments.iter().enumerate().rev();
        pairs
            .filter_map(|(at, argument)| match argument.split_once('=') {
                Some((flag, value)) if flags.contains(&flag) => Some(value),
                None if flags.contains(&argument.as_str()) => self.arguments.get(at + 1).map(String::as_str),
                Some(_) | None => None,
            })
            .next()
    }

    fn variable(&self, name: &str) -> Option<&str> {
        let found = self.environment.as_ref()?.iter().find(|(key, _)| key == name)?;
        Some(found.1.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Mark;
    use super::*;

    fn started(arguments: &[&str]) -> Started {
        Started { arguments: arguments.iter().map(|&word| word.to_owned()).collect(), environment: None }
    }

    #[test]
    fn a_prompt_cache_that_may_outgrow_the_model_is_worth_a_word() {
        let mark = |arguments: &[&str]| prompt_cache(&started(arguments)).mark;
        assert_eq!(mark(&["llama-server"]), Mark::Better);
        assert_eq!(mark(&["llama-server", "--cache-ram", "512"]), Mark::Fine);
        assert_eq!(mark(&["llama-server", "--cache-ram=0"]), Mark::Fine);
        assert_eq!(mark(&["llama-server", "-cram", "-1"]), Mark::Better);
        assert_eq!(mark(&["llama-server", "--cache-ram", "512", "--cache-ram", "4096"]), Mark::Better);
    }

    #[test]
    fn a_server_that_holds_one_model_has_a_gap_in_every_switch() {
        let ollama = |value: &str| Started {
            environment: Some(vec![("OLLAMA_MAX_LOADED_MODELS".to_owned(), value.to_owned())]),
            ..Started::default()
        };
        let mark = |value| room_for_two(None, ServerKind::Ollama, Some(&ollama(value))).mark;
        assert_eq!([mark("1"), mark("3"), mark("0")], [Mark::Better, Mark::Fine, Mark::Absent]);
        assert_eq!(room_for_two(Some(1), ServerKind::LlamaServer, None).mark, Mark::Better);
        assert_eq!(room_for_two(None, ServerKind::Ollama, None).mark, Mark::Absent);
    }

    #[test]
    fn a_container_sees_the_more_the_more_it_is_given() {
        let says = |processes, group| level(processes, &group).says.chars().take(7).collect::<String>();
        assert_eq!(says(Processes::Hidden, Sight::Hidden), "level 1");
        assert_eq!(says(Processes::Seen { count: 1 }, Sight::Hidden), "level 2");
        assert_eq!(says(Processes::Seen { count: 1 }, Sight::Seen(Vec::new())), "level 3");
    }

    #[test]
    fn graphics_memory_that_nobody_tells_of_is_mended_where_it_is_hidden() {
        let told = |told, view| video(told, ServerKind::Ollama, view);
        assert_eq!(told(Video::Told, View::Machine).mark, Mark::Fine);
        for hidden in [Video::Hidden, Video::FilesHidden, Video::Untold] {
            assert!(told(hidden, View::Container).mend.unwrap().contains("pid: host"), "{hidden:?}");
            assert!(!told(hidden, View::Machine).mend.unwrap().contains("compose"), "{hidden:?}");
        }
    }

    #[test]
    fn hidden_processes_are_mended_where_they_are_hidden() {
        let mend = |view| processes(Processes::Hidden, ServerKind::Ollama, view).mend.unwrap();
        assert_eq!(mend(View::Container), "in the compose file: pid: \"service:ollama\"");
        assert!(mend(View::Machine).contains("as its user"));
    }
}
