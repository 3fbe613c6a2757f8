//! Told: the path and query of a question about a model -> the same, about the model that our names mean.
//!
//! Bodies name a model in one place of theirs; questions without a body do it in the path (`/v1/models/mai`) or in the
//! query (`/props?model=mai`), where the server would look for a model of that name and find none.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// What stands for itself in a path and in a query.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b':');
const OF_MODEL: &str = "/v1/models/";

/// The path and the query, with each name for which there is a model replaced by that model.
pub fn about<'a>(
    (path, query): (&'a str, Option<&'a str>),
    meant: impl Fn(&str) -> Option<String>,
) -> (Cow<'a, str>, Option<Cow<'a, str>>) {
    let model = |name: &str| {
        let model = meant(&percent_decode_str(name).decode_utf8().ok()?)?;
        Some(utf8_percent_encode(&model, ENCODED).to_string())
    };
    let named = path.strip_prefix(OF_MODEL).and_then(model);
    let path = named.map_or(Cow::Borrowed(path), |model| Cow::Owned(format!("{OF_MODEL}{model}")));
    let query = query.map(|query| {
        let pair = |pair: &'a str| match pair.strip_prefix("model=").and_then(model) {
            Some(model) => Cow::Owned(format!("model={model}")),
            None => Cow::Borrowed(pair),
        };
        Cow::Owned(query.split('&').map(pair).collect::<Vec<_>>().join("&"))
    });
    (path, query)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(path: &str, query: Option<&str>) -> (String, Option<String>) {
        let meant = |name: &str| (name == "mai" || name == "a/b").then(|| "qwen3:4b/x y".to_owned());
        let (path, query) = about((path, query), meant);
        (path.into_owned(), query.map(Cow::into_owned))
    }

    #[test]
    fn our_names_are_replaced_where_a_model_is_named_and_nowhere_else() {
        let model = "qwen3:4b%2Fx%20y".to_owned();
        assert_eq!(told("/v1/models/mai", None), (format!("/v1/models/{model}"), None));
        assert_eq!(told("/v1/models/m%61i", Some("a=mai")), (format!("/v1/models/{model}"), Some("a=mai".to_owned())));
        let query = Some(format!("x=1&model={model}&y=model=mai"));
        assert_eq!(told("/props", Some("x=1&model=mai&y=model=mai")), ("/props".to_owned(), query));
        assert_eq!(told("/props", Some("model=a%2Fb")).1, Some(format!("model={model}")));
        for (path, query) in
            [("/v1/models/other", Some("model=other%20")), ("/mai", Some("model=%ff&&mai")), ("/", None)]
        {
            assert_eq!(told(path, query), (path.to_owned(), query.map(str::to_owned)));
        }
    }
}
