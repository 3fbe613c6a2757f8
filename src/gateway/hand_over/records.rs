//! Records: the bytes of a streamed reply -> its records, and records -> bytes.

use serde_json::Value;

const DATA: &[u8] = b"data:";
const EVENT: &[u8] = b"event:";
/// What OpenAI's streams end with.
pub const DONE: &[u8] = b"[DONE]";

/// How one record is told from the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frames {
    /// Server-sent events.
    Events,
    /// One line of JSON each.
    Lines,
}

/// A record, read.
pub enum Record {
    Json(Value),
    Done,
    /// A comment.
    Nothing,
    Unreadable,
}

/// The records, each with its end.
pub fn records(mut raw: &[u8], frames: Frames) -> impl Iterator<Item = &[u8]> {
    let end = frames.end();
    std::iter::from_fn(move || {
        let end = raw.windows(end.len()).position(|window| window == end).map_or(raw.len(), |at| at + end.len());
        let (record, rest) = raw.split_at(end);
        raw = rest;
        (!record.is_empty()).then_some(record)
    })
}

impl Frames {
    /// How a reply of such records is announced.
    pub fn media_type(self) -> &'static [u8] {
        match self {
            Frames::Events => b"text/event-stream",
            Frames::Lines => b"application/x-ndjson",
        }
    }

    /// What a record ends with.
    pub fn end(self) -> &'static [u8] {
        match self {
            Frames::Events => b"\n\n",
            Frames::Lines => b"\n",
        }
    }

    pub fn read(self, record: &[u8]) -> Record {
        let record = record.trim_ascii();
        let json = |data: &[u8]| serde_json::from_slice(data).map_or(Record::Unreadable, Record::Json);
        if record.is_empty() {
            return Record::Nothing;
        }
        match self {
            Frames::Lines => json(record),
            Frames::Events if record.starts_with(b":") => Record::Nothing,
            Frames::Events => {
                // What the event is called its data say too.
                let mut lines = record.split(|byte| *byte == b'\n').filter(|line| !line.starts_with(EVENT));
                let data = lines.next().and_then(|line| line.strip_prefix(DATA)).map(<[u8]>::trim_ascii);
                match data.filter(|_| lines.next().is_none()) {
                    Some(DONE) => Record::Done,
                    Some(data) => json(data),
                    None => Record::Unreadable,
                }
            }
        }
    }

    pub fn write(self, data: &[u8], out: &mut Vec<u8>) {
        match self {
            Frames::Events => out.extend_from_slice(b"data: "),
            Frames::Lines => {}
        }
        out.extend_from_slice(data);
        out.extend_from_slice(self.end());
    }
}

/// An event, which bears its kind as its name.
pub fn write_event(event: &Value, out: &mut Vec<u8>) {
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(event["type"].as_str().unwrap_or_default().as_bytes());
    out.push(b'\n');
    Frames::Events.write(event.to_string().as_bytes(), out);
}
