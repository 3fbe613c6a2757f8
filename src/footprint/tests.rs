//! The formula against figures that are known and cases that can be counted by hand.

use super::cpu::Cpu;
use super::formula::{Parts, Plan};
use super::gguf::tensor_type::TensorType;
use super::gguf::{Head, Tensor, Value};
use super::load::{Cells, Context, GpuLayers, Held, Load, Windows};
use super::shape::{Shape, ShapeError, cache_type};
use super::*;

fn head(architecture: &str, keys: &[(&str, Value)], tensors: &[(&str, &[u64], &str)]) -> Head {
    let named = keys.iter().map(|(key, value)| (format!("{architecture}.{key}"), value.clone()));
    let own = ("general.architecture".to_owned(), Value::Text(architecture.to_owned()));
    let tensor = |(name, dimensions, kind): &(&str, &[u64], &str)| {
        let kind = TensorType::of_name(kind).unwrap();
        let bytes = kind.bytes(dimensions).unwrap();
        Tensor { name: (*name).to_owned(), kind, dimensions: dimensions.to_vec(), bytes }
    };
    Head { keys: named.chain([own]).collect(), tensors: tensors.iter().map(tensor).collect() }
}

fn model(architecture: &str, numbers: &[(&str, u64)], more: &[(&str, Value)]) -> Shape {
    let numbers = numbers.iter().map(|(key, number)| (*key, Value::Number(*number)));
    let keys: Vec<_> = numbers.chain(more.iter().cloned()).collect();
    Shape::of(&[head(architecture, &keys, &[("token_embd.weight", &[64, 100], "f16")])], Cpu::Avx2).unwrap()
}

fn plan(shape: Shape, load: Load) -> Plan {
    Plan { shape, load, vram: Bytes::ZERO, beside: Bytes::ZERO }
}

fn parts(shape: Shape, context: u32, load: Load) -> Parts {
    plan(shape, Load { context: Context::Tokens(context), ..load }).predict(None).memory
}

fn one_slot() -> Load {
    Load { slots: 1, cells: Cells::EachSlot, ..Load::default() }
}

fn llama_8b() -> Shape {
    let numbers = [("block_count", 32), ("context_length", 131_072), ("embedding_length", 4096)];
    let heads = [("attention.head_count", 32), ("attention.head_count_kv", 8), ("feed_forward_length", 14336)];
    model("llama", &[&numbers[..], &heads].concat(), &[])
}

fn gemma_12b() -> Shape {
    let numbers = [("block_count", 48), ("context_length", 131_072), ("embedding_length", 3840)];
    let heads = [("attention.head_count", 16), ("attention.head_count_kv", 8), ("feed_forward_length", 15360)];
    let lengths = [("attention.key_length", 256), ("attention.value_length", 256), ("attention.sliding_window", 1024)];
    model("gemma3", &[&numbers[..], &heads, &lengths].concat(), &[])
}

#[test]
fn caches_that_are_known_are_as_large_as_they_are() {
    assert_eq!(parts(llama_8b(), 8192, Load::default()).cache, 1 << 30);
    let numbers = [("block_count", 28), ("context_length", 32768), ("embedding_length", 3584)];
    let heads = [("attention.head_count", 28), ("attention.head_count_kv", 4), ("feed_forward_length", 18944)];
    let qwen = model("qwen2", &[&numbers[..], &heads].concat(), &[]);
    assert_eq!(parts(qwen, 32768, Load::default()).cache, (1 << 30) / 4 * 7);
    // Eight layers keep everything; forty keep a window and a batch.
    let gemma = parts(gemma_12b(), 32768, one_slot()).cache;
    assert_eq!(gemma, 8 * 32768 * 8192 + 40 * 1536 * 8192);
    assert_eq!((gemma as f64 / f64::from(1 << 30) * 100.0).round(), 247.0);
    let full = Load { windows: Windows::Full, ..one_slot() };
    assert_eq!(parts(gemma_12b(), 32768, full).cache, 12 << 30);
}

#[test]
fn a_cache_of_another_type_takes_what_its_blocks_take() {
    let sixteenths = [("f32", 64), ("f16", 32), ("bf16", 32), ("q8_0", 17), ("q5_1", 12), ("q5_0", 11), ("q4_1", 10)];
    for (name, count) in sixteenths.into_iter().chain([("q4_0", 9), ("iq4_nl", 9)]) {
        let kind = cache_type(name).unwrap();
        let load = Load { keys: kind, ..Load::default() };
        assert_eq!(parts(llama_8b(), 8192, load).cache, (1 << 29) + (1 << 29) / 32 * count, "{name}");
    }
    assert_eq!(cache_type("q6_k"), None);
}

/// Cell by cell, as slow as can be.
fn counted(layers: &[(u64, Option<u64>)], context: u64, load: &Load) -> u64 {
    let slots = u64::from(load.slots);
    let (streams, each) = match load.cells {
        Cells::Shared => (1, context),
        Cells::EachSlot => (slots, context.div_ceil(slots)),
        Cells::Multiplied => (slots, context),
    };
    let mut bytes = 0;
    for (row, window) in layers {
        for _ in 0..streams {
            let mut cells = 0;
            while cells < each && window.is_none_or(|window| cells < window * (slots / streams) + u64::from(load.batch))
            {
                cells += 1;
            }
            while cells % 256 != 0 {
                cells += 1;
            }
            bytes += cells * row * 4;
        }
    }
    bytes
}

#[test]
fn cells_are_shared_or_parted_or_multiplied_and_windows_are_short() {
    let heads = Value::List(vec![4, 2, 0, 1]);
    let numbers = [("block_count", 4), ("context_length", 8192), ("embedding_length", 64), ("attention.head_count", 4)];
    let windowed = Value::List(vec![1, 0, 0, 1]);
    let more = [("attention.head_count_kv", heads), ("attention.sliding_window_pattern", windowed)];
    let numbers = [&numbers[..], &[("attention.sliding_window", 300), ("feed_forward_length", 128)]].concat();
    let shape = model("other", &numbers, &more);
    for cells in [Cells::Shared, Cells::EachSlot, Cells::Multiplied] {
        for slots in [1, 2, 3, 4] {
            for (context, batch) in [(100, 512), (4096, 512), (8192, 64), (5000, 256)] {
                let load = Load { cells, slots, batch, ..Load::default() };
                let expected = counted(&[(64, Some(300)), (32, None), (0, None), (16, Some(300))], context, &load);
                assert_eq!(
                    parts(shape.clone(), context as u32, load).cache,
                    expected,
                    "{cells:?} {slots} {context} {batch}"
                );
            }
        }
    }
}

#[test]
fn a_recurrent_layer_keeps_a_state_for_each_slot_whatever_the_context() {
    let numbers =
        [("block_count", 16), ("context_length", 8192), ("embedding_length", 768), ("attention.head_count", 0)];
    let state = [("ssm.conv_kernel", 4), ("ssm.inner_size", 1536), ("ssm.state_size", 64), ("feed_forward_length", 0)];
    let shape = model("mamba", &[&numbers[..], &state].concat(), &[]);
    for context in [1024, 8192] {
        let parts = parts(shape.clone(), context, Load::default());
        assert_eq!((parts.cache, parts.state), (0, 16 * 4 * 4 * (3 * 1536 + 64 * 1536)));
    }
    // Of a hybrid, the layers without heads of keys.
    let heads = [("attention.head_count_kv", Value::List(vec![0, 0, 4, 0]))];
    let numbers = [("block_count", 4), ("context_length", 8192), ("embedding_length", 64), ("attention.head_count", 4)];
    let lfm = model("lfm2", &[&numbers[..], &[("shortconv.l_cache", 3), ("feed_forward_length", 9)]].concat(), &heads);
    let states: Vec<u64> = lfm.layers.iter().map(|layer| layer.state).collect();
    assert_eq!((states, lfm.layers[2].keys), (vec![128, 128, 0, 128], 64));
    let next = [("full_attention_interval", 4), ("attention.head_count_kv", 2), ("ssm.conv_kernel", 4)];
    let more = [("ssm.inner_size", 64), ("ssm.state_size", 8), ("ssm.group_count", 2), ("feed_forward_length", 9)];
    let qwen = model("qwen3next", &[&numbers[..], &next, &more].concat(), &[]);
    let kept: Vec<(u64, u64)> = qwen.layers.iter().map(|layer| (layer.keys, layer.state)).collect();
    let state = 3 * (64 + 2 * 2 * 8) + 8 * 64;
    assert_eq!(kept, [(0, state), (0, state), (0, state), (32, 0)]);
}

#[test]
fn compressed_keys_are_kept_once_and_shared_caches_not_at_all() {
    let numbers = [("block_count", 2), ("context_length", 8192), ("embedding_length", 64), ("attention.head_count", 4)];
    let lengths = [("attention.key_length", 288), ("attention.value_length", 256), ("attention.key_length_mla", 96)];
    let more = [("attention.value_length_mla", 64), ("attention.head_count_kv", 1), ("feed_forward_length", 9)];
    let shape = model("deepseek2", &[&numbers[..], &lengths, &more].concat(), &[]);
    assert_eq!((shape.layers[0].keys, shape.layers[0].values), (288, 0));
    let shared = [("attention.shared_kv_layers", 1), ("feed_forward_length", 9)];
    let shape = model("gemma4", &[&numbers[..], &shared].concat(), &[]);
    assert_eq!([shape.layers[0].keys, shape.layers[1].keys], [64, 0]);
}

#[test]
fn the_last_layers_go_to_the_gpu_and_the_input_stays() {
    let tensors: [(&str, &[u64], &str); 4] = [
        ("token_embd.weight", &[64, 100], "f16"),
        ("blk.0.attn_q.weight", &[64, 1000], "f16"),
        ("blk.1.attn_q.weight", &[64, 2000], "f16"),
        ("output_norm.weight", &[64], "f32"),
    ];
    let numbers = [("block_count", 2), ("context_length", 512), ("embedding_length", 64), ("attention.head_count", 4)];
    let keys = numbers.map(|(key, number)| (key, Value::Number(number)));
    let shape = Shape::of(&[head("llama", &keys, &tensors)], Cpu::Avx2).unwrap();
    let at = |layers, vram| {
        let load = Load { gpu_layers: GpuLayers::Count(layers), ..Load::default() };
        let prediction = Plan { vram, ..plan(shape.clone(), load) }.predict(None);
        (prediction.memory.weights, prediction.vram.weights, prediction.vram.cache)
    };
    let (embedded, norm, layer) = (12_800, 256, 64 * 2 * 2 * 512);
    assert_eq!(at(0, Bytes::gib(8)), (embedded + 128_000 + 256_000 + norm, 0, 0));
    assert_eq!(at(99, Bytes::ZERO), (embedded + 128_000 + 256_000 + norm, 0, 0), "there is no GPU");
    assert_eq!(at(1, Bytes::gib(8)), (embedded + 128_000 + 256_000, norm + embedded, 0));
    assert_eq!(at(2, Bytes::gib(8)), (embedded + 128_000, 256_000 + norm + embedded, layer));
    assert_eq!(at(99, Bytes::gib(8)), (embedded, 128_000 + 256_000 + norm + embedded, 2 * layer));
}

#[test]
fn as_many_layers_as_fit_leave_a_gibibyte_free() {
    let as_fit = |vram| Plan { vram, ..plan(llama_8b(), one_slot()) }.predict(Some(131_072));
    let all = as_fit(Bytes::gib(80));
    assert!(all.vram.cache == 16 << 30 && all.memory.cache == 0, "{all:?}");
    let some = as_fit(Bytes::gib(8));
    assert!(some.vram.sum() <= Bytes::gib(7) && some.vram.cache > 4 << 30, "{some:?}");
    assert_eq!(some.vram.cache + some.memory.cache, 16 << 30);
    assert_eq!(as_fit(Bytes::mib(512)).vram, Parts::default());
}

#[test]
fn what_is_packed_anew_is_there_twice_where_it_is_mapped_and_once_where_it_is_copied() {
    let tensors: [(&str, &[u64], &str); 4] = [
        ("token_embd.weight", &[256, 100], "q4_k"),
        ("blk.0.attn_q.weight", &[256, 800], "q4_k"),
        ("blk.0.attn_norm.weight", &[256], "f32"),
        ("blk.0.attn_k.weight", &[256, 400], "q4_k"),
    ];
    let keys = [("block_count", 1), ("context_length", 512), ("embedding_length", 256), ("attention.head_count", 4)];
    let keys = keys.map(|(key, number)| (key, Value::Number(number)));
    let shape = Shape::of(&[head("llama", &keys, &tensors)], Cpu::Avx2).unwrap();
    let of = |load: Load| {
        let memory = plan(shape.clone(), load).predict(None).memory;
        (memory.weights, memory.packed)
    };
    let (embedded, queries, norm, keys) = (14_400, 115_200, 1024, 57_600);
    assert_eq!(of(Load::default()), (embedded + queries + norm, queries + keys), "the end of the file is not mapped");
    assert_eq!(of(Load { weights: Held::Copied, ..Load::default() }), (embedded + norm, queries + keys));
    let plain = Load { packing: super::load::Packing::AsTheyAre, ..Load::default() };
    assert_eq!(of(plain), (embedded + queries + norm + keys, 0));
}

#[test]
fn a_bound_holds_the_error_of_the_formula_and_grows_with_the_context() {
    let sizing = Sizing::Formula(Box::new(plan(llama_8b(), Load::default())));
    let Sizing::Formula(plan) = &sizing else { panic!("it was made so") };
    let expected = plan.predict(Some(8192)).memory.sum();
    assert_eq!(sizing.at(Some(8192)).memory, expected.share(Permille(1150)) + Bytes::mib(300));
    assert_eq!(sizing.at(Some(8192)).vram, Bytes::ZERO, "nothing goes to a GPU that is not there");
    let contexts = [512, 4096, 8192, 8193, 32768, 131_072].map(|tokens| sizing.at(Some(tokens)).memory);
    assert!(contexts.is_sorted_by(|one, other| one < other), "{contexts:?}");
    assert_eq!(sizing.at(None), sizing.at(Some(131_072)), "what it was trained for");
    let mut placed = sizing.clone();
    placed.place(Bytes::gib(48));
    let on_gpu = placed.at(Some(8192));
    assert!(on_gpu.vram > Bytes::gib(1) && on_gpu.memory < sizing.at(Some(8192)).memory, "{on_gpu:?}");
    let recorded = serde_json::to_string(&sizing).unwrap();
    assert_eq!(serde_json::from_str::<Sizing>(&recorded).unwrap(), sizing);
    let file = Sizing::Files(Bytes(1000)).at(Some(99));
    assert_eq!(file.memory, Bytes(1200) + Bytes::mib(300));
}

#[test]
fn the_context_that_a_model_gets_by_itself_depends_on_who_loads_it() {
    assert_eq!(Context::Trained.tokens(8192, Bytes::ZERO), 8192);
    let given = [0, 16, 24, 48].map(|gib| Context::ByGpu.tokens(131_072, Bytes::gib(gib)));
    assert_eq!(given, [4096, 4096, 32768, 131_072]);
    assert_eq!(Context::ByGpu.tokens(2048, Bytes::gib(24)), 2048);
}

#[test]
fn a_model_that_does_not_say_enough_is_not_guessed_at() {
    let of = |keys: &[(&str, Value)]| {
        Shape::of(&[head("llama", keys, &[("token_embd.weight", &[64, 9], "f16")])], Cpu::Avx2).unwrap_err()
    };
    assert_eq!(of(&[]), ShapeError::Missing("llama.block_count".to_owned()));
    assert_eq!(of(&[("block_count", Value::Number(0))]), ShapeError::Wrong("llama.block_count".to_owned()));
    assert_eq!(of(&[("block_count", Value::Number(1 << 19))]), ShapeError::Wrong("llama.block_count".to_owned()));
    let short = [("block_count", Value::Number(3)), ("attention.head_count_kv", Value::List(vec![1, 2]))];
    assert_eq!(of(&short), ShapeError::Wrong("llama.attention.head_count_kv".to_owned()));
    let text = [("block_count", Value::Text("x".to_owned()))];
    assert_eq!(of(&text), ShapeError::Wrong("llama.block_count".to_owned()));
    assert_eq!(
        Shape::of(&[Head::default()], Cpu::Avx2).unwrap_err(),
        ShapeError::Missing("general.architecture".to_owned())
    );
    let nothing = head("llama", &[("block_count", Value::Number(1))], &[]);
    assert_eq!(Shape::of(&[nothing], Cpu::Avx2).unwrap_err(), ShapeError::NoTensors);
}

#[test]
fn what_a_server_shows_is_read_as_its_file_is() {
    let shown: show::Shown = serde_json::from_str(
        r#"{"model_info": {"general.architecture": "jamba", "jamba.block_count": 2, "jamba.context_length": 4096.0,
            "jamba.embedding_length": 64, "jamba.attention.head_count": 4, "jamba.attention.head_count_kv": [],
            "jamba.ssm.conv_kernel": 4, "jamba.ssm.inner_size": 128, "jamba.ssm.state_size": 16,
            "jamba.feed_forward_length": 256, "tokenizer.ggml.tokens": null},
            "tensors": [{"name": "token_embd.weight", "type": "F16", "shape": [64, 1000]},
            {"name": "blk.1.attn_k.weight", "type": "Q8_0", "shape": [64, 32]}]}"#,
    )
    .unwrap();
    let shape = Shape::of(&[shown.head()], Cpu::Avx2).unwrap();
    assert_eq!((shape.context, shape.vocabulary, shape.input.bytes), (4096, 1000, 128_000));
    // The list of heads is left out, and so read from the tensors.
    let kept: Vec<(u64, bool)> = shape.layers.iter().map(|layer| (layer.keys, layer.state > 0)).collect();
    assert_eq!(kept, [(0, true), (32, false)]);
    let unknown: show::Shown =
        serde_json::from_str(r#"{"tensors": [{"name": "a", "type": "Q0_9", "shape": [64]}]}"#).unwrap();
    assert_eq!(unknown.head().tensors, [], "weights that are not known are not a part of them");
}
