//! Hearing: what the gateway tells of a rung -> what the Controller is to know of it.

use crate::decide::input::Input;
use crate::gateway::{Event, Gateway};

/// `None` where it has been overtaken, or is not about a rung.
pub fn input(gateway: &Gateway, event: Event) -> Option<Input> {
    match event {
        Event::Drained { rung, model } => gateway.is_vacant(&model).then_some(Input::Drained { rung }),
        Event::HandedOver { rung, moved, left } => {
            tracing::info!(message = "Replies were handed over.", %rung, moved, left);
            Some(Input::HandedOver { rung, moved, left })
        }
        Event::HandOverFailed { rung, why } => {
            tracing::info!(message = "No reply was handed over.", %rung, %why);
            Some(Input::HandOverFailed { rung, why })
        }
        Event::Wanted | Event::Replied { .. } | Event::UpstreamFailed { .. } => None,
    }
}
