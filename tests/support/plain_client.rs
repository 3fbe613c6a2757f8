//! A client for tests: nothing in -> a client that speaks plain http and needs neither proxy nor CA roots.

/// reqwest wants a provider of cryptography even for plain http.
pub(crate) fn plain_client() -> reqwest::Client {
    // Somebody else in this process may have installed one already, which is as good.
    drop(rustls::crypto::ring::default_provider().install_default());
    reqwest::Client::builder().no_proxy().tls_certs_only([]).build().expect("a plain client builds")
}
