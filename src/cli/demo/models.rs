//! Models for tests and the demo: a shape and a seed -> a small random-weight `llama` GGUF that a real server loads.
//!
//! The weights say nothing, but they are arranged so that a harness can rely on what comes out: never a byte, control or end token
//! (so a reply is valid UTF-8 and runs to exactly `max_tokens`), and logits flat enough that sampling does not fall into a loop.
//! Both come from embedding dimension 0: it is a constant that no layer reads or writes, and only the output rows look at it.

use std::f32::consts::TAU;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// What a generated model looks like. Its size follows from the numbers; see [`Shape::bytes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub layers: u32,
    pub embedding: u32,
    pub heads: u32,
    pub kv_heads: u32,
    pub feed_forward: u32,
    pub context: u32,
    pub seed: u64,
}

/// The F16 value that the constant dimension carries through all layers. Large against the rest (which ends near 2.3), so that
/// after the last norm the ordinary tokens stay some 40 logits above the ones that must never win.
const CONSTANT: f32 = 6.0;
/// What an output row has in the constant dimension: plus for tokens that may be said, minus for those that may not.
const FAVOUR: f32 = 8.0;
/// Variance that all layers together add to the residual, the embedding itself having 1. Above 1, what was said before matters
/// more than the last token, which is what keeps greedy decoding out of short cycles.
const LAYER_VARIANCE: f32 = 4.0;
/// Spread of the attention scores. Sharp attention picks single old tokens; flat attention averages them all to the same nothing.
const SCORE_SPREAD: f32 = 4.0;

const ALIGNMENT: u64 = 32;
const TYPE_F32: u32 = 0;
const TYPE_F16: u32 = 1;
const NORMALS: usize = 1 << 16;
const BUFFER_BYTES: usize = 1 << 20;

/// Leaves the last assistant message open, so that a server continues it instead of answering it.
const CHAT_TEMPLATE: &str = "{%- for message in messages -%}{{ '<' + message['role'] + '> ' + message['content'] }}\
{%- if not (loop.last and message['role'] == 'assistant') -%}{{ '\\n' }}{%- endif -%}{%- endfor -%}\
{%- if add_generation_prompt -%}{{ '<assistant>' }}{%- endif -%}";

impl Shape {
    /// About 40 MB.
    pub fn small() -> Self {
        Self { layers: 6, embedding: 512, heads: 8, kv_heads: 8, feed_forward: 1408, context: 32768, seed: 1 }
    }

    /// About 310 MB.
    pub fn medium() -> Self {
        Self { layers: 12, embedding: 1024, heads: 16, kv_heads: 8, feed_forward: 3072, context: 32768, seed: 2 }
    }

    /// About 1.3 GB.
    pub fn large() -> Self {
        Self { layers: 24, embedding: 1536, heads: 24, kv_heads: 12, feed_forward: 4352, context: 32768, seed: 3 }
    }

    /// The exact length of the file that [`write()`] makes.
    pub fn bytes(&self) -> u64 {
        let vocabulary = vocabulary();
        let tensors = tensors(self, vocabulary.len() as u64);
        let head = padded(head(self, &vocabulary, &tensors).len() as u64);
        head + tensors.iter().map(|tensor| padded(tensor.bytes())).sum::<u64>()
    }
}

/// Writes the model beside its name first and renames it when whole, so that no server ever lists half a model.
/// Returns its length in bytes. The same shape and seed give the same file.
pub fn write(path: &Path, shape: &Shape) -> io::Result<u64> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = Path::new(&partial);
    let vocabulary = vocabulary();
    let tensors = tensors(shape, vocabulary.len() as u64);
    let mut out = BufWriter::with_capacity(BUFFER_BYTES, File::create(partial)?);
    let head = head(shape, &vocabulary, &tensors);
    out.write_all(&head)?;
    pad(&mut out, head.len() as u64)?;
    let mut random = Random(shape.seed);
    let normals = normals(&mut random);
    for tensor in &tensors {
        write_tensor(&mut out, tensor, &vocabulary, &normals, &mut random)?;
        pad(&mut out, tensor.bytes())?;
    }
    let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    let length = file.metadata()?.len();
    drop(file);
    fs::rename(partial, path)?;
    Ok(length)
}

/// One entry of the vocabulary, in the SPM sense.
struct Token {
    text: String,
    kind: TokenKind,
    may_be_said: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum TokenKind {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    Byte = 6,
}

/// How a tensor's values are made.
enum Fill {
    /// A norm's weights: all ones. `first` is the weight of the constant dimension: 0 hides it from a layer.
    Ones {
        first: f32,
    },
    /// Random, with the first output row zero, so that nothing is added to the constant dimension.
    NothingInto,
    /// Random, each row starting with the constant.
    Embedding,
    /// Random, each row starting with whether its token may be said.
    Output,
    Plain,
}

struct Tensor {
    name: String,
    columns: u64,
    rows: u64,
    deviation: f32,
    fill: Fill,
}

impl Tensor {
    fn bytes(&self) -> u64 {
        self.columns * self.rows * if self.is_vector() { 4 } else { 2 }
    }

    fn is_vector(&self) -> bool {
        matches!(self.fill, Fill::Ones { .. })
    }
}

/// Syllables with and without a leading space, so that a reply reads as words; a few of them beyond ASCII, so that a client
/// that cuts text at bytes is found out. Single characters are there to read prompts with and are never said.
fn vocabulary() -> Vec<Token> {
    let mut tokens = vec![
        Token { text: "<unk>".into(), kind: TokenKind::Unknown, may_be_said: false },
        Token { text: "<s>".into(), kind: TokenKind::Control, may_be_said: false },
        Token { text: "</s>".into(), kind: TokenKind::Control, may_be_said: false },
    ];
    tokens.extend((0..=255_u8).map(|byte| Token {
        text: format!("<0x{byte:02X}>"),
        kind: TokenKind::Byte,
        may_be_said: false,
    }));
    let mut normal = |text: String, may_be_said| tokens.push(Token { text, kind: TokenKind::Normal, may_be_said });
    normal("▁".into(), false);
    for character in '!'..='~' {
        normal(character.into(), false);
    }
    for text in [",", ".", "?"] {
        normal(format!("{text}▁"), true);
    }
    for text in ["é", "ñ", "ö", "ß", "ø", "né", "tō", "ça", "λό", "мо", "日", "本", "語", "한", "🙂"]
    {
        normal(text.into(), true);
        normal(format!("▁{text}"), true);
    }
    for start in ["b", "d", "f", "g", "h", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w", "z"] {
        for vowel in ["a", "e", "i", "o", "u"] {
            for end in ["", "n", "r", "s", "l"] {
                normal(format!("{start}{vowel}{end}"), true);
                normal(format!("▁{start}{vowel}{end}"), true);
            }
        }
    }
    tokens
}

fn tensors(shape: &Shape, vocabulary: u64) -> Vec<Tensor> {
    let embedding = u64::from(shape.embedding);
    let feed_forward = u64::from(shape.feed_forward);
    let kv = embedding / u64::from(shape.heads) * u64::from(shape.kv_heads);
    let unit = |width: u64| 1.0 / (width as f32).sqrt();
    let score = SCORE_SPREAD.sqrt() * unit(embedding);
    let added = (LAYER_VARIANCE / (2.0 * shape.layers as f32)).sqrt();
    let tensor = |name: String, columns, rows, deviation, fill| Tensor { name, columns, rows, deviation, fill };
    let mut all = vec![
        tensor("token_embd.weight".into(), embedding, vocabulary, 1.0, Fill::Embedding),
        tensor("output_norm.weight".into(), embedding, 1, 0.0, Fill::Ones { first: 1.0 }),
        tensor("output.weight".into(), embedding, vocabulary, unit(embedding), Fill::Output),
    ];
    for layer in 0..shape.layers {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        all.extend([
            tensor(name("attn_norm"), embedding, 1, 0.0, Fill::Ones { first: 0.0 }),
            tensor(name("attn_q"), embedding, embedding, score, Fill::Plain),
            tensor(name("attn_k"), embedding, kv, score, Fill::Plain),
            tensor(name("attn_v"), embedding, kv, unit(embedding), Fill::Plain),
            tensor(name("attn_output"), embedding, embedding, 1.5 * added * unit(embedding), Fill::NothingInto),
            tensor(name("ffn_norm"), embedding, 1, 0.0, Fill::Ones { first: 0.0 }),
            tensor(name("ffn_gate"), embedding, feed_forward, unit(embedding), Fill::Plain),
            tensor(name("ffn_up"), embedding, feed_forward, unit(embedding), Fill::Plain),
            // A gated unit passes on about 0.6 of what comes in.
            tensor(name("ffn_down"), feed_forward, embedding, added * unit(feed_forward) / 0.6, Fill::NothingInto),
        ]);
    }
    all
}

/// Everything before the weights: magic, keys and values, and where each tensor lies.
fn head(shape: &Shape, vocabulary: &[Token], tensors: &[Tensor]) -> Vec<u8> {
    let mut keys = Keys::default();
    keys.text("general.architecture", "llama");
    keys.text("general.name", &format!("tierkeeper-test-{}x{}", shape.layers, shape.embedding));
    keys.number("general.file_type", 1);
    keys.number("general.alignment", ALIGNMENT as u32);
    keys.number("llama.context_length", shape.context);
    keys.number("llama.embedding_length", shape.embedding);
    keys.number("llama.block_count", shape.layers);
    keys.number("llama.feed_forward_length", shape.feed_forward);
    keys.number("llama.attention.head_count", shape.heads);
    keys.number("llama.attention.head_count_kv", shape.kv_heads);
    keys.number("llama.rope.dimension_count", shape.embedding / shape.heads);
    keys.number("llama.vocab_size", vocabulary.len() as u32);
    keys.real("llama.attention.layer_norm_rms_epsilon", 1e-5);
    keys.real("llama.rope.freq_base", 10_000.0);
    keys.text("tokenizer.ggml.model", "llama");
    keys.text("tokenizer.ggml.pre", "default");
    keys.array("tokenizer.ggml.tokens", 8, vocabulary, |out, token| text(out, &token.text));
    // Longer pieces first: the tokenizer merges the pair with the highest score.
    keys.array("tokenizer.ggml.scores", 6, vocabulary, |out, token| {
        out.extend((token.text.chars().count() as f32 - 100.0).to_le_bytes());
    });
    keys.array("tokenizer.ggml.token_type", 5, vocabulary, |out, token| out.extend((token.kind as i32).to_le_bytes()));
    keys.number("tokenizer.ggml.unknown_token_id", 0);
    keys.number("tokenizer.ggml.bos_token_id", 1);
    keys.number("tokenizer.ggml.eos_token_id", 2);
    keys.flag("tokenizer.ggml.add_bos_token", 1);
    keys.flag("tokenizer.ggml.add_eos_token", 0);
    keys.text("tokenizer.chat_template", CHAT_TEMPLATE);

    let mut out = Vec::with_capacity(64 << 10);
    out.extend(b"GGUF");
    out.extend(3_u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend(keys.count.to_le_bytes());
    out.extend(keys.bytes);
    let mut offset = 0;
    for tensor in tensors {
        text(&mut out, &tensor.name);
        let sizes: &[u64] = if tensor.is_vector() { &[tensor.columns] } else { &[tensor.columns, tensor.rows] };
        out.extend((sizes.len() as u32).to_le_bytes());
        sizes.iter().for_each(|size| out.extend(size.to_le_bytes()));
        out.extend(if tensor.is_vector() { TYPE_F32 } else { TYPE_F16 }.to_le_bytes());
        out.extend(u64::to_le_bytes(offset));
        offset += padded(tensor.bytes());
    }
    out
}

/// The key-value part of a GGUF head, counted as it grows. The bare numbers are the format's own value types.
#[derive(Default)]
struct Keys {
    count: u64,
    bytes: Vec<u8>,
}

impl Keys {
    fn key(&mut self, key: &str, kind: u32) {
        self.count += 1;
        text(&mut self.bytes, key);
        self.bytes.extend(kind.to_le_bytes());
    }

    fn text(&mut self, key: &str, value: &str) {
        self.key(key, 8);
        text(&mut self.bytes, value);
    }

    fn number(&mut self, key: &str, value: u32) {
        self.key(key, 4);
        self.bytes.extend(value.to_le_bytes());
    }

    fn real(&mut self, key: &str, value: f32) {
        self.key(key, 6);
        self.bytes.extend(value.to_le_bytes());
    }

    fn flag(&mut self, key: &str, value: u8) {
        self.key(key, 7);
        self.bytes.push(value);
    }

    fn array<T>(&mut self, key: &str, kind: u32, values: &[T], each: impl Fn(&mut Vec<u8>, &T)) {
        self.key(key, 9);
        self.bytes.extend(kind.to_le_bytes());
        self.bytes.extend((values.len() as u64).to_le_bytes());
        values.iter().for_each(|value| each(&mut self.bytes, value));
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn write_tensor(
    out: &mut impl Write,
    tensor: &Tensor,
    vocabulary: &[Token],
    normals: &[f32],
    random: &mut Random,
) -> io::Result<()> {
    if let Fill::Ones { first } = tensor.fill {
        out.write_all(&first.to_le_bytes())?;
        return (1..tensor.columns).try_for_each(|_| out.write_all(&1_f32.to_le_bytes()));
    }
    let halves: Vec<[u8; 2]> = normals.iter().map(|normal| half(normal * tensor.deviation).to_le_bytes()).collect();
    let favour = |index: usize| if vocabulary[index].may_be_said { FAVOUR } else { -FAVOUR };
    let mut row = Vec::with_capacity(tensor.columns as usize * 2);
    for index in 0..tensor.rows as usize {
        row.clear();
        while row.len() < tensor.columns as usize * 2 {
            let mut bits = random.next();
            for _ in 0..4 {
                row.extend_from_slice(&halves[bits as usize % NORMALS]);
                bits >>= 16;
            }
        }
        row.truncate(tensor.columns as usize * 2);
        match tensor.fill {
            Fill::NothingInto if index == 0 => row.fill(0),
            Fill::Embedding => row[..2].copy_from_slice(&half(CONSTANT).to_le_bytes()),
            Fill::Output => row[..2].copy_from_slice(&half(favour(index)).to_le_bytes()),
            Fill::NothingInto | Fill::Plain | Fill::Ones { .. } => {}
        }
        out.write_all(&row)?;
    }
    Ok(())
}

fn padded(length: u64) -> u64 {
    length.next_multiple_of(ALIGNMENT)
}

fn pad(out: &mut impl Write, length: u64) -> io::Result<()> {
    out.write_all(&[0; ALIGNMENT as usize][..(padded(length) - length) as usize])
}

/// Splitmix64: one word of state, good enough for weights that mean nothing.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ (word >> 31)
    }

    /// Above 0 and at most 1, so that its logarithm exists.
    fn unit(&mut self) -> f32 {
        ((self.next() >> 40) + 1) as f32 / (1_u32 << 24) as f32
    }
}

/// A table to draw from: making each of 680 million weights by Box-Muller would take a minute, looking it up takes a second.
fn normals(random: &mut Random) -> Vec<f32> {
    (0..NORMALS).map(|_| (-2.0 * random.unit().ln()).sqrt() * (TAU * random.unit()).cos()).collect()
}

/// IEEE half precision, truncated. Values too small for a normal half become 0, ones too large would be a bug in the scales above.
fn half(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = (bits >> 16) as u16 & 0x8000;
    let exponent = (bits >> 23 & 0xFF) as i32 - 127 + 15;
    debug_assert!(exponent < 31, "a weight must fit half precision: {value}");
    if exponent <= 0 { sign } else { sign | (exponent as u16) << 10 | (bits >> 13 & 0x3FF) as u16 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiny() -> Shape {
        Shape { layers: 1, embedding: 64, heads: 4, kv_heads: 2, feed_forward: 96, context: 512, seed: 7 }
    }

    #[test]
    fn a_shape_knows_the_length_of_its_file() {
        let path = std::env::temp_dir().join(format!("tierkeeper-models-{}.gguf", std::process::id()));
        let written = write(&path, &tiny()).unwrap();
        let first = fs::read(&path).unwrap();
        write(&path, &tiny()).unwrap();
        assert_eq!(first, fs::read(&path).unwrap(), "the same seed gives the same file");
        fs::remove_file(&path).unwrap();
        assert_eq!(written, tiny().bytes());
        assert_eq!(&first[..8], b"GGUF\x03\0\0\0");
    }

    #[test]
    fn sizes_are_what_their_names_promise() {
        let megabytes = [Shape::small(), Shape::medium(), Shape::large()].map(|shape| shape.bytes() / 1_000_000);
        assert!((35..45).contains(&megabytes[0]) && (280..330).contains(&megabytes[1]), "{megabytes:?}");
        assert!((1_250..1_400).contains(&megabytes[2]), "{megabytes:?}");
    }

    #[test]
    fn a_half_is_the_nearest_below() {
        assert_eq!([1.0, -2.0, 0.5, 8.0, 0.0].map(half), [0x3C00, 0xC000, 0x3800, 0x4800, 0]);
    }

    #[test]
    fn only_whole_text_may_be_said() {
        assert!(vocabulary().iter().filter(|token| token.may_be_said).all(|token| token.kind == TokenKind::Normal));
        assert!(vocabulary().iter().any(|token| token.may_be_said && !token.text.trim_start_matches('▁').is_ascii()));
    }
}
