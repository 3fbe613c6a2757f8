//! `/v1/responses` and `/v1/messages`: a body -> whole answers as recorded, and streams in the two APIs' own event
//! forms. The streams were not recorded: trust their order of events, not their every key.

use super::ask::{self, Ask, Message, Prompt, Refusal};
use super::http::{Server, stream, text};
use super::openai::{ask_of, body_of, json, kind, refuse};
use super::reply::{Done, Piece, Reply};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::Value;
use std::fmt::Write as _;
use std::sync::Arc;

fn event(name: &str, rest: &str) -> String {
    format!("event: {name}\ndata: {{\"type\":\"{name}\"{rest}}}\n\n")
}

pub(crate) async fn messages(server: &Arc<Server>, body: &[u8]) -> Response {
    let answered = async {
        let body = body_of(body)?;
        let system = body["system"].as_str().map(|content| Message {
            role: "system".into(),
            content: content.into(),
            has_image: false,
        });
        let messages = system.into_iter().chain(ask::messages(&body)).collect();
        let ask = ask_of(server, &body, Prompt::Chat(messages), &body["max_tokens"])?;
        let id = format!("msg_{:024x}", server.next_id());
        begin_message(server, &body, ask, id).await
    };
    answered.await.unwrap_or_else(|refusal| {
        let (kind, message, id) = (kind(refusal.status), text(&refusal.message), server.next_id());
        let error = format!(r#"{{"type":"{kind}","message":{message}}}"#);
        json(refusal.status, format!(r#"{{"type":"error","error":{error},"request_id":"req_{id:024x}"}}"#))
    })
}

async fn begin_message(server: &Arc<Server>, body: &Value, ask: Ask, id: String) -> Result<Response, Refusal> {
    let model = text(body["model"].as_str().unwrap_or_default());
    let head = format!(r#""id":"{id}","type":"message","role":"assistant","model":{model}"#);
    let reply = ask.begin(server).await?;
    if body["stream"].as_bool().unwrap_or_default() {
        return Ok(stream(
            StatusCode::OK,
            "text/event-stream",
            reply.stream(move |piece| message_events(&head, piece)),
        ));
    }
    let (said, done) = reply.whole().await;
    let (reason, input, output) = done.map_or(("", 0, 0), |done| (stop_reason(&done), done.prompt_count, done.count));
    Ok(json(
        StatusCode::OK,
        format!(
            r#"{{{head},"content":[{{"type":"text","text":{}}}],"stop_reason":"{reason}","usage":{{"input_tokens":{input},"output_tokens":{output}}}}}"#,
            text(&said)
        ),
    ))
}

fn stop_reason(done: &Done) -> &'static str {
    if done.reason == "length" { "max_tokens" } else { "end_turn" }
}

fn message_events(head: &str, piece: Piece) -> Vec<String> {
    match piece {
        Piece::Token { index, text: said } => {
            let delta = format!(r#","index":0,"delta":{{"type":"text_delta","text":{}}}"#, text(&said));
            let mut events = Vec::new();
            if index == 0 {
                let usage = r#""usage":{"input_tokens":0,"output_tokens":0}"#;
                events.push(event("message_start", &format!(r#","message":{{{head},"content":[],{usage}}}"#)));
                events.push(event("content_block_start", r#","index":0,"content_block":{"type":"text","text":""}"#));
            }
            events.push(event("content_block_delta", &delta));
            events
        }
        Piece::Done(done) => {
            let (reason, count) = (stop_reason(&done), done.count);
            let delta = format!(r#","delta":{{"stop_reason":"{reason}"}},"usage":{{"output_tokens":{count}}}"#);
            vec![
                event("content_block_stop", r#","index":0"#),
                event("message_delta", &delta),
                event("message_stop", ""),
            ]
        }
    }
}

pub(crate) async fn responses(server: &Arc<Server>, body: &[u8]) -> Response {
    let answered = async {
        let body = body_of(body)?;
        let messages = match body["input"].as_str() {
            Some(input) => vec![ask::user(input)],
            None => ask::messages(&serde_json::json!({ "messages": body["input"] })),
        };
        let ask = ask_of(server, &body, Prompt::Chat(messages), &body["max_output_tokens"])?;
        let form = ResponseForm {
            id: server.next_id(),
            created: server.clock.seconds(),
            model: text(body["model"].as_str().unwrap_or_default()),
            max_output_tokens: body["max_output_tokens"].to_string(),
        };
        let reply = ask.begin(server).await?;
        form.answer(server, body["stream"].as_bool().unwrap_or_default(), reply).await
    };
    answered.await.unwrap_or_else(|refusal| refuse(&refusal))
}

#[derive(Debug)]
struct ResponseForm {
    id: u64,
    created: u64,
    model: String,
    max_output_tokens: String,
}

impl ResponseForm {
    async fn answer(self, server: &Arc<Server>, streams: bool, reply: Reply) -> Result<Response, Refusal> {
        if !streams {
            let (said, done) = reply.whole().await;
            let completed = server.clock.seconds();
            return Ok(json(
                StatusCode::OK,
                self.object("completed", &completed.to_string(), &self.item(&said), done.as_ref()),
            ));
        }
        let mut said = String::new();
        let mut number = 0;
        let server = Arc::clone(server);
        let frames = reply.stream(move |piece| {
            let events = self.events(&server, &mut said, piece);
            let numbered = events.into_iter().map(|(name, rest)| {
                let frame = event(name, &format!(r#","sequence_number":{number}{rest}"#));
                number += 1;
                frame
            });
            numbered.collect()
        });
        Ok(stream(StatusCode::OK, "text/event-stream", frames))
    }

    fn item(&self, said: &str) -> String {
        format!(
            r#"{{"id":"msg_{}","type":"message","status":"completed","role":"assistant","content":[{}]}}"#,
            self.id,
            part(said)
        )
    }

    fn object(&self, status: &str, completed: &str, output: &str, done: Option<&Done>) -> String {
        let Self { id, created, model, max_output_tokens } = self;
        let mut object = format!(
            r#"{{"id":"resp_{id}","object":"response","created_at":{created},"completed_at":{completed},"status":"{status}","incomplete_details":null,"model":{model},"previous_response_id":null,"instructions":null,"output":[{output}],"error":null,"tools":[],"tool_choice":"auto","truncation":"disabled","parallel_tool_calls":true,"text":{{"format":{{"type":"text"}}}},"top_p":1,"presence_penalty":0,"frequency_penalty":0,"top_logprobs":0,"temperature":1,"reasoning":null,"usage":"#
        );
        match done {
            Some(Done { prompt_count, count, .. }) => write!(
                object,
                r#"{{"input_tokens":{prompt_count},"output_tokens":{count},"total_tokens":{},"input_tokens_details":{{"cached_tokens":0}},"output_tokens_details":{{"reasoning_tokens":0}}}}"#,
                prompt_count + count
            ),
            None => write!(object, "null"),
        }
        .expect("writing to a string does not fail");
        object
            + &format!(
                r#","max_output_tokens":{max_output_tokens},"max_tool_calls":null,"store":false,"background":false,"service_tier":"default","metadata":{{}},"safety_identifier":null,"prompt_cache_key":null}}"#
            )
    }

    fn events(&self, server: &Server, said: &mut String, piece: Piece) -> Vec<(&'static str, String)> {
        let place = format!(r#","item_id":"msg_{}","output_index":0,"content_index":0"#, self.id);
        match piece {
            Piece::Token { index, text: token } => {
                said.push_str(&token);
                let delta = ("response.output_text.delta", format!(r#"{place},"delta":{}"#, text(&token)));
                if index > 0 {
                    return vec![delta];
                }
                let begun = format!(r#","response":{}"#, self.object("in_progress", "null", "", None));
                let item = format!(
                    r#","output_index":0,"item":{{"id":"msg_{}","type":"message","status":"in_progress","role":"assistant","content":[]}}"#,
                    self.id
                );
                vec![
                    ("response.created", begun.clone()),
                    ("response.in_progress", begun),
                    ("response.output_item.added", item),
                    ("response.content_part.added", format!(r#"{place},"part":{}"#, part(""))),
                    delta,
                ]
            }
            Piece::Done(done) => {
                let item = self.item(said);
                let completed = server.clock.seconds().to_string();
                let whole = self.object("completed", &completed, &item, Some(&done));
                vec![
                    ("response.output_text.done", format!(r#"{place},"text":{}"#, text(said))),
                    ("response.content_part.done", format!(r#"{place},"part":{}"#, part(said))),
                    ("response.output_item.done", format!(r#","output_index":0,"item":{item}"#)),
                    ("response.completed", format!(r#","response":{whole}"#)),
                ]
            }
        }
    }
}

fn part(said: &str) -> String {
    format!(r#"{{"type":"output_text","text":{},"annotations":[],"logprobs":[]}}"#, text(said))
}
