//! Hammer: many clients and many switches at once -> every reply from a rung that was open, and none after its report.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tierkeeper::config::ServerKind;
use tierkeeper::gateway::Event;
use tokio::net::TcpListener;

use super::rig::{Rig, config, rung};

/// Which models the server may be asked for now. It is told by the one who switches.
#[derive(Default)]
struct Loaded {
    models: Mutex<BTreeSet<String>>,
    working: Mutex<Vec<String>>,
    wrong: AtomicU64,
}

async fn serve(loaded: Arc<Loaded>, body: bytes::Bytes) -> String {
    let asked: serde_json::Value = serde_json::from_slice(&body).unwrap();
    let model = asked["model"].as_str().unwrap().to_owned();
    if !loaded.models.lock().unwrap().contains(&model) {
        loaded.wrong.fetch_add(1, Ordering::SeqCst);
    }
    loaded.working.lock().unwrap().push(model.clone());
    tokio::time::sleep(Duration::from_micros(asked["us"].as_u64().unwrap())).await;
    let mut working = loaded.working.lock().unwrap();
    let at = working.iter().position(|at_work| *at_work == model).unwrap();
    working.swap_remove(at);
    serde_json::json!({ "model": model }).to_string()
}

/// Switches, like the run loop: opens the next one, closes the last one, and unloads it once it is reported.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_request_ever_meets_a_model_that_was_reported_as_drained() {
    let loaded = Arc::new(Loaded::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let served = loaded.clone();
    let app = axum::Router::new().fallback(move |body| serve(served.clone(), body));
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    let mut config = config();
    config.hold.count_max = 64;
    config.hold.bytes_max = tierkeeper::units::Bytes::mib(1);
    let mut rig = Rig::before(ServerKind::Ollama, config, url, Default::default()).await;

    let over = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..12u64)
        .map(|client| {
            let (http, over, address) = (rig.client.clone(), over.clone(), rig.address);
            tokio::spawn(async move {
                let mut replies = 0u64;
                while !over.load(Ordering::Relaxed) {
                    let wait_us = (client * 131 + replies * 17) % 900;
                    let body = format!("{{\"model\":\"mai\",\"us\":{wait_us}}}");
                    let request = http::Request::post(format!("http://{address}/api/chat")).body(body.into()).unwrap();
                    let response = http.request(request).await.unwrap();
                    assert_eq!(response.status(), 200);
                    let served_by = response.headers()["x-tierkeeper-rung"].to_str().unwrap().to_owned();
                    let reply = super::rig::json_of(response).await;
                    assert_eq!(reply["model"], format!("model-{served_by}"));
                    replies += 1;
                }
                replies
            })
        })
        .collect();

    let mut serving: Option<String> = None;
    for switch in 0..600u64 {
        let next = format!("r{}", switch % 3);
        rig.gateway.assessed();
        // Every third switch is break before make, and some are taken back half way.
        let break_first = switch % 3 == 2;
        if let (true, Some(old)) = (break_first, &serving) {
            drain(&mut rig, &loaded, old, switch % 2 == 0).await;
        }
        loaded.models.lock().unwrap().insert(format!("model-{next}"));
        rig.gateway.publish(rung(&next));
        if let (false, Some(old)) = (break_first, &serving) {
            drain(&mut rig, &loaded, old, false).await;
        }
        serving = Some(next);
        tokio::time::sleep(Duration::from_micros(switch * 37 % 1500)).await;
    }
    over.store(true, Ordering::Relaxed);
    let mut replies = 0;
    for client in clients {
        replies += client.await.unwrap();
    }
    assert_eq!(loaded.wrong.load(Ordering::SeqCst), 0, "requests reached a model that was gone");
    let counters = rig.gateway.counters();
    assert_eq!((counters.refused, counters.repeated, counters.failed, counters.truncated), (0, 0, 0, 0));
    assert_eq!(rig.gateway.traffic().admitted_total, replies);
    rig.settles_at(0, 0).await;
    rig.gateway.close(&serving.unwrap());
    assert!(matches!(rig.event().await, Event::Drained { .. }));
    rig.no_event();
}

async fn drain(rig: &mut Rig, loaded: &Loaded, old: &str, waver: bool) {
    let model = format!("model-{old}");
    rig.gateway.close(old);
    if waver {
        rig.gateway.publish(rung(old));
        rig.gateway.close(old);
    }
    loop {
        match rig.event().await {
            // A report from before it was taken back says nothing of now.
            Event::Drained { rung, .. } if rung == old && rig.gateway.is_vacant(&model) => break,
            Event::Drained { rung, .. } => assert_eq!(rung, old),
            Event::Wanted => rig.gateway.assessed(),
            Event::Replied { .. } => {}
            Event::UpstreamFailed { why } => panic!("{why}"),
            Event::HandedOver { .. } | Event::HandOverFailed { .. } => panic!("nobody asked for a hand-over"),
        }
    }
    assert!(!loaded.working.lock().unwrap().contains(&model), "unloaded under a reply");
    loaded.models.lock().unwrap().remove(&model);
    // What was reported twice, because it was closed twice, is known by now.
    while let Ok(event) = rig.events.try_recv() {
        assert!(matches!(event, Event::Drained { .. } | Event::Wanted), "{event:?}");
    }
}
