//! One line of a recorded answer and one of a server under test -> where their shapes differ.

use serde_json::Value;

/// Idle waits are shortened in a replay, so what is left of a keep-alive may differ by the recording's length.
const EXPIRY_SLACK_MS: i64 = 45_000;

/// Compares two lines, each with the wall time in ms at which it came.
pub(crate) fn compare_line(recorded: (&str, i64), got: (&str, i64)) -> Vec<String> {
    let ((recorded, then), (got, now)) = (recorded, got);
    if recorded.ends_with('\n') != got.ends_with('\n') {
        return vec![format!("line end missing or too many: {got:?}")];
    }
    let (prefix, recorded_text) = payload(recorded);
    let (got_prefix, got_text) = payload(got);
    if prefix != got_prefix {
        return vec![format!("a line of another kind: {got:?} instead of {recorded:?}")];
    }
    let Ok(expected) = serde_json::from_str::<Value>(recorded_text) else {
        let same = recorded_text == got_text;
        return if same { Vec::new() } else { vec![format!("{got_text:?} instead of {recorded_text:?}")] };
    };
    let Ok(found) = serde_json::from_str::<Value>(got_text) else {
        return vec![format!("not JSON: {got_text:?}")];
    };
    let mut shape = Shape { differences: Vec::new(), then, now };
    shape.compare("", "$", &expected, &found);
    if shape.differences.is_empty() && keys_in_order(recorded_text) != keys_in_order(got_text) {
        shape.differences.push(format!("keys in another order: {:?}", keys_in_order(got_text)));
    }
    shape.differences
}

fn payload(line: &str) -> (&str, &str) {
    let line = line.trim_end_matches('\n');
    for prefix in ["data: ", "event: "] {
        if let Some(rest) = line.strip_prefix(prefix) {
            return (prefix, rest);
        }
    }
    ("", line)
}

struct Shape {
    differences: Vec<String>,
    then: i64,
    now: i64,
}

impl Shape {
    fn differs(&mut self, path: &str, recorded: &Value, got: &Value) {
        self.differences.push(format!("{path} is {got} instead of {recorded}"));
    }

    fn compare(&mut self, key: &str, path: &str, recorded: &Value, got: &Value) {
        match (recorded, got) {
            (Value::Object(expected), Value::Object(found)) => {
                for (key, value) in expected {
                    match found.get(key) {
                        Some(other) => self.compare(key, &format!("{path}.{key}"), value, other),
                        None => self.differences.push(format!("{path}.{key} is missing")),
                    }
                }
                let extra = found.keys().filter(|key| !expected.contains_key(*key));
                self.differences.extend(extra.map(|key| format!("{path}.{key} is not in the recording")));
            }
            (Value::Array(expected), Value::Array(found)) => {
                if expected.len() != found.len() {
                    self.differences.push(format!("{path} has {} items instead of {}", found.len(), expected.len()));
                }
                for (index, (value, other)) in expected.iter().zip(found).enumerate() {
                    self.compare(key, &format!("{path}[{index}]"), value, other);
                }
            }
            (Value::String(expected), Value::String(found)) => {
                if !self.same_text(key, expected, found) {
                    self.differs(path, recorded, got);
                }
            }
            (Value::Number(_), Value::Number(_)) => {
                if recorded != got && !free_number(key) {
                    self.differs(path, recorded, got);
                }
            }
            _ => {
                if recorded != got {
                    self.differs(path, recorded, got);
                }
            }
        }
    }

    fn same_text(&self, key: &str, recorded: &str, got: &str) -> bool {
        match key {
            "created_at" | "modified_at" => epoch_ms(got).is_some(),
            "expires_at" => self.same_expiry(recorded, got).unwrap_or_default(),
            "response" | "content" | "text" => recorded.is_empty() == got.is_empty(),
            "id" if !recorded.contains(':') => id_prefix(recorded) == id_prefix(got),
            "version" => !got.is_empty(),
            "digest" | "modelfile" => without_digests(recorded) == without_digests(got),
            _ => recorded == got,
        }
    }

    /// As much of the keep-alive is left as there was in the recording.
    fn same_expiry(&self, recorded: &str, got: &str) -> Option<bool> {
        let (expected, left) = (epoch_ms(recorded)? - self.then, epoch_ms(got)? - self.now);
        Some((expected - left).abs() <= EXPIRY_SLACK_MS)
    }
}

/// Times are free, and token ids, which a model at temperature 1 draws.
fn free_number(key: &str) -> bool {
    key.ends_with("_duration") || ["created", "created_at", "completed_at", "context"].contains(&key)
}

fn id_prefix(id: &str) -> &str {
    id.split(['-', '_']).next().unwrap_or_default()
}

/// The text with every run of 64 hexadecimal digits masked.
fn without_digests(text: &str) -> String {
    let hex = |part: &str| part.len() == 64 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    let parts = text.split_inclusive(|c: char| !c.is_ascii_alphanumeric());
    let masked = parts.map(|part| {
        let word = part.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
        if hex(word) { part.replace(word, "DIGEST") } else { part.to_owned() }
    });
    masked.collect()
}

/// All keys of a JSON text as they come, nested ones too.
fn keys_in_order(json: &str) -> Vec<&str> {
    let bytes = json.as_bytes();
    let (mut keys, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        if bytes[at] != b'"' {
            at += 1;
            continue;
        }
        let start = at + 1;
        at = start;
        while at < bytes.len() && bytes[at] != b'"' {
            at += if bytes[at] == b'\\' { 2 } else { 1 };
        }
        if bytes.get(at + 1) == Some(&b':') {
            keys.push(&json[start..at]);
        }
        at += 1;
    }
    keys
}

/// An RFC 3339 time as milliseconds since 1970.
pub(crate) fn epoch_ms(written: &str) -> Option<i64> {
    let number = |from: usize, to: usize| written.get(from..to)?.parse::<i64>().ok();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let rest = written.get(19..)?;
    let zone = rest.find(['Z', '+', '-'])?;
    let fraction: f64 = if zone > 0 { format!("0{}", &rest[..zone]).parse().ok()? } else { 0.0 };
    let offset = match rest[zone..].split_at(1) {
        ("Z", "") => 0,
        (sign, clock) => {
            let (hours, minutes) = clock.split_once(':')?;
            let minutes = hours.parse::<i64>().ok()? * 60 + minutes.parse::<i64>().ok()?;
            if sign == "-" { -minutes } else { minutes }
        }
    };
    let shifted_year = year - i64::from(month <= 2);
    let era_year = shifted_year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days =
        shifted_year.div_euclid(400) * 146_097 + era_year * 365 + era_year / 4 - era_year / 100 + day_of_year - 719_468;
    let milliseconds = format!("{:.0}", fraction * 1000.0).parse::<i64>().ok()?;
    Some((((days * 24 + hour) * 60 + minute - offset) * 60 + second) * 1000 + milliseconds)
}
