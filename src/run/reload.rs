//! Reload: the policy file, read again -> the policy that is gone by from now on, or what is wrong with the file.

use std::sync::Arc;
use std::time::Duration;

use super::conductor::Conductor;
use super::derived::served;
use super::{policy_file, server};
use crate::admin::control::Answer;
use crate::decide::input::Input;

/// The longest that the server may take to tell its models when the policy was changed.
const FACTS_MAX: Duration = Duration::from_secs(5);

impl Conductor {
    /// A broken edit is told, and the old policy stays.
    pub(super) fn reload(&mut self) -> Answer {
        let Some(path) = self.parts.config.policy.clone() else { return Answer::NoPolicy };
        let read = policy_file::read(&path).map(|policy| super::as_followed(&self.parts.config, policy));
        match read {
            Ok(policy) if policy == *self.policy => {}
            Ok(policy) => {
                tracing::info!(message = "The policy was changed.", path = %path.display());
                self.policy = Arc::new(policy);
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

    /// The policy may name models that came since the server was asked last, so it is asked before anything is chosen; and
    /// models may have to be made for it before that.
    fn apply_policy(&mut self) {
        let parts = &self.parts;
        let (driver, inputs, names) = (Arc::clone(&parts.driver), parts.inputs.clone(), parts.names.clone());
        let (gateway, config, written) = (parts.gateway.clone(), parts.config.clone(), Arc::clone(&self.policy));
        if let Some(earlier) = self.reloading.take() {
            earlier.abort();
        }
        self.reloading = Some(tokio::spawn(async move {
            let served = served(&config, &driver, (*written).clone()).await;
            served.follow(&gateway, &config);
            let policy = served.policy;
            // What serves by the old policy is still to be known by its name.
            names.send_modify(|names| {
                let new = policy.ladder.iter().map(|rung| &rung.model).filter(|model| !names.contains(model));
                let new: Vec<String> = new.cloned().collect();
                names.extend(new);
            });
            let known = names.borrow().clone();
            if let Ok(Ok(facts)) = tokio::time::timeout(FACTS_MAX, server::facts(&driver, &known)).await {
                inputs.send(Input::ModelsFound(facts)).ok();
            }
            inputs.send(Input::PolicyChanged(Arc::new(policy))).ok();
        }));
    }
}
