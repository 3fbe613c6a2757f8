//! The reader against heads that are whole, cut off, turned about or made to hurt.

use proptest::prelude::*;

use super::*;
use crate::footprint::cpu::Cpu;
use crate::footprint::formula::Plan;
use crate::footprint::load::Load;
use crate::footprint::shape::Shape;
use crate::units::Bytes;

const FILE: u64 = 1 << 40;

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// The bytes of a head: version, keys as they are written, tensors with name, sizes, type and offset.
fn head(version: u32, keys: &[(&str, u32, Vec<u8>)], tensors: &[(&str, &[u64], u32, u64)]) -> Vec<u8> {
    let mut out = b"GGUF".to_vec();
    out.extend(version.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((keys.len() as u64).to_le_bytes());
    for (key, kind, value) in keys {
        text(&mut out, key);
        out.extend(kind.to_le_bytes());
        out.extend(value);
    }
    for (name, sizes, kind, offset) in tensors {
        text(&mut out, name);
        out.extend((sizes.len() as u32).to_le_bytes());
        sizes.iter().for_each(|size| out.extend(size.to_le_bytes()));
        out.extend(kind.to_le_bytes());
        out.extend(offset.to_le_bytes());
    }
    out
}

fn number(number: u32) -> Vec<u8> {
    number.to_le_bytes().to_vec()
}

fn words(words: &str) -> Vec<u8> {
    let mut out = Vec::new();
    text(&mut out, words);
    out
}

fn list(kind: u32, count: u64, entries: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &count.to_le_bytes(), entries].concat()
}

/// A small model with every kind of value in it.
fn whole() -> Vec<u8> {
    let tokens = ["<unk>", "a", "b"].map(words).concat();
    let keys = [
        ("general.architecture", 8, words("llama")),
        ("general.alignment", 4, number(64)),
        ("llama.block_count", 4, number(2)),
        ("llama.context_length", 10, 4096_u64.to_le_bytes().to_vec()),
        ("llama.embedding_length", 2, 64_u16.to_le_bytes().to_vec()),
        ("llama.attention.head_count", 5, number(4)),
        ("llama.attention.head_count_kv", 9, list(4, 2, &[number(2), number(1)].concat())),
        ("llama.feed_forward_length", 4, number(128)),
        ("llama.attention.sliding_window", 4, number(32)),
        ("llama.attention.sliding_window_pattern", 9, list(7, 2, &[1, 0])),
        ("llama.rope.freq_base", 6, 10_000_f32.to_le_bytes().to_vec()),
        ("llama.ssm.state_size", 4, number(0)),
        ("tokenizer.ggml.tokens", 9, list(8, 3, &tokens)),
        ("tokenizer.ggml.scores", 9, list(6, 3, &[0; 12])),
        ("tokenizer.ggml.add_bos_token", 7, vec![1]),
    ];
    let tensors: [(&str, &[u64], u32, u64); 4] = [
        ("token_embd.weight", &[64, 3], 1, 0),
        ("blk.0.attn_q.weight", &[64, 64], 1, 384),
        ("blk.1.attn_q.weight", &[64, 64], 8, 384 + 8192),
        ("output.weight", &[64, 3], 0, 384 + 8192 + 4352),
    ];
    head(3, &keys, &tensors)
}

fn problem(bytes: &[u8], file: u64) -> Problem {
    match read(bytes, file) {
        Err(GgufError::Wrong { problem, .. }) => problem,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_whole_head_is_read_and_what_is_long_is_counted_only() {
    let head = read(&whole(), FILE).unwrap();
    assert_eq!(head.keys["general.architecture"], Value::Text("llama".to_owned()));
    assert_eq!(head.keys["llama.attention.head_count_kv"], Value::List(vec![2, 1]));
    assert_eq!(head.keys["tokenizer.ggml.tokens"], Value::Skipped(3));
    assert_eq!(head.keys["tokenizer.ggml.add_bos_token"], Value::Flag(true));
    let bytes: Vec<u64> = head.tensors.iter().map(|tensor| tensor.bytes).collect();
    assert_eq!(bytes, [384, 8192, 4352, 768]);
    let shape = Shape::of(&[head], Cpu::Avx2).unwrap();
    assert_eq!((shape.vocabulary, shape.input.bytes, shape.output.bytes), (3, 384, 768));
    assert_eq!([shape.layers[0].keys, shape.layers[1].keys], [32, 16]);
    assert_eq!([shape.layers[0].window, shape.layers[1].window], [Some(32), None]);
}

#[test]
fn a_prefix_asks_for_more_and_never_for_more_than_there_is() {
    let whole = whole();
    for length in 0..whole.len() {
        match read(&whole[..length], FILE) {
            Err(GgufError::NeedsMore { at_least }) => {
                assert!(at_least > length as u64 && at_least <= whole.len() as u64, "{length}: {at_least}");
            }
            other => panic!("{length}: {other:?}"),
        }
        // A file that ends there is no file that goes on.
        assert!(matches!(problem(&whole[..length], length as u64), Problem::BeyondTheFile { .. }), "{length}");
    }
}

#[test]
fn a_file_that_ends_before_its_weights_do_is_refused() {
    let whole = whole();
    let data = (whole.len() as u64).next_multiple_of(64);
    let end = data + 384 + 8192 + 4352 + 768;
    assert!(read(&whole, end).is_ok());
    assert!(matches!(problem(&whole, end - 1), Problem::BeyondTheFile { what: "the weights", .. }));
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    let plain = |version| head(version, &[], &[]);
    assert_eq!(problem(b"GGML\x03\0\0\0", FILE), Problem::Magic(u32::from_le_bytes(*b"GGML")));
    assert_eq!(problem(&plain(3_u32.swap_bytes()), FILE), Problem::BigEndian);
    assert_eq!(problem(&plain(1), FILE), Problem::Version(1));
    assert!(read(&plain(2), FILE).is_ok());
    let mut many = plain(3);
    many[8..16].fill(0xff);
    assert!(matches!(problem(&many, FILE), Problem::TooMany { what: "tensors", count: u64::MAX, .. }));
    let key = |kind, value: Vec<u8>| head(3, &[("a", kind, value)], &[]);
    assert_eq!(
        problem(&head(3, &[("a", 4, number(1)), ("a", 4, number(1))], &[]), FILE),
        Problem::TwoKeys("a".to_owned())
    );
    assert_eq!(problem(&key(13, vec![0; 8]), FILE), Problem::ValueType(13));
    assert_eq!(problem(&key(7, vec![2]), FILE), Problem::Flag(2));
    assert_eq!(problem(&key(9, list(9, 1, &[])), FILE), Problem::NestedList);
    assert_eq!(problem(&key(9, list(77, 1, &[])), FILE), Problem::ValueType(77));
    assert!(matches!(problem(&key(9, list(4, u64::MAX, &[])), FILE), Problem::BeyondTheFile { what: "a list", .. }));
    assert!(matches!(problem(&key(8, vec![0xff; 8]), FILE), Problem::BeyondTheFile { what: "a text", .. }));
    assert_eq!(problem(&key(8, (1_u64 << 30).to_le_bytes().to_vec()), FILE), Problem::TooLong);
    let aligned = |alignment| head(3, &[("general.alignment", 4, number(alignment))], &[]);
    assert_eq!(problem(&aligned(48), FILE), Problem::Alignment(48));
    assert_eq!(problem(&aligned(0), FILE), Problem::Alignment(0));
    let tensors = |tensors: &[(&str, &[u64], u32, u64)]| problem(&head(3, &[], tensors), FILE);
    assert_eq!(tensors(&[("a", &[1; 5], 0, 0)]), Problem::TooMany { what: "dimensions", count: 5, limit: 4 });
    assert_eq!(tensors(&[("a", &[1], 4, 0)]), Problem::TensorType(4));
    assert_eq!(tensors(&[("a", &[33], 2, 0)]), Problem::Blocks("a".to_owned()));
    assert_eq!(tensors(&[("a", &[1 << 33, 1 << 33], 0, 0)]), Problem::Size("a".to_owned()));
    assert_eq!(tensors(&[("a", &[u64::MAX / 2 - 7], 0, 0)]), Problem::Size("a".to_owned()));
    let overlapping = Problem::Misplaced { name: "b".to_owned(), offset: 0, expected: 32 };
    assert_eq!(tensors(&[("a", &[8], 0, 0), ("b", &[8], 0, 0)]), overlapping);
    assert_eq!(tensors(&[("a", &[8], 0, 0), ("a", &[8], 0, 32)]), Problem::TwoTensors("a".to_owned()));
    let place = read(&key(13, vec![]), FILE).unwrap_err().to_string();
    assert_eq!(place, "a value of an unknown type: 13, at byte 37");
}

/// What is kept of a head, roughly.
fn kept(head: &Head) -> usize {
    let value = |value: &Value| match value {
        Value::Text(text) => text.capacity(),
        Value::List(numbers) => numbers.capacity() * 8,
        Value::Number(_) | Value::Negative(_) | Value::Real(_) | Value::Flag(_) | Value::Skipped(_) => 0,
    };
    let keys = head.keys.iter().map(|(key, kept)| key.capacity() + value(kept));
    let tensors = head.tensors.iter().map(|tensor| tensor.name.capacity() + tensor.dimensions.capacity() * 8);
    keys.chain(tensors).sum()
}

fn hurt() -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<prop::sample::Index>(), prop_oneof![any::<u8>(), Just(0), Just(0xff), Just(0x7f)]);
    (prop::collection::vec(change, 0..12), prop::option::of(any::<prop::sample::Index>())).prop_map(|(changes, cut)| {
        let mut bytes = whole();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        bytes
    })
}

fn is_harmless(bytes: &[u8], file: u64) {
    match read(bytes, file) {
        Ok(head) => {
            assert!(kept(&head) <= 16 * bytes.len(), "{} of {}", kept(&head), bytes.len());
            if let Ok(shape) = Shape::of(&[head], Cpu::Avx2) {
                let plan = Plan { shape, load: Load::default(), vram: Bytes::gib(8), beside: Bytes::ZERO };
                plan.predict(None);
                plan.predict(Some(u32::MAX));
            }
        }
        Err(GgufError::NeedsMore { at_least }) => assert!(at_least > bytes.len() as u64 && at_least <= HEAD_MAX),
        Err(GgufError::Wrong { offset, .. }) => assert!(offset <= bytes.len() as u64),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn no_head_that_was_tampered_with_does_harm(bytes in hurt(), file in prop_oneof![Just(FILE), 0_u64..20_000]) {
        is_harmless(&bytes, file);
    }

    #[test]
    fn no_bytes_after_a_good_beginning_do_harm(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut all = b"GGUF\x03\0\0\0".to_vec();
        all.extend(bytes);
        is_harmless(&all, FILE);
    }

    #[test]
    fn numbers_of_any_size_in_any_key_do_no_harm(values in prop::collection::vec(any::<u64>(), 24), small in any::<u32>()) {
        let names = [
            "block_count", "context_length", "embedding_length", "attention.head_count", "attention.head_count_kv",
            "feed_forward_length", "attention.sliding_window", "attention.sliding_window_pattern", "vocab_size",
            "attention.key_length", "attention.value_length", "attention.key_length_mla", "attention.kv_lora_rank",
            "rope.dimension_count", "attention.shared_kv_layers", "expert_used_count", "expert_feed_forward_length",
            "ssm.conv_kernel", "ssm.inner_size", "ssm.state_size", "ssm.group_count", "full_attention_interval",
            "kda.head_dim", "shortconv.l_cache",
        ];
        let names: Vec<String> = names.iter().map(|name| format!("x.{name}")).collect();
        let keys = names.iter().zip(&values).enumerate().map(|(index, (name, value))| {
            // Half of them as large as is let through, so that their products are reached.
            let value = if small >> index & 1 == 1 { 1 << 20 } else { *value >> (value % 64) };
            (name.as_str(), 10, value.to_le_bytes().to_vec())
        });
        let keys: Vec<_> = keys.chain([("general.architecture", 8, words("x"))]).collect();
        is_harmless(&head(3, &keys, &[("blk.0.ssm_in.weight", &[1, 1 << 20], 24, 0)]), FILE);
    }
}
