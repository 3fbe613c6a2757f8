//! Private: a text that may quote a server's error -> the same without folders and addresses, for whoever is elsewhere.

/// Shortens every path to its last part, and every URL to its scheme. Where somebody keeps his models, and under which
/// name he logs in, is nothing that a chat service should know.
pub fn without_places(text: &str) -> String {
    text.split_inclusive(ends_place)
        .map(|piece| {
            let end = piece.trim_end_matches(ends_place);
            let (place, after) = piece.split_at(end.len());
            format!("{}{after}", shown(place))
        })
        .collect()
}

fn ends_place(c: char) -> bool {
    c.is_whitespace() || matches!(c, '"' | '\'' | '`' | '(' | ')' | '[' | ']' | '<' | '>' | ',' | ';' | '=')
}

fn shown(place: &str) -> String {
    if let Some((scheme, _)) = place.split_once("://") {
        return format!("{scheme}://…");
    }
    // A sentence may go on after it.
    let path = place.trim_end_matches([':', '.']);
    let is_path = path.starts_with('/') || path.starts_with("~/");
    match path.rsplit_once('/') {
        Some((folder, last)) if is_path && !last.is_empty() && folder.len() > 1 => {
            format!("…/{last}{}", &place[path.len()..])
        }
        Some(_) | None => place.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_and_addresses_are_left_out_and_the_rest_stays() {
        let cases = [
            ("cannot open `/home/anna/models/qwen.gguf`: no such file", "cannot open `…/qwen.gguf`: no such file"),
            (
                "error sending request for url (http://192.168.1.5:11434/api/chat)",
                "error sending request for url (http://…)",
            ),
            ("path=~/models/x.gguf, or \"/srv/y.bin\".", "path=…/x.gguf, or \"…/y.bin\"."),
            (
                "12.5 tokens/s of qwen3:4b / large; 50 % and/or more",
                "12.5 tokens/s of qwen3:4b / large; 50 % and/or more",
            ),
            ("/tmp is full, / too", "/tmp is full, / too"),
            ("", ""),
        ];
        for (text, expected) in cases {
            assert_eq!(without_places(text), expected);
        }
    }
}
