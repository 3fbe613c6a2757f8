//! Story: sizes and a server -> the cascade as it happens, told line by line, and a table of it at the end.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::task::JoinHandle;

use super::chat::{Tally, chat};
use super::children::{self, Kept, free_port};
use super::receiver::receiver;
use super::sizes::{self, Sizes};
use crate::admin::client;
use crate::config::load::{Flags, Sources, load};
use crate::policy::parse::parse;
use crate::run::clock::Clock;
use crate::run::{RunError, Setup, Signal};
use crate::tell::persona::Persona;
use crate::units::{Bytes, Permille, Span};

/// How often it is looked what serves.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Nothing of the story takes longer than this.
const CHAPTER_MAX: Span = Span::seconds(90);
/// Between two questions the answer is read: on a machine with no room for two models side by side, the way up is taken
/// in such a pause.
const READS_FOR: Duration = Duration::from_secs(2);
/// The game is enough within this; else it takes more, in so many steps and so large a share of the machine at most.
const CROWDS_WITHIN: Span = Span::seconds(10);
const HOGS_MAX: usize = 4;
const MORE_MAX: Permille = Permille::percent(15);
const STABLE: &str = "8s";
/// The persona that ships for Mai.
const MAI: &str = include_str!("../../../config/personas/mai.yaml");

/// What came of it.
#[derive(Debug, Default)]
pub struct Told {
    rows: Vec<Row>,
    replies: u32,
    lost: Vec<String>,
    messages: usize,
    down: bool,
    up: bool,
}

#[derive(Debug)]
struct Row {
    at: Span,
    what: String,
    why: String,
    replies: u32,
}

impl Told {
    /// It went down and up again, people were told, and nothing was lost.
    pub fn is_as_promised(&self) -> bool {
        self.down && self.up && self.messages > 0 && self.lost.is_empty() && self.replies > 0
    }
}

/// Everything that is alive while the story is told.
struct Stage {
    clock: Clock,
    admin: SocketAddr,
    tally: Arc<Tally>,
    messages: UnboundedReceiver<String>,
    told: Told,
    run: JoinHandle<Result<(), RunError>>,
}

/// Tells the whole story; the error is a sentence.
pub async fn tell(sizes: Sizes, llama_server: Option<&Path>) -> Result<Told, String> {
    let sentence = |error: std::io::Error| error.to_string();
    let folder = tempfile::tempdir().map_err(sentence)?;
    introduce(&sizes, llama_server);
    let (server, url) = match llama_server {
        Some(program) => children::llama_server(program, &sizes, folder.path()).await,
        None => children::stand_in(&sizes, folder.path()).await,
    }
    .map_err(|error| format!("the model server did not start: {error}"))?;
    let (webhook, messages) = receiver().await.map_err(sentence)?;
    let (gateway, admin) = (free_port().await.map_err(sentence)?, free_port().await.map_err(sentence)?);
    let setup = setup(&sizes, folder.path(), &url, &webhook, [gateway, admin])?;
    let (stop, signals) = mpsc::channel(1);
    let mut stage = Stage {
        clock: Clock::start(),
        admin: SocketAddr::from(([127, 0, 0, 1], admin)),
        tally: Arc::new(Tally::default()),
        messages,
        told: Told::default(),
        run: tokio::spawn(crate::run::run(setup, signals)),
    };
    let outcome = stage.play(&sizes, format!("http://127.0.0.1:{gateway}")).await;
    stop.send(Signal::Stop).await.ok();
    let ended = (&mut stage.run).await;
    server.end().await;
    match ended {
        Ok(Err(error)) => return Err(error.to_string()),
        Err(error) => return Err(error.to_string()),
        Ok(Ok(())) => {}
    }
    outcome?;
    stage.told.replies = stage.tally.replies();
    stage.told.lost = stage.tally.lost();
    print!("{}", table(&stage.told));
    Ok(stage.told)
}

async fn hog(bytes: Bytes) -> Result<Kept, String> {
    children::hog(bytes).await.map_err(|error| format!("the hog did not start: {error}"))
}

fn introduce(sizes: &Sizes, llama_server: Option<&Path>) {
    let models: Vec<String> = sizes.models.iter().map(|(name, bytes)| format!("{name} ({bytes})")).collect();
    let server = match llama_server {
        Some(program) => format!("{} with generated models", program.display()),
        None => "an embedded stand-in, with processes that take real memory".to_owned(),
    };
    println!("Model server   {server}");
    println!("Models         {}", models.join(" > "));
    println!("Machine        treated as one of {}, on which nothing else runs", sizes.pretend);
    println!(
        "Shortened      for the demo: of calm before a way up {STABLE} are enough (else 5 minutes), of a pause 1 s (10 s)"
    );
    println!(
        "Loosened       for it too: hard is 95 % (90), an emergency 98 % (97), to spare 1 % (5), for others 32 MiB (1 GiB)"
    );
    println!("Now chatting   somebody asks `mai` one thing after another, through the gateway\n");
}

fn setup(sizes: &Sizes, folder: &Path, server: &str, webhook: &str, ports: [u16; 2]) -> Result<Setup, String> {
    let [gateway, admin] = ports;
    let ladder = sizes.models.iter().fold(String::new(), |mut text, (name, _)| {
        writeln!(text, "  - {{ name: {name}, model: {name} }}").expect("a string takes all that is written to it");
        text
    });
    let policy = format!(
        "version: 1\nladder:\n{ladder}reserve: {{ memory: 32MiB }}\n\
         pressure:\n  soft: {{ use: 80%, drain: 30s }}\n  hard: {{ use: 95%, drain: 15s }}\n  emergency: {{ use: 98%, drain: 5s }}\n\
         upgrade: {{ stable: {STABLE}, margin: 1%, idle: 1s }}\n"
    );
    let config = format!(
        "server: {{ url: \"{server}\", kind: llama-server }}\ngateway: {{ listen: \"127.0.0.1:{gateway}\" }}\n\
         admin: {{ listen: \"127.0.0.1:{admin}\" }}\npretend: {{ memory: {}MiB, vram: 0GiB }}\nstop_grace: 10s\nstore: learned.db\n\
         tell: {{ webhooks: [ {{ url: \"{webhook}\", format: generic, allow_private: true }} ] }}\n",
        sizes.pretend.0 >> 20
    );
    let path = folder.join("config.yaml");
    std::fs::write(&path, config).map_err(|error| error.to_string())?;
    let sources = Sources { explicit: Some(path), flags: Flags::default(), ..Sources::default() };
    Ok(Setup {
        config: load(sources).map_err(|error| error.render(false))?.config,
        policy: Some(parse(&policy, "the demo's policy").map_err(|wrong| wrong.render(false))?),
        persona: Persona::parse(MAI, "mai.yaml").map_err(|wrong| wrong.render(false))?,
    })
}

impl Stage {
    async fn play(&mut self, sizes: &Sizes, gateway: String) -> Result<(), String> {
        let best = sizes.models[0].0;
        let why = self.until(|rung| rung == best, "the best model serves").await?;
        self.row(format!("{best} serves"), why);
        let chatting = tokio::spawn(chat(gateway, READS_FOR, Arc::clone(&self.tally)));
        self.replies(2).await?;

        self.row(format!("a program takes {}", sizes.hog), "somebody started a game".to_owned());
        let mut hogs = vec![hog(sizes.hog).await?];
        let why = self.crowd(best, &mut hogs).await?;
        let smaller = self.serving().await.map(|(rung, _)| rung).unwrap_or_default();
        self.told.down = true;
        self.row(format!("{smaller} serves"), why);
        let message = tokio::time::timeout(Duration::from_secs(10), self.messages.recv()).await;
        if let Ok(Some(message)) = message {
            self.told.messages += 1;
            self.row("a message reaches the chat".to_owned(), format!("\u{201c}{message}\u{201d}"));
        }
        self.replies(2).await?;

        for hog in hogs {
            hog.end().await;
        }
        self.row("the program is gone".to_owned(), "the game is over".to_owned());
        let why = self.until(|rung| rung == best, "the best model serves again").await?;
        self.told.up = true;
        self.row(format!("{best} serves again"), format!("{why}; nobody was told, for it is no loss"));
        self.replies(2).await?;
        self.tally.stop();
        chatting.await.map_err(|error| error.to_string())
    }

    /// Waits until a smaller model serves. Where others have given memory back meanwhile, the game takes that too.
    async fn crowd(&mut self, best: &str, hogs: &mut Vec<Kept>) -> Result<String, String> {
        while hogs.len() < HOGS_MAX {
            if let Ok(why) = self.until_within(CROWDS_WITHIN, |rung| rung != best, "").await {
                return Ok(why);
            }
            let report = client::status(self.admin, None).await.map_err(|error| error.to_string())?;
            let Some(memory) = report.pools.get("memory") else { break };
            let more =
                memory.capacity.share(sizes::CROWDED).saturating_sub(memory.used).min(memory.capacity.share(MORE_MAX));
            if more > Bytes::ZERO {
                self.row(format!("it takes {more} more"), "other programs gave some back meanwhile".to_owned());
                hogs.push(hog(more).await?);
            }
        }
        self.until(|rung| rung != best, "a smaller model serves").await
    }

    /// Says what happens, and keeps it for the table.
    fn row(&mut self, what: String, why: String) {
        let row = Row { at: Span(self.clock.now().0), what, why, replies: self.tally.replies() };
        println!("{:>6.1} s  {}: {}", row.at.0 as f64 / 1000.0, row.what, row.why);
        self.told.rows.push(row);
    }

    /// The rung that serves, and the reason of the last decision.
    async fn serving(&self) -> Option<(String, String)> {
        let report = client::status(self.admin, None).await.ok()?;
        Some((report.rung?, report.last_decision.map(|decision| decision.text).unwrap_or_default()))
    }

    /// Waits until a rung serves that is as wanted, and returns why it does.
    async fn until(&self, wanted: impl Fn(&str) -> bool, what: &str) -> Result<String, String> {
        self.until_within(CHAPTER_MAX, wanted, what).await
    }

    async fn until_within(&self, most: Span, wanted: impl Fn(&str) -> bool, what: &str) -> Result<String, String> {
        let from = self.clock.now();
        while self.clock.now().since(from) < most && !self.run.is_finished() {
            if let Some((_, why)) = self.serving().await.filter(|(rung, _)| wanted(rung)) {
                return Ok(why);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Err(format!(
            "waited {most} until {what}, and it was not so; other programs that take or give back much memory \
             meanwhile can do that, so try it when this machine is calmer"
        ))
    }

    async fn replies(&self, more: u32) -> Result<(), String> {
        let (from, before) = (self.clock.now(), self.tally.replies());
        while self.tally.replies() < before + more {
            if self.clock.now().since(from) >= CHAPTER_MAX {
                return Err(format!("waited {CHAPTER_MAX} for {more} replies, and they did not come"));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }
}

fn table(told: &Told) -> String {
    let mut text = format!("\n{:>8}  {:<28} {:>7}  why\n", "when", "what happened", "replies");
    for Row { at, what, why, replies } in &told.rows {
        writeln!(text, "{:>6.1} s  {what:<28} {replies:>7}  {why}", at.0 as f64 / 1000.0)
            .expect("a string takes all that is written to it");
    }
    writeln!(text, "\n{} replies, {} lost", told.replies, told.lost.len())
        .expect("a string takes all that is written to it");
    for why in &told.lost {
        writeln!(text, "lost: {why}").expect("a string takes all that is written to it");
    }
    text
}
