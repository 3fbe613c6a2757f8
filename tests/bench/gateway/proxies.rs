//! Proxies: the programs that are compared -> processes of their own before the stand-in, and what each of them uses.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::client::{Connection, now};
use super::stand_in::{MODELS, StandIn};

#[path = "../../support/ramp.rs"]
mod ramp;

const READY_WITHIN: Duration = Duration::from_secs(60);
const GONE_WITHIN: Duration = Duration::from_secs(10);
/// Of the times in `/proc`, on every machine that this runs on.
const TICKS_PER_SECOND: f64 = 100.0;

pub struct Proxy {
    pub name: &'static str,
    pub port: u16,
    child: Child,
    /// The process, and its own.
    pids: Vec<u32>,
}

/// The release build of the sidecar, with a ladder of two, and how long it took until it listened.
pub fn tierkeeper(folder: &Path, server: &StandIn) -> (Proxy, Duration) {
    let rungs = MODELS.map(|model| format!("{{ name: {model}, model: {model} }}")).join(", ");
    fs::write(folder.join("policy.yaml"), format!("version: 1\nladder: [ {rungs} ]\n")).unwrap();
    let (port, admin) = (free_port(), free_port());
    let mut command = Command::new(program());
    command.args(["run", "--server", &server.url(), "--policy"]).arg(folder.join("policy.yaml"));
    command.args(["--listen", &format!("127.0.0.1:{port}"), "--admin-listen", &format!("127.0.0.1:{admin}")]);
    let began = now();
    let child = command.env("HOME", folder).env("TIERKEEPER_LOG", "error").spawn().unwrap();
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() && began.elapsed() < READY_WITHIN {
        thread::sleep(Duration::from_millis(1));
    }
    let took = began.elapsed();
    (Proxy::ready("tierkeeper", port, child), took)
}

pub fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_tierkeeper"))
}

/// nginx as one would have it before a model server: nothing buffered or logged, connections kept on both sides.
pub fn nginx(folder: &Path, server: &StandIn) -> Result<Proxy, String> {
    let is_there = |path: &&str| Command::new(path).arg("-v").stderr(Stdio::null()).status().is_ok();
    let program = ["nginx", "/usr/sbin/nginx"].into_iter().find(is_there);
    let program = program.ok_or("it is not installed; on Debian: apt-get install --no-install-recommends nginx")?;
    let folder = folder.join("nginx");
    fs::create_dir(&folder).unwrap();
    let (at, port) = (folder.display(), free_port());
    let temp = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|of| format!("{of}_temp_path {at}/{of};"));
    let user = if rustix::process::getuid().is_root() { "user root;" } else { "" };
    let text = format!(
        "daemon off; {user} worker_processes auto; pid {at}/pid; error_log {at}/error.log;
         events {{ worker_connections 4096; }}
         http {{
           access_log off; {}
           upstream server {{ server 127.0.0.1:{}; keepalive 64; keepalive_requests 1000000; }}
           server {{
             listen 127.0.0.1:{port}; keepalive_requests 1000000;
             location / {{
               proxy_pass http://server; proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_buffering off;
             }}
           }}
         }}",
        temp.join(" "),
        server.port,
    );
    fs::write(folder.join("nginx.conf"), text).unwrap();
    let mut command = Command::new(program);
    command.arg("-c").arg(folder.join("nginx.conf")).arg("-p").arg(&folder).arg("-e").arg(folder.join("error.log"));
    Ok(Proxy::ready("nginx", port, command.spawn().unwrap()))
}

/// ramp-llm from PyPI, before the stand-in as an Ollama: its other way is to start servers itself.
pub fn ramp(folder: &Path, server: &StandIn) -> Result<Proxy, String> {
    let program = ramp::program()?;
    let port = free_port();
    let text = format!(
        "backend: ollama\nollama_url: {}\nlisten: {{ host: 127.0.0.1, port: {port} }}\nsafety_margin_mb: 64\n\
         tiers: [ {{ name: large, model: large, est_ram_mb: 64 }} ]\n",
        server.url(),
    );
    fs::write(folder.join("ramp.yaml"), text).unwrap();
    let mut command = Command::new(program);
    command.args(["run", "-c"]).arg(folder.join("ramp.yaml")).env("HOME", folder);
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    Ok(Proxy::ready("ramp-llm", port, child))
}

impl Proxy {
    /// As soon as it has passed a whole reply.
    fn ready(name: &'static str, port: u16, child: Child) -> Self {
        let mut proxy = Proxy { name, port, pids: vec![child.id()], child };
        let began = now();
        while !Connection::open(port, "Are you there?").is_ok_and(Connection::gets_a_reply) {
            assert!(began.elapsed() < READY_WITHIN, "{name} does not serve");
            thread::sleep(Duration::from_millis(50));
        }
        proxy.pids.extend(children(proxy.child.id()));
        proxy
    }

    /// What it has used of the processors until now, in seconds.
    pub fn cpu(&self) -> f64 {
        let ticks = self.pids.iter().map(|pid| {
            let stat = stat(*pid).expect("it runs");
            stat[11].parse::<u64>().unwrap() + stat[12].parse::<u64>().unwrap()
        });
        ticks.sum::<u64>() as f64 / TICKS_PER_SECOND
    }

    /// What it holds of memory now, in millions of bytes.
    pub fn rss(&self) -> f64 {
        let held = self.pids.iter().map(|pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
            line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() * 1024.0
        });
        held.sum::<f64>() / 1e6
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // nginx's master would leave its workers behind if it were killed.
        let pid = Pid::from_raw(self.child.id() as i32).expect("no process has the id 0");
        kill_process(pid, Signal::TERM).ok();
        let began = now();
        while began.elapsed() < GONE_WITHIN {
            if self.child.try_wait().is_ok_and(|ended| ended.is_some()) {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn children(parent: u32) -> Vec<u32> {
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| stat(*pid).is_some_and(|stat| stat[1] == parent.to_string())).collect()
}

/// What the kernel says of a process, from its state on.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(text.rsplit_once(')')?.1.split_ascii_whitespace().map(str::to_owned).collect())
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
