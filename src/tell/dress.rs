//! Dress: how a value is written into a text -> the templates of a persona, set up so that none can do harm.

use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior};

use super::discord;

/// What a template may cost: some thousand times what a message needs, and far from what would be felt.
const FUEL: u64 = 20_000;
const DISCORD_SUFFIX: &str = "/discord";

/// How values are written into a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dress {
    Plain,
    /// So that no value is taken for Discord's markdown or mentions.
    Discord,
}

/// Templates with nothing in them yet.
pub fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::SemiStrict);
    environment.set_fuel(Some(FUEL));
    environment.set_debug(true);
    // Functions (`range`, `debug`, ...) are nothing that a message needs.
    let functions: Vec<String> = environment.globals().map(|(name, _)| name.to_owned()).collect();
    functions.iter().for_each(|name| environment.remove_global(name));
    environment.set_auto_escape_callback(|name| match name.strip_suffix(DISCORD_SUFFIX) {
        Some(_) => AutoEscape::Custom(DISCORD_SUFFIX.into()),
        None => AutoEscape::None,
    });
    environment.set_formatter(|out, state, value| {
        if value.is_undefined() {
            return Err(ErrorKind::UndefinedError.into());
        }
        let plain = value.to_string();
        let written = if *state.auto_escape() == AutoEscape::None { plain } else { discord::escaped(&plain) };
        Ok(out.write_str(&written)?)
    });
    environment
}

/// The name of a template that is written in this way.
pub fn dressed(template: &str, dress: Dress) -> String {
    match dress {
        Dress::Plain => template.to_owned(),
        Dress::Discord => format!("{template}{DISCORD_SUFFIX}"),
    }
}
