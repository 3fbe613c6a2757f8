//! What a config is, layer by layer: files in a folder, variables and flags -> the config and its provenance.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use super::layers::KEYS;
use super::load::{ConfigError, Flags, Loaded, Sources, load, state_file, user_file};
use super::settings::Settings;
use super::webhooks::WebhookFormat;
use super::{Pretend, QuietHours, ServerKind};
use crate::policy::yaml;
use crate::units::{Bytes, Span};

struct World {
    folder: TempDir,
    sources: Sources,
}

fn world() -> World {
    World { folder: tempfile::tempdir().unwrap(), sources: Sources::default() }
}

impl World {
    fn put(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn system(mut self, text: &str) -> Self {
        self.sources.system = Some(self.put("system.yaml", text));
        self
    }

    fn user(mut self, text: &str) -> Self {
        self.sources.user = Some(self.put("user.yaml", text));
        self
    }

    fn explicit(mut self, text: &str) -> Self {
        self.sources.explicit = Some(self.put("explicit.yaml", text));
        self
    }

    fn variable(mut self, name: &str, value: &str) -> Self {
        self.sources.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    fn load(self) -> (Result<Loaded, ConfigError>, TempDir) {
        (load(self.sources), self.folder)
    }

    fn loaded(self) -> (Loaded, TempDir) {
        let (result, folder) = self.load();
        (result.unwrap_or_else(|error| panic!("{}", error.render(false))), folder)
    }

    fn refused(self) -> String {
        let (result, folder) = self.load();
        let error = result.expect_err("this config is refused");
        error.render(false).replace(&folder.path().display().to_string(), ".")
    }
}

#[test]
fn without_any_source_everything_has_its_default() {
    let (Loaded { config, provenance }, _folder) = world().loaded();
    assert_eq!(config.gateway.listen.to_string(), "127.0.0.1:11435");
    assert_eq!(config.admin.listen.to_string(), "127.0.0.1:11436");
    assert_eq!(config.gateway.alias, ["mai", "auto"]);
    let hold = config.gateway.hold;
    assert_eq!((hold.count_max, hold.bytes_max, hold.age_max), (64, Bytes::mib(64), Span::seconds(60)));
    assert_eq!((config.gateway.body_max, config.stop_grace), (Bytes::mib(32), Span::seconds(30)));
    assert_eq!((config.server.url, config.policy, config.pretend), (None, None, None));
    assert!(provenance.values().all(|from| from == "default"), "{provenance:?}");
}

#[test]
fn what_was_learned_is_kept_where_the_system_wants_it() {
    let file = |state, xdg, home| state_file(state, xdg, home).map(|path| path.display().to_string());
    let home = Some("/home/mai");
    assert_eq!(file(Some("/var/lib/tk:/b"), Some("/x"), home).as_deref(), Some("/var/lib/tk/tierkeeper.db"));
    assert_eq!(file(None, Some("/x"), home).as_deref(), Some("/x/tierkeeper/tierkeeper.db"));
    let usual = Some("/home/mai/.local/state/tierkeeper/tierkeeper.db");
    assert_eq!(file(None, None, home).as_deref(), usual);
    assert_eq!(file(Some(""), Some("relative"), home).as_deref(), usual);
    assert_eq!(file(None, None, Some("")), None);
}

#[test]
fn the_example_holds_exactly_the_defaults_where_it_says_so() {
    let example = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config/tierkeeper.yaml")).unwrap();
    let (Loaded { config, .. }, _folder) = world().explicit(&example).loaded();
    let (Loaded { config: mut default, .. }, _other) = world().loaded();
    default.server.url = Some("http://127.0.0.1:11434".to_owned());
    default.server.kind = Some(ServerKind::Ollama);
    assert_eq!(config, default);
}

#[test]
fn each_layer_covers_the_ones_before_it_key_by_key() {
    let mut world = world()
        .system("stop_grace: 1s\ngateway: { body_max: 1MiB, hold: { count: 1, age: 1s } }\nserver: { url: one }\n")
        .user("stop_grace: 2s\ngateway: { body_max: 2MiB, hold: { count: 2 } }\n")
        .explicit("stop_grace: 3s\ngateway: { body_max: 3MiB }\n")
        .variable("TIERKEEPER_STOP_GRACE", "4s")
        .variable("TIERKEEPER_SERVER__URL", "four:1")
        .variable("HOME", "/root");
    world.sources.flags = Flags { server: Some("five".to_owned()), ..Flags::default() };
    let (Loaded { config, provenance }, folder) = world.loaded();
    assert_eq!(config.gateway.hold.age_max, Span::seconds(1));
    assert_eq!(config.gateway.hold.count_max, 2);
    assert_eq!(config.gateway.body_max, Bytes::mib(3));
    assert_eq!(config.stop_grace, Span::seconds(4));
    assert_eq!(config.server.url.as_deref(), Some("http://five:11434"));
    let from = |key: &str| provenance[key].replace(&folder.path().display().to_string(), ".");
    assert_eq!(from("gateway.hold.age"), "./system.yaml");
    assert_eq!(from("gateway.hold.count"), "./user.yaml");
    assert_eq!(from("gateway.body_max"), "./explicit.yaml");
    assert_eq!(from("stop_grace"), "TIERKEEPER_STOP_GRACE");
    assert_eq!(from("server.url"), "--server");
    assert_eq!(from("admin.listen"), "default");
}

#[test]
fn paths_in_a_file_are_meant_from_where_it_lies_and_others_as_they_stand() {
    let (Loaded { config, .. }, folder) =
        world().user("policy: laptop.yaml\ntell: { persona: /etc/mai.yaml }\nstore: learned.db\n").loaded();
    assert_eq!(config.policy, Some(folder.path().join("laptop.yaml")));
    assert_eq!(config.store, Some(folder.path().join("learned.db")));
    assert_eq!(config.tell.persona, Some(PathBuf::from("/etc/mai.yaml")));
    let (Loaded { config, .. }, _folder) = world().variable("TIERKEEPER_POLICY", "2026").loaded();
    assert_eq!(config.policy, Some(PathBuf::from("2026")));
}

#[test]
fn quiet_hours_are_two_times_of_the_day() {
    let hours = |written: &str| world().user(&format!("tell: {{ quiet_hours: \"{written}\" }}\n"));
    let quiet = |written: &str| hours(written).loaded().0.config.tell.quiet_hours;
    assert_eq!(quiet("22:00-07:30"), Some(QuietHours { from: 22 * 60, to: 7 * 60 + 30 }));
    assert_eq!(quiet("12 - 13"), Some(QuietHours { from: 12 * 60, to: 13 * 60 }));
    for wrong in ["22:00", "22:00-24:00", "7:60-8", "9-9", "evening-morning", "-"] {
        let report = hours(wrong).refused();
        assert!(report.contains("not a part of the day") && report.contains("22:00-07:30"), "{report}");
    }
}

#[test]
fn variables_can_hold_lists_booleans_and_numbers() {
    let (Loaded { config, .. }, _folder) = world()
        .variable("TIERKEEPER_GATEWAY__ALIAS", "mai, 7")
        .variable("TIERKEEPER_GATEWAY__TRUSTED_NETWORK", "true")
        .variable("TIERKEEPER_GATEWAY__HOLD__COUNT", "8")
        .variable("TIERKEEPER_PRETEND__MEMORY", "4GiB")
        .variable("TIERKEEPER_PRETEND__VRAM", "0GiB")
        .variable("TIERKEEPER_SERVER__KIND", "llama-server")
        .loaded();
    assert_eq!(config.gateway.alias, ["mai", "7"]);
    assert!(config.gateway.trusted_network);
    assert_eq!(config.gateway.hold.count_max, 8);
    assert_eq!(config.pretend, Some(Pretend { memory: Some(Bytes::gib(4)), vram: Some(Bytes::ZERO) }));
    assert_eq!(config.server.kind, Some(ServerKind::LlamaServer));
}

#[test]
fn every_setting_can_be_a_variable() {
    let full = "
server: { url: box, kind: ollama }
gateway: { listen: '127.0.0.1:1', alias: [a], trusted_network: true, token_file: t, hosts: [h], hold: { count: 1, bytes: 1MiB, age: 1s }, body_max: 1MiB, in_band: { header: true, asleep: true } }
admin: { listen: '127.0.0.1:2', token_file: t, hosts: [h] }
ollama: { derive_models: true }
policy: p
tell: { persona: p, upgrades: true, quiet_hours: 22-7, privacy: program_names, webhooks: [], experiments: { withhold: 10%, within: 30m, favour: true } }
sampling: { nvml: n }
store: s
pretend: { memory: 1GiB, vram: 1GiB }
observe: true
stop_grace: 1s
";
    let settings: Settings = yaml::read(full, "full.yaml").unwrap_or_else(|wrong| panic!("{wrong}"));
    let mut written = Vec::new();
    leaves("", &serde_json::to_value(&settings).unwrap(), &mut written);
    written.sort();
    // Which is a word, or has others below it.
    let mut known: Vec<&str> = KEYS.iter().map(|(key, _)| *key).filter(|key| *key != "gateway").collect();
    known.sort_unstable();
    assert_eq!(written, known);
}

#[test]
fn the_gateway_can_be_off_until_somebody_sets_it_again() {
    let is_off = |world: World| world.loaded().0.config.gateway_off;
    assert!(!is_off(world()));
    assert!(is_off(world().user("gateway: off\n")));
    assert!(is_off(world().user("gateway: off\n").explicit("stop_grace: 3s\n")), "a file that says nothing of it");
    assert!(is_off(world().variable("TIERKEEPER_GATEWAY", "off")));
    assert!(!is_off(world().user("gateway: off\n").explicit("gateway: { alias: [x] }\n")));
    assert!(is_off(world().user("gateway: { alias: [x] }\n").explicit("gateway: off\n")));
    let refused = world().user("gateway: on\n").variable("TIERKEEPER_GATEWAY", "of").refused();
    assert!(refused.matches("or `off`").count() == 2, "{refused}");
}

fn leaves(path: &str, value: &serde_json::Value, found: &mut Vec<String>) {
    match value.as_object() {
        Some(map) => {
            map.iter().for_each(|(key, value)| leaves(format!("{path}.{key}").trim_start_matches('.'), value, found))
        }
        None => found.push(path.to_owned()),
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "the snapshot shows the whole of what an operator reads")]
fn everything_that_is_wrong_is_told_at_once_with_its_source() {
    let refused = world()
        .user("gatway: {}\nstop_grace: 30\nserver: { url: 'ftp://box', kind: olama }\n")
        .explicit("gateway: { listen: 11435, alias: mai, trusted_network: yes }\n")
        .variable("TIERKEEPER_GATEWAY__LISTN", "x")
        .variable("TIERKEEPER_STOP_GRACE", "5")
        .variable("TIERKEEPER_SERVER__KIND", "llama")
        .variable("TIERKEEPER_GATEWAY__HOLD__COUNT", "many")
        .refused();
    insta::assert_snapshot!(refused, @r#"
    error: unknown key: `gatway`
     --> ./user.yaml:1:1
      |
    1 | gatway: {}
      | ^^^^^^ nothing has this name here
      |
      = expected: one of `server`, `ollama`, `gateway`, `admin`, `policy`, `tell`, `sampling`, `store`, `pretend`, `observe`, `stop_grace`
      = help: write `gateway:`

    error: `stop_grace`: a number without its unit: `30`
     --> ./user.yaml:2:13
      |
    2 | stop_grace: 30
      |             ^^ this value
      |
      = expected: a duration with its unit, such as `30s`, `5m` or `250ms`
      = help: write `stop_grace: 30s`

    error: `url`: neither http nor https: `ftp://box`
     --> ./user.yaml:3:16
      |
    3 | server: { url: 'ftp://box', kind: olama }
      |                ^^^^^^^^^^^ this value
      |
      = expected: where the server listens
      = help: write `url: "http://127.0.0.1:11434"`

    error: `kind` cannot be `olama`
     --> ./user.yaml:3:35
      |
    3 | server: { url: 'ftp://box', kind: olama }
      |                                   ^^^^^ not known
      |
      = expected: one of `ollama`, `llama-server`
      = help: write `kind: ollama`

    error: `listen`: a port without its address: `11435`
     --> ./explicit.yaml:1:20
      |
    1 | gateway: { listen: 11435, alias: mai, trusted_network: yes }
      |                    ^^^^^ this value
      |
      = expected: an address and a port, such as `127.0.0.1:11435`
      = help: write `listen: "127.0.0.1:11435"`

    error: `alias` cannot be the text `mai`
     --> ./explicit.yaml:1:34
      |
    1 | gateway: { listen: 11435, alias: mai, trusted_network: yes }
      |                                  ^^^ not what belongs here
      |
      = expected: a list
      = help: write `alias: [mai]`

    error: `trusted_network` cannot be the text `yes`
     --> ./explicit.yaml:1:56
      |
    1 | gateway: { listen: 11435, alias: mai, trusted_network: yes }
      |                                                        ^^^ not what belongs here
      |
      = expected: `true` or `false`
      = help: write `trusted_network: true`

    error: `gateway.hold.count` cannot be `many`
     --> environment:1:33
      |
    1 | TIERKEEPER_GATEWAY__HOLD__COUNT=many
      |                                 ^^^^ not what belongs here
      |
      = expected: a whole number, not negative
      = help: write `TIERKEEPER_GATEWAY__HOLD__COUNT=64`

    error: unknown variable: `TIERKEEPER_GATEWAY__LISTN`
     --> environment:1:1
      |
    1 | TIERKEEPER_GATEWAY__LISTN
      | ^^^^^^^^^^^^^^^^^^^^^^^^^ sets nothing
      |
      = expected: the name of a setting after `TIERKEEPER_`, with `__` between its keys
      = help: write `TIERKEEPER_GATEWAY__LISTEN`

    error: `server.kind` cannot be `llama`
     --> environment:1:25
      |
    1 | TIERKEEPER_SERVER__KIND=llama
      |                         ^^^^^ not known
      |
      = expected: one of `ollama`, `llama-server`
      = help: write `TIERKEEPER_SERVER__KIND=ollama`

    error: `stop_grace`: a number without its unit: `5`
     --> environment:1:23
      |
    1 | TIERKEEPER_STOP_GRACE=5
      |                       ^ this value
      |
      = expected: a duration with its unit, such as `30s`, `5m` or `250ms`
      = help: write `TIERKEEPER_STOP_GRACE=5s`
    "#);
}

#[test]
fn what_is_open_to_others_needs_a_token_or_trust() {
    let refused = world()
        .user("gateway: { listen: '0.0.0.0:11434' }\n")
        .variable("TIERKEEPER_ADMIN__LISTEN", "0.0.0.0:11436")
        .refused();
    insta::assert_snapshot!(refused, @r#"
    error: the gateway would be open to everybody who can reach this machine
     --> ./user.yaml:1:20
      |
    1 | gateway: { listen: '0.0.0.0:11434' }
      |                    ^^^^^^^^^^^^^^^ not a loopback address
      |
      = expected: beyond loopback `gateway.token_file`, or `gateway.trusted_network` where only friends are
      = help: add `token_file: gateway-token` under `gateway`, or write `listen: "127.0.0.1:11435"`

    error: the control API would be open to everybody who can reach this machine
     --> environment:1:26
      |
    1 | TIERKEEPER_ADMIN__LISTEN=0.0.0.0:11436
      |                          ^^^^^^^^^^^^^ not a loopback address
      |
      = expected: beyond loopback `admin.token_file`
      = help: add `token_file: admin-token` under `admin`, or write `listen: "127.0.0.1:11436"`
    "#);
    let open = |text: &str| world().user(text).load().0.is_ok();
    assert!(open("gateway: { listen: '0.0.0.0:1', trusted_network: true }\n"));
    assert!(open("gateway: { listen: '0.0.0.0:1', token_file: t }\nadmin: { listen: '[::]:2', token_file: t }\n"));
    assert!(open("gateway: { listen: '127.0.0.2:1' }\nadmin: { listen: '[::1]:2' }\n"));
    assert!(!open("admin: { listen: '[::]:2' }\n"));
    assert!(!open("gateway: { listen: '0.0.0.0:1', trusted_network: false }\n"));
}

#[test]
fn a_webhooks_address_comes_from_its_file_and_must_be_https() {
    let world_with = |text: &str| {
        let world = world().user(text);
        world.put("url.txt", "https://discord.com/api/webhooks/1/hush\n\n");
        world.put("empty.txt", "\n");
        world
    };
    let (Loaded { config, .. }, _folder) =
        world_with("tell: { webhooks: [{ url_file: url.txt, format: discord }, { url: 'http://10.0.0.1/x', format: generic, allow_private: true }] }\n").loaded();
    assert_eq!(config.tell.webhooks[0].url, "https://discord.com/api/webhooks/1/hush");
    assert_eq!(config.tell.webhooks[0].format, WebhookFormat::Discord);
    assert!(config.tell.webhooks[1].allow_private);
    let refused = world_with(
        "tell:
  webhooks:
    - { url_file: nowhere.txt, format: discord }
    - { url_file: empty.txt, format: discord }
    - { url: 'http://hooks.example/hush', format: generic }
    - { format: generic }
    - { url: 'https://hooks.example/hush', url_file: url.txt, format: generic }
",
    )
    .refused();
    assert!(!refused.contains("hush"), "{refused}");
    insta::assert_snapshot!(refused, @r#"
    error: the file cannot be read: ./nowhere.txt: No such file or directory (os error 2)
     --> ./user.yaml:3:19
      |
    3 |     - { url_file: nowhere.txt, format: discord }
      |                   ^^^^^^^^^^^ this file
      |
      = expected: a readable file
      = help: write the webhook's URL into `./nowhere.txt`

    error: the file is empty
     --> ./user.yaml:4:19
      |
    4 |     - { url_file: empty.txt, format: discord }
      |                   ^^^^^^^^^ no URL in it
      |
      = expected: the webhook's URL in its first line
      = help: write the webhook's URL into `./empty.txt`

    error: a webhook over plain http shows its secret to everybody on the way
     --> ./user.yaml:5:14
      |
    5 |     - { url: 'http://hooks.example/****', format: generic }
      |              ^^^^^^^^^^^^^^^^^^^^^^^^^^^ this address
      |
      = expected: an https URL
      = help: write `https://` before the host, or add `allow_private: true` for one of your own network

    error: a webhook has one address
     --> ./user.yaml:6:7
      |
    6 |     - { format: generic }
      |       ^^^^^^^^^^^^^^^^^^^ `url` and `url_file`, or neither
      |
      = expected: exactly one of `url` and `url_file`
      = help: write `url_file: discord-url.txt` and nothing else for it

    error: a webhook has one address
     --> ./user.yaml:7:7
      |
    7 |     - { url: 'https://hooks.example/****', url_file: url.txt, format: generic }
      |       ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ `url` and `url_file`, or neither
      |
      = expected: exactly one of `url` and `url_file`
      = help: write `url_file: discord-url.txt` and nothing else for it
    "#);
}

#[test]
fn a_webhook_has_its_events_and_secrets_and_what_is_wrong_with_them_is_told() {
    let world_with = |text: &str| {
        let world = world().user(text);
        world.put("two.txt", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n\nwhsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD\n");
        world.put("bad.txt", "hush-hush\n");
        world
    };
    let fine = "tell: { webhooks: [{ url: 'https://h.example/x', format: generic, secret_file: two.txt, events: [load_failed] }, { url: 'https://ntfy.sh/mai', format: ntfy }] }\n";
    let (Loaded { config, .. }, _folder) = world_with(fine).loaded();
    assert_eq!(config.tell.webhooks[0].secrets.len(), 2);
    assert_eq!(config.tell.webhooks[0].events.as_deref(), Some(&["load_failed".to_owned()][..]));
    assert_eq!((config.tell.webhooks[1].secrets.len(), &config.tell.webhooks[1].events), (0, &None));
    let refused = world_with(
        "tell:
  webhooks:
    - { url: 'https://h.example/x', format: generic, secret_file: bad.txt }
    - { url: 'https://h.example/x', format: slack, secret_file: two.txt }
    - { url: 'https://h.example/x', format: slack, events: [downgraded, load_faild] }
    - { url: 'https://ntfy.sh/', format: ntfy }
",
    )
    .refused();
    assert!(!refused.contains("hush"), "{refused}");
    insta::assert_snapshot!(refused, @r#"
    error: a secret does not begin with `whsec_`
     --> ./user.yaml:3:67
      |
    3 |     - { url: 'https://h.example/*', format: generic, secret_file: bad.txt }
      |                                                                   ^^^^^^^ in this file
      |
      = expected: `whsec_` and 24 to 64 bytes in base64 on each line
      = help: echo "whsec_$(openssl rand -base64 32)" > ./bad.txt

    error: only generic messages are signed
     --> ./user.yaml:4:65
      |
    4 |     - { url: 'https://h.example/*', format: slack, secret_file: two.txt }
      |                                                                 ^^^^^^^ not for this format
      |
      = expected: `format: generic` beside it
      = help: leave `secret_file` out

    error: unknown event: `load_faild`
     --> ./user.yaml:5:73
      |
    5 |     - { url: 'https://h.example/*', format: slack, events: [downgraded, load_faild] }
      |                                                                         ^^^^^^^^^^ no message is called so
      |
      = expected: some of downgraded, handed_over, resources_wanted, suggested, load_failed, came_up_on_cpu, memory_kept, asleep, contested, stalled, upgraded
      = help: write `load_failed`

    error: the address names no topic
     --> ./user.yaml:6:14
      |
    6 |     - { url: 'https://ntfy.sh/', format: ntfy }
      |              ^^^^^^^^^^^^^^^^^^ this address
      |
      = expected: letters, digits, `-` or `_`
      = help: write the topic after the host, as in `ntfy.sh/my-topic`
    "#);
}

#[test]
fn no_message_shows_the_secret_of_a_webhook() {
    for text in [
        "tell: { webhooks: [{ url: 'https://h.example/hush', format: discord, format: discord }] }\n",
        "tell: { webhooks: [{ uri: 'https://h.example/hush', format: discord }] }\n",
        "tell: { webhooks: [{ url: 'https://h.example/hush', format: 'https://h.example/hush' }] }\n",
        "tell: { webhooks: [{ url: 'https://h.example/hush', format: discord }\n",
        "tell: { webhooks: 'https://h.example/hush' }\n",
        "server: { url: 'http://user:hush@box' }\n",
    ] {
        let refused = world().user(text).refused();
        assert!(!refused.contains("hush"), "{refused}");
    }
    let webhooks = "[{url=\"http://h.example/hush\",format=\"generic\"}]";
    let refused = world().variable("TIERKEEPER_TELL__WEBHOOKS", webhooks).refused();
    assert!(!refused.contains("hush"), "{refused}");
}

#[test]
fn files_that_may_be_absent_may_be_absent_and_the_named_one_may_not() {
    let mut absent = world();
    absent.sources.system = Some(absent.folder.path().join("no/such.yaml"));
    absent.sources.user = Some(absent.folder.path().join("none.yaml"));
    absent.loaded();
    let mut named = world();
    named.sources.explicit = Some(named.folder.path().join("none.yaml"));
    assert!(named.refused().starts_with("error: cannot read the config `./none.yaml`: "));
    world().user("# nothing yet\n").loaded();
    world().user("").loaded();
}

#[test]
fn the_users_file_lies_where_the_desktop_specification_says() {
    let found = |xdg, home| user_file(xdg, home).map(|path| path.display().to_string());
    assert_eq!(found(Some("/x"), Some("/home/a")).as_deref(), Some("/x/tierkeeper/config.yaml"));
    assert_eq!(found(None, Some("/home/a")).as_deref(), Some("/home/a/.config/tierkeeper/config.yaml"));
    assert_eq!(found(Some("relative"), Some("/home/a")).as_deref(), Some("/home/a/.config/tierkeeper/config.yaml"));
    assert_eq!(found(None, None), None);
}
