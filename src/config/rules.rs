//! Rules: the merged settings -> a `Config`, with every default, or what does not go together.

use std::net::{Ipv4Addr, SocketAddr};

use super::address::server_url;
use super::layers::Layers;
use super::settings::{
    AdminSettings, ExperimentSettings, GatewayChoice, GatewaySettings, HoldSettings, Hours, PretendSettings, Settings,
    TellSettings,
};
use super::webhooks::webhook;
use super::{
    AdminConfig, Config, ExperimentConfig, GatewayConfig, HoldConfig, InBand, OllamaConfig, Pretend, SamplingConfig,
    ServerConfig, TellConfig,
};
use crate::policy::diagnostic::{Diagnostic, Diagnostics};
use crate::policy::yaml::Quantity;
use crate::units::{Bytes, Permille, Span};

const GATEWAY_PORT: u16 = 11435;
const ADMIN_PORT: u16 = 11436;
/// More would be a persona that mostly holds its tongue.
const WITHHOLD_MAX: Permille = Permille(500);
/// Clients give up after 300 s; held requests must hear of it before.
const HOLD_AGE_MAX: Span = Span::seconds(280);

/// Complaints go to `layers.wrong`; the config is only to be used when there are none.
pub(super) fn config(settings: Settings, layers: &mut Layers) -> Config {
    let kind = settings.server.kind;
    let url = settings.server.url.and_then(|url| server_url(&url.0, kind).ok());
    Config {
        server: ServerConfig { url, kind },
        ollama: OllamaConfig { derive_models: settings.ollama.derive_models.unwrap_or(false) },
        gateway_off: matches!(settings.gateway, Some(GatewayChoice::Off(_))),
        gateway: gateway(settings.gateway, layers),
        admin: admin(settings.admin, layers),
        policy: settings.policy,
        tell: tell(settings.tell, layers),
        sampling: SamplingConfig { nvml: settings.sampling.nvml },
        store: settings.store,
        pretend: pretend(&settings.pretend),
        observe: settings.observe.unwrap_or(false),
        stop_grace: settings.stop_grace.map_or(Span::seconds(30), |grace| grace.amount),
    }
}

fn pretend(settings: &PretendSettings) -> Option<Pretend> {
    let amount = |size: &Option<Quantity<Bytes>>| size.as_ref().map(|size| size.amount);
    let pretend = Pretend { memory: amount(&settings.memory), vram: amount(&settings.vram) };
    (pretend != Pretend::default()).then_some(pretend)
}

/// A complaint about the value that `key` has, wherever it was written.
pub(super) fn tell_of(layers: &mut Layers, key: &str, title: &str, label: &str, expected: &str, help: &str) {
    let make = |span| Diagnostic::new(span, title, label).expected(expected).help(help);
    // A list comes from one place as a whole, so its elements have their list's. A complaint is never dropped: a value
    // without a place is a default, and that would be our own mistake.
    let parents = std::iter::successors(Some(key), |key| key.rsplit_once('.').map(|(parent, _)| parent));
    let told = match parents.filter_map(|key| layers.place(key)).next() {
        Some(place) => place.diagnostics(key, make),
        None => Diagnostics::new("defaults", key, vec![make(0..key.len())]),
    };
    layers.wrong.push(told);
}

impl Default for GatewayConfig {
    fn default() -> Self {
        GatewayConfig {
            listen: (Ipv4Addr::LOCALHOST, GATEWAY_PORT).into(),
            alias: vec!["mai".to_owned(), "auto".to_owned()],
            trusted_network: false,
            token_file: None,
            hosts: Vec::new(),
            hold: HoldConfig::default(),
            body_max: Bytes::mib(32),
            in_band: InBand::default(),
        }
    }
}

impl Default for HoldConfig {
    fn default() -> Self {
        HoldConfig { count_max: 64, bytes_max: Bytes::mib(64), age_max: Span::seconds(60) }
    }
}

fn gateway(choice: Option<GatewayChoice>, layers: &mut Layers) -> GatewayConfig {
    let default = GatewayConfig::default();
    let settings = match choice {
        Some(GatewayChoice::On(settings)) => *settings,
        Some(GatewayChoice::Off(_)) | None => GatewaySettings::default(),
    };
    let listen = settings.listen.map_or(default.listen, |listen| listen.0);
    let trusted_network = settings.trusted_network.unwrap_or(default.trusted_network);
    if !listen.ip().is_loopback() && !trusted_network && settings.token_file.is_none() {
        tell_of(
            layers,
            "gateway.listen",
            "the gateway would be open to everybody who can reach this machine",
            "not a loopback address",
            "beyond loopback `gateway.token_file`, or `gateway.trusted_network` where only friends are",
            "add `token_file: gateway-token` under `gateway`, or write `listen: \"127.0.0.1:11435\"`",
        );
    }
    if settings.alias.as_ref().is_some_and(|alias| alias.iter().any(|name| name.trim().is_empty())) {
        let help = "write `alias: [mai, auto]`";
        tell_of(layers, "gateway.alias", "an alias without a name", "empty", "names that clients ask for", help);
    }
    let body_max = settings.body_max.map_or(default.body_max, |size| size.amount);
    if body_max == Bytes::ZERO {
        let help = "write `body_max: 32MiB`";
        tell_of(layers, "gateway.body_max", "no request would be small enough", "nothing", "more than 0", help);
    }
    GatewayConfig {
        listen,
        alias: settings.alias.unwrap_or(default.alias),
        trusted_network,
        token_file: settings.token_file,
        hosts: settings.hosts.unwrap_or(default.hosts),
        hold: hold(&settings.hold, layers),
        body_max,
        in_band: InBand {
            header: settings.in_band.header.unwrap_or(default.in_band.header),
            asleep: settings.in_band.asleep.unwrap_or(default.in_band.asleep),
        },
    }
}

fn hold(settings: &HoldSettings, layers: &mut Layers) -> HoldConfig {
    let default = HoldConfig::default();
    let age_max = settings.age.as_ref().map_or(default.age_max, |age| age.amount);
    if age_max > HOLD_AGE_MAX {
        let title = "requests would be held longer than clients wait";
        tell_of(layers, "gateway.hold.age", title, "too long", "at most 280s", "write `age: 60s`");
    }
    HoldConfig {
        count_max: settings.count.unwrap_or(default.count_max),
        bytes_max: settings.bytes.as_ref().map_or(default.bytes_max, |size| size.amount),
        age_max,
    }
}

fn admin(settings: AdminSettings, layers: &mut Layers) -> AdminConfig {
    let listen = settings.listen.map_or(SocketAddr::from((Ipv4Addr::LOCALHOST, ADMIN_PORT)), |listen| listen.0);
    if !listen.ip().is_loopback() && settings.token_file.is_none() {
        tell_of(
            layers,
            "admin.listen",
            "the control API would be open to everybody who can reach this machine",
            "not a loopback address",
            "beyond loopback `admin.token_file`",
            "add `token_file: admin-token` under `admin`, or write `listen: \"127.0.0.1:11436\"`",
        );
    }
    AdminConfig { listen, token_file: settings.token_file, hosts: settings.hosts.unwrap_or_default() }
}

fn tell(settings: TellSettings, layers: &mut Layers) -> TellConfig {
    let hooks = settings.webhooks.unwrap_or_default().into_iter().enumerate();
    let webhooks = hooks.filter_map(|(index, hook)| webhook(index, hook, layers)).collect();
    TellConfig {
        persona: settings.persona,
        upgrades: settings.upgrades.unwrap_or(false),
        quiet_hours: settings.quiet_hours.as_ref().and_then(Hours::quiet),
        privacy: settings.privacy.unwrap_or_default(),
        webhooks,
        experiments: experiments(&settings.experiments, layers),
    }
}

fn experiments(settings: &ExperimentSettings, layers: &mut Layers) -> ExperimentConfig {
    let withhold = settings.withhold.as_ref().map_or(Permille::percent(10), |share| share.amount);
    if withhold > WITHHOLD_MAX {
        let (key, title) = ("tell.experiments.withhold", "most suggestions would never be told");
        tell_of(layers, key, title, "too many", "at most 50%", "write `withhold: 10%`, or `0%` for none");
    }
    let within = settings.within.as_ref().map_or(Span::minutes(30), |within| within.amount);
    if within == Span::ZERO {
        let (key, title) = ("tell.experiments.within", "nothing can come of it in no time");
        tell_of(layers, key, title, "no time", "more than 0s", "write `within: 30m`");
    }
    ExperimentConfig { withhold, within, favour: settings.favour.unwrap_or(false) }
}
