//! Room: what is said of leases over HTTP -> a wish for the run, and what became of it.

use std::time::Duration;

use axum::body::Bytes as Body;
use axum::extract::{Path, State};
use axum::response::Response;
use serde::Deserialize;

use super::control::{BadBody, RoomWanted, Wish, Wishes, answered, ask, ask_within, lasting, read};
use crate::units::{Bytes, Span};

/// Replies are finished first; the Controller itself gives up before this.
const MAKING_MAX: Duration = Duration::from_secs(600);

/// A size as a person writes it, or a number of bytes.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "a size must be a number of bytes, or text such as \"6GiB\"")]
enum Size {
    Bytes(Bytes),
    Written(String),
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Room {
    memory: Option<Size>,
    vram: Option<Size>,
    #[serde(rename = "for")]
    lasts: Option<String>,
    for_ms: Option<Span>,
    renew_within_ms: Option<Span>,
}

pub(super) async fn make(State(wishes): State<Wishes>, body: Body) -> Result<Response, BadBody> {
    let wish = Wish::MakeRoom(wanted(read(&body)?)?);
    Ok(answered(ask_within(MAKING_MAX, &wishes, wish).await))
}

pub(super) async fn renew(Path(id): Path<u64>, State(wishes): State<Wishes>) -> Response {
    answered(ask(&wishes, Wish::Renew { id }).await)
}

pub(super) async fn give_back(Path(id): Path<u64>, State(wishes): State<Wishes>) -> Response {
    answered(ask(&wishes, Wish::GiveBack { id }).await)
}

fn wanted(room: Room) -> Result<RoomWanted, BadBody> {
    let size = |size: Option<Size>| match size {
        None => Ok(Bytes::ZERO),
        Some(Size::Bytes(bytes)) => Ok(bytes),
        Some(Size::Written(written)) => written.parse().map_err(BadBody::Size),
    };
    let (memory, vram) = (size(room.memory)?, size(room.vram)?);
    if memory == Bytes::ZERO && vram == Bytes::ZERO {
        return Err(BadBody::NoRoom);
    }
    let lasts = lasting(room.lasts.as_deref(), room.for_ms)?;
    Ok(RoomWanted { memory, vram, lasts, renew_within: room.renew_within_ms })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_room(body: &str) -> Result<RoomWanted, BadBody> {
        wanted(read(&Body::from(body.to_owned()))?)
    }

    #[test]
    fn room_is_asked_for_in_bytes_or_as_people_write_it() {
        let expected = RoomWanted {
            memory: Bytes::gib(1),
            vram: Bytes::mib(512),
            lasts: Some(Span::hours(1)),
            renew_within: Some(Span::seconds(30)),
        };
        let written = r#"{"memory":"1GiB","vram":536870912,"for":"1h","renew_within_ms":30000}"#;
        assert_eq!(read_room(written), Ok(expected));
        for wrong in ["{}", r#"{"memory":0}"#, r#"{"memory":"1"}"#, r#"{"memory":-5}"#, r#"{"ram":5}"#, ""] {
            assert!(read_room(wrong).is_err(), "{wrong}");
        }
    }
}
