//! Derived: a rung of Ollama and its context -> a model of the server's that has it as its own default, made once.
//!
//! A request on `/v1` loads a model with the model's own context, whatever it was loaded with before. So a rung whose context
//! is another one gets a model of its own: the same files, and `num_ctx` set. What is there already is not made again.
//!
//! 1. A `from` that the server does not have would be fetched from the internet, so it is looked for first.
//! 2. "success" is no proof: the server is asked what it then has.

use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use super::error::ActError;
use super::ollama::Ollama;
use crate::policy::Rung;

/// What we make is called so, and nothing else may be.
pub const PREFIX: &str = "tierkeeper-";
/// Ollama's names are no longer.
const NAME_MAX: usize = 80;
const SHOW_MAX: Duration = Duration::from_secs(15);
/// It copies nothing, and writes a few lines; a slow disk may take its time.
const MAKE_MAX: Duration = Duration::from_secs(60);

/// What a rung is to be served by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Derived {
    /// Its own model has this context by itself.
    Needless,
    /// This model, which is there.
    There(String),
    /// This model, which is not there as it should be.
    Missing(String),
}

#[derive(Debug, Deserialize)]
struct Show {
    #[serde(default)]
    modelfile: String,
    #[serde(default)]
    parameters: String,
}

#[derive(Debug, Default, Deserialize)]
struct Progress {
    #[serde(default)]
    status: String,
}

impl Ollama {
    /// By what serves this rung, as far as it is there.
    pub(super) async fn derived(&self, rung: &Rung) -> Result<Derived, ActError> {
        let Some(context) = rung.context else { return Ok(Derived::Needless) };
        let wanted = name(&rung.name).ok_or_else(|| ActError::NotMade {
            model: format!("{PREFIX}{}", rung.name),
            evidence: "the name of the rung is too long for a model".to_owned(),
        })?;
        let base = self.shown(&rung.model).await?.ok_or_else(|| ActError::NotMade {
            model: wanted.clone(),
            evidence: format!("the server does not have `{}`", rung.model),
        })?;
        if num_ctx(&base.parameters) == Some(context) {
            return Ok(Derived::Needless);
        }
        let there = self.shown(&wanted).await?.is_some_and(|found| found.is_made_of(&base, context));
        Ok(if there { Derived::There(wanted) } else { Derived::Missing(wanted) })
    }

    /// The model that serves this rung in place of its own; `None` where its own does. It is made if it is not there.
    pub(super) async fn derive(&self, rung: &Rung) -> Result<Option<String>, ActError> {
        let wanted = match self.derived(rung).await? {
            Derived::Needless => return Ok(None),
            Derived::There(model) => return Ok(Some(model)),
            Derived::Missing(model) => model,
        };
        let order = json!({
            "model": wanted, "from": rung.model, "parameters": { "num_ctx": rung.context }, "stream": false,
        });
        let reply = self.http().post("/api/create", &order, MAKE_MAX).await?.accepted()?;
        tracing::debug!(message = "A model was asked for.", model = %wanted, status = reply.json::<Progress>().unwrap_or_default().status);
        match self.derived(rung).await? {
            Derived::There(model) => Ok(Some(model)),
            Derived::Needless | Derived::Missing(_) => Err(ActError::NotMade {
                model: wanted,
                evidence: format!("the server answered {}, and does not have it", reply.head()),
            }),
        }
    }

    async fn shown(&self, model: &str) -> Result<Option<Show>, ActError> {
        let reply = self.http().post("/api/show", &json!({ "model": model }), SHOW_MAX).await?;
        if reply.status == 404 { Ok(None) } else { reply.accepted()?.json().map(Some) }
    }
}

impl Show {
    /// Whether it is of the same files, template and parameters, but for this context.
    fn is_made_of(&self, base: &Show, context: u32) -> bool {
        num_ctx(&self.parameters) == Some(context) && self.contents() == base.contents()
    }

    /// Its Modelfile without the context, in an order of its own: the server writes parameters in any.
    fn contents(&self) -> Vec<&str> {
        let told =
            |line: &&str| !line.starts_with('#') && !line.starts_with("PARAMETER num_ctx ") && !line.trim().is_empty();
        let mut lines: Vec<&str> = self.modelfile.lines().filter(told).collect();
        lines.sort_unstable();
        lines
    }
}

/// The context among a model's own parameters, a line for each. A large number may be written as a fraction.
pub(super) fn num_ctx(parameters: &str) -> Option<u32> {
    let number = |line: &str| line.strip_prefix("num_ctx")?.trim().parse::<f64>().ok();
    let tokens = parameters.lines().find_map(number)?;
    (tokens >= 1.0 && tokens <= f64::from(u32::MAX)).then_some(tokens as u32)
}

/// What the model of a rung is called. Letters that a model's name cannot have are written as their number.
pub fn name(rung: &str) -> Option<String> {
    let plain = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || "-._".contains(letter);
    let letters = rung.chars().flat_map(char::to_lowercase);
    let letters = letters.map(|one| if plain(one) { one.to_string() } else { format!("u{:x}", u32::from(one)) });
    let name = format!("{PREFIX}{}", letters.collect::<String>());
    (name.len() <= NAME_MAX).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rung_of_any_name_has_a_model_of_a_name_that_ollama_takes() {
        assert_eq!(name("large").as_deref(), Some("tierkeeper-large"));
        assert_eq!(name("Mid range/2").as_deref(), Some("tierkeeper-midu20rangeu2f2"));
        assert_eq!(name(&"x".repeat(80)), None);
    }

    #[test]
    fn the_context_is_read_however_the_number_is_written() {
        let read = |written: &str| num_ctx(&format!("stop \"x\"\nnum_ctx                        {written}"));
        assert_eq!(
            [read("8192"), read("1.048576e+06"), read("0"), read("x")],
            [Some(8192), Some(1_048_576), None, None]
        );
        assert_eq!(num_ctx("temperature 1"), None);
    }

    #[test]
    fn what_was_changed_since_is_not_the_same() {
        let show = |text: &str, context: &str| Show {
            modelfile: format!("# FROM anything\nFROM /blobs/{text}\nPARAMETER stop x\n{context}"),
            parameters: context.replace("PARAMETER ", ""),
        };
        let (base, made) = (show("a", ""), show("a", "PARAMETER num_ctx 1024"));
        assert!(made.is_made_of(&base, 1024));
        assert!(!made.is_made_of(&base, 2048) && !made.is_made_of(&show("b", ""), 1024));
    }
}
