//! Llama: arguments -> the real llama-server with them, until it is dropped. `tests/run` fetches it and says where it is.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// A server that runs. The processes of a router's models see that the router is gone, and go too.
#[derive(Debug)]
pub struct Llama {
    pub process: Child,
    pub port: u16,
}

impl Llama {
    pub fn start(arguments: &[&str]) -> Self {
        let port = free_port();
        let process = command(port).args(arguments).spawn().unwrap();
        Llama { process, port }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn stop(&mut self) {
        // It may have ended by itself, which is as good.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

impl Drop for Llama {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The server at this port, with what every test wants; it says nothing.
pub fn command(port: u16) -> Command {
    let program = program();
    let mut command = Command::new(&program);
    command.env("LD_LIBRARY_PATH", program.parent().unwrap()).stdout(Stdio::null()).stderr(Stdio::null());
    command.args(["--host", "127.0.0.1", "--port", &port.to_string(), "--no-webui", "-t", "2"]);
    command
}

pub fn program() -> PathBuf {
    let path = std::env::var_os("TIERKEEPER_LLAMA_SERVER")
        .expect("TIERKEEPER_LLAMA_SERVER must be the path of a llama-server: run tests/run, which fetches one");
    PathBuf::from(path)
}

pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
