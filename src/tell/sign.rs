//! Sign: a message and secrets -> the header by which a receiver knows that it is ours, as Standard Webhooks has it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::hmac::{Context, HMAC_SHA256, Key};

use crate::config::webhooks::SigningSecret;

/// One signature for each secret, so that a receiver that has but one of them finds its own. `None` without a secret.
pub fn signatures(secrets: &[SigningSecret], id: &str, unix_seconds: u64, body: &str) -> Option<String> {
    let each: Vec<String> = secrets.iter().map(|secret| signature(secret, id, unix_seconds, body)).collect();
    (!each.is_empty()).then(|| each.join(" "))
}

fn signature(secret: &SigningSecret, id: &str, unix_seconds: u64, body: &str) -> String {
    let mut context = Context::with_key(&Key::new(HMAC_SHA256, &secret.0));
    context.update(format!("{id}.{unix_seconds}.").as_bytes());
    context.update(body.as_bytes());
    format!("v1,{}", STANDARD.encode(context.sign()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_signature_that_the_specification_has() {
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse().unwrap();
        let body = r#"{"test": 2432232314}"#;
        let signed = signatures(&[secret], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
        assert_eq!(signed.as_deref(), Some("v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="));
        assert_eq!(signatures(&[], "a", 0, body), None);
    }
}
