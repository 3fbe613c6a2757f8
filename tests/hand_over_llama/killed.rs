//! Killed: the process of a model that dies in the middle of a reply -> the same reply, gone on with when the model is back.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tierkeeper::gateway::Event;

use super::reply::{CHAT, Form, Reply, TEXT, TOKENS, Whole};
use super::rig::{Rig, rung};
use super::words_of;

/// The router's child that has this model.
fn process_of(rig: &Rig, model: &str) -> Pid {
    let file = format!("{}/{model}.gguf", rig.models());
    let has_it = |pid: &i32| {
        let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split('\0').any(|argument| argument == file)
    };
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pid = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find(has_it);
    Pid::from_raw(pid.expect("a process has the model")).unwrap()
}

/// The text is the model's own, up to some seam, and from there on what it says when it is given just that.
async fn is_its_own(rig: &Rig, form: Form, request: &Value, whole: &Whole, least: usize) {
    let first = Reply::alone(rig, form, request, "large").await;
    if whole.text == first {
        return;
    }
    // What a model reads in one go has other roundings than what it has said itself.
    let words: Vec<String> =
        whole.records.iter().map(|record| form.said(record)).filter(|said| !said.is_empty()).collect();
    for count in least..words.len() {
        let sent = words[..count].concat();
        if !first.starts_with(&sent) {
            break;
        }
        let rest = request[form.limit].as_u64().unwrap() - words_of(form, whole, &sent);
        let second = Reply::alone(rig, form, &form.from(request, &sent, rest), "large").await;
        let second = if form.repeats() { second.strip_prefix(&sent).unwrap() } else { &second };
        if whole.text == format!("{sent}{second}") {
            return;
        }
    }
    panic!("this is not what the model says by itself:\n{}\n{first}", whole.text);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the real llama-server: tests/run"]
async fn a_reply_whose_process_is_killed_is_gone_on_with_when_the_model_is_back() {
    let mut rig = Rig::new().await;
    for (number, form) in (1..).zip([CHAT, TEXT]) {
        rig.load("large").await;
        rig.gateway.publish(rung("large"));
        let mut reply = Reply::begin(&rig, form, &form.request()).await;
        reply.until(|reply| reply.words().len() >= 20).await;
        kill_process(process_of(&rig, "large"), Signal::KILL).unwrap();
        let event = rig.event().await;
        assert!(matches!(event, Event::UpstreamFailed { .. }), "{event:?}");
        rig.load("large").await;
        let whole = reply.whole().await;
        let counters = rig.gateway.counters();
        assert_eq!((counters.mended, counters.truncated), (number, 0), "{}", whole.text);
        assert_eq!((words_of(form, &whole, &whole.text), whole.finish().as_str()), (TOKENS, "length"));
        is_its_own(&rig, form, &form.request(), &whole, 20).await;
    }
}
