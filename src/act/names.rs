//! Names: what people call a model of Ollama -> what its lists call it.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::error::ActError;
use super::ollama::{Ollama, preload};
use crate::policy::Rung;

/// A model that answered as loaded and is not listed by its name after this is listed by another one.
pub(super) const UNDER_ANOTHER_NAME: Duration = Duration::from_secs(1);
/// How long that one may take to go.
const GONE_MAX: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The name as the lists have it: with its tag, and without the parts that are the default.
pub(super) fn listed_name(model: &str) -> String {
    let short = model.strip_prefix("registry.ollama.ai/").unwrap_or(model);
    let short = short.strip_prefix("library/").unwrap_or(short);
    let last = short.rsplit('/').next().unwrap_or(short);
    if last.contains(':') { short.to_owned() } else { format!("{short}:latest") }
}

impl Ollama {
    /// It is there by another name of the same files (trap 6): it is let go, and comes back by this one.
    pub(super) async fn load_by_its_name(&self, rung: &Rung) -> Result<(), ActError> {
        let others = self.list().await.map_or(0, |listed| listed.len());
        if others == 0 {
            return Ok(());
        }
        self.tell_to_go(rung).await?;
        let told = Instant::now();
        while told.elapsed() < GONE_MAX && self.list().await.map_or(true, |listed| listed.len() >= others) {
            sleep(LOOK_EVERY).await;
        }
        self.http().post_and_hold("/api/generate", &preload(rung, rung.context)).await?.accepted()?;
        Ok(())
    }
}
