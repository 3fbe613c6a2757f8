//! Reload: the policy file, read again -> the policy that is gone by from now on, or what is wrong with the file.

use std::sync::Arc;
use std::time::Duration;

use super::conductor::Conductor;
use super::{policy_file, server};
use crate::admin::control::Answer;
use crate::decide::input::Input;

/// The longest that the server may take to tell its models when the policy was changed.
const FACTS_MAX: Duration = Duration::from_secs(5);

impl Conductor {
    /// A broken edit is told, and the old policy stays.
    pub(super) fn reload(&mut self) -> Answer {
        let Some(path) = self.parts.config.policy.clone() else { return Answer::NoPolicy };
        match policy_file::read(&path) {
            Ok(policy) if policy == *self.policy => {}
            Ok(policy) => {
                tracing::info!(message = "The policy was changed.", path = %path.display());
                self.policy = Arc::new(policy);
                let passed_on = super::passed_on(&self.parts.config, &self.policy);
                self.parts.gateway.follow(&self.policy, passed_on);
                self.apply_policy();
            }
            Err(error) => {
                let complaint = error.to_string();
                if self.complaint.as_ref() != Some(&complaint) {
                    tracing::error!(message = "The edited policy cannot be used; the old one stays.", %error);
                }
                self.complaint = Some(complaint.clone());
                return Answer::BadPolicy { why: complaint };
            }
        }
        self.complaint = None;
        Answer::Done
    }

    /// The policy may name models that came since the server was asked last, so it is asked before anything is chosen.
    fn apply_policy(&mut self) {
        // What serves by the old policy is still to be known by its name.
        self.parts.names.send_modify(|names| {
            for rung in &self.policy.ladder {
                if !names.contains(&rung.model) {
                    names.push(rung.model.clone());
                }
            }
        });
        let (driver, inputs) = (Arc::clone(&self.parts.driver), self.parts.inputs.clone());
        let (policy, names) = (Arc::clone(&self.policy), self.parts.names.borrow().clone());
        if let Some(earlier) = self.reloading.take() {
            earlier.abort();
        }
        self.reloading = Some(tokio::spawn(async move {
            if let Ok(Ok(facts)) = tokio::time::timeout(FACTS_MAX, server::facts(&driver, &names)).await {
                inputs.send(Input::ModelsFound(facts)).ok();
            }
            inputs.send(Input::PolicyChanged(policy)).ok();
        }));
    }
}
