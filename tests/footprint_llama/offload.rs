//! Offload: a model of which some layers are to go onto a GPU -> where the server says that its buffers are, against the
//! formula.
//!
//! It needs no GPU: llama.cpp can compute on a device of another machine (RPC), which to llama-server is a GPU with memory
//! of its own, and that other machine may be this one. What a GPU's driver takes beside the buffers is not seen that way.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tierkeeper::footprint::formula::Plan;
use tierkeeper::footprint::gguf;
use tierkeeper::footprint::gguf::tensor_type::TensorType;
use tierkeeper::footprint::load::{Context, GpuLayers, Load};
use tierkeeper::footprint::shape::Shape;
use tierkeeper::units::Bytes;

use super::llama::{free_port, program};
use super::machines::Machine;
use super::{logged_buffers, mib, shapes};

const VRAM: Bytes = Bytes::gib(24);
/// How often it is looked whether the device listens.
const LOOKS: u32 = 1000;
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Of a buffer: tensors begin at round addresses.
const WEIGHTS_OFF: f64 = 0.01;
/// As without a GPU.
const COMPUTE_OFF: f64 = 0.15;

/// What stands for a GPU.
struct Device {
    process: Child,
    address: String,
}

impl Device {
    fn start(folder: &Path) -> Self {
        let libraries = program().parent().unwrap().to_owned();
        // As it comes it may not be run.
        let copy = folder.join("rpc-server");
        std::fs::copy(libraries.join("ggml-rpc-server"), &copy).unwrap();
        assert!(Command::new("chmod").arg("+x").arg(&copy).status().unwrap().success());
        let port = free_port();
        let process = Command::new(&copy)
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .env("LD_LIBRARY_PATH", libraries)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let device = Device { process, address: format!("127.0.0.1:{port}") };
        for _ in 0..LOOKS {
            if std::net::TcpStream::connect(&device.address).is_ok() {
                return device;
            }
            std::thread::sleep(LOOK_EVERY);
        }
        panic!("the device does not listen");
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

#[test]
#[ignore = "needs the real llama-server: tests/run"]
fn the_buffers_of_a_model_that_is_partly_on_a_gpu_are_where_and_as_large_as_the_server_says() {
    let folder = tempfile::tempdir().unwrap();
    let (device, cpu) = (Device::start(folder.path()), Machine::this().cpu);
    let shapes = shapes::all();
    let mut wrong = Vec::new();
    println!("{:<16} {:<5} {:>6}  {:<16} {:>9} {:>9}", "shape", "cache", "layers", "buffer", "said", "expected");
    for (shape, kind) in
        [("grouped", "f16"), ("grouped", "q8_0"), ("gemma3", "q4_0"), ("qwen3", "f16"), ("jamba", "f16")]
    {
        let (_, model, _) = shapes.iter().find(|(name, ..)| *name == shape).unwrap();
        let file = folder.path().join(gguf_of(folder.path(), shape, model));
        let length = std::fs::metadata(&file).unwrap().len();
        let head = gguf::read(&std::fs::read(&file).unwrap(), length).unwrap();
        let read = || Shape::of(std::slice::from_ref(&head), cpu).unwrap();
        let count = u32::try_from(read().layers.len()).unwrap();
        for layers in [1, count / 2, count, count + 1] {
            let kept = TensorType::of_name(kind).unwrap();
            let gpu_layers = GpuLayers::Count(layers);
            let load = Load { context: Context::Tokens(8192), keys: kept, values: kept, gpu_layers, ..Load::default() };
            let plan = Plan { shape: read(), load, vram: VRAM, beside: Bytes::ZERO };
            let expected = plan.predict(None);
            let number = layers.to_string();
            let logged =
                logged_buffers(&file, &["-ctk", kind, "-ctv", kind, "-ngl", &number, "--rpc", &device.address]);
            let said = |is_device: bool, name: &str| {
                let meant = logged.iter().filter(|(of, _)| of.starts_with("RPC") == is_device && of.ends_with(name));
                meant.map(|(_, mib)| mib).sum::<f64>()
            };
            let mut row = |name: &str, said: f64, expected: u64, off: f64| {
                let expected = mib(Bytes(expected));
                println!("{shape:<16} {kind:<5} {layers:>6}  {name:<16} {said:>9.2} {expected:>9.2}");
                if (said - expected).abs() > off {
                    wrong.push(format!("{shape} {kind} with {layers} layers: {name} is {said}, and not {expected}"));
                }
            };
            let (gpu, memory) = (expected.vram, expected.memory);
            let on_gpu = said(true, "model");
            row("weights on GPU", on_gpu, gpu.weights, WEIGHTS_OFF * on_gpu);
            row("KV on GPU", said(true, "KV"), gpu.cache, 0.02);
            row("KV in memory", said(false, "KV"), memory.cache, 0.02);
            row("RS on GPU", said(true, "RS"), gpu.state, 0.02);
            row("RS in memory", said(false, "RS"), memory.state, 0.02);
            for (name, said, expected) in [
                ("compute on GPU", said(true, "compute"), gpu.compute),
                ("compute in memory", said(false, "compute"), memory.compute),
            ] {
                row(name, said, expected, COMPUTE_OFF * said + 2.0);
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn gguf_of(folder: &Path, shape: &str, model: &super::gguf::Model) -> String {
    super::gguf::write(folder, shape, model, 1).unwrap()
}
