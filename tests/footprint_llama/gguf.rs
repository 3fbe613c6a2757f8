//! Generated models of many shapes: keys and tensors -> GGUF files that a real server loads. Their weights say nothing.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

const ALIGNMENT: usize = 32;
const TILE_BLOCKS: usize = 4096;

/// A key's value, as the format has it.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Number(u32),
    Short(u16),
    Signed(i32),
    Real(f32),
    Text(String),
    Numbers(Vec<u32>),
    Texts(Vec<String>),
    Kinds(Vec<i32>),
    Reals(Vec<f32>),
}

/// How weights are stored: the format's code, values in a block, bytes of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    F32,
    F16,
    Q4K,
    Q6K,
    Bf16,
}

impl Kind {
    fn row(self) -> (u32, u64, usize) {
        match self {
            Kind::F32 => (0, 1, 4),
            Kind::F16 => (1, 1, 2),
            Kind::Q4K => (12, 256, 144),
            Kind::Q6K => (14, 256, 210),
            Kind::Bf16 => (30, 1, 2),
        }
    }

    /// Blocks of small values of either sign; the scales are small and the rest is noise.
    fn tile(self, random: &mut u64) -> Vec<u8> {
        let mut tile = Vec::new();
        for _ in 0..TILE_BLOCKS {
            let noise = next(random);
            let value = ((noise >> 40) as f32 / (1 << 24) as f32 - 0.5) * 0.06;
            match self {
                Kind::F32 => tile.extend(value.to_le_bytes()),
                // One of 0x1800 to 0x23ff is 0.002 to 0.015.
                Kind::F16 => tile.extend(((noise as u16 & 0x8000) | (0x1800 + noise as u16 % 0x0c00)).to_le_bytes()),
                Kind::Bf16 => tile.extend_from_slice(&value.to_le_bytes()[2..]),
                Kind::Q4K => {
                    tile.extend([0x20, 0x00, 0x20, 0x00]);
                    tile.extend((0..140).map(|_| next(random) as u8));
                }
                Kind::Q6K => {
                    tile.extend((0..192).map(|_| next(random) as u8));
                    tile.extend((0..16).map(|_| next(random) as u8 % 16));
                    tile.extend([0x40, 0x00]);
                }
            }
        }
        tile
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) dimensions: Vec<u64>,
    pub(crate) kind: Kind,
}

impl Tensor {
    fn bytes(&self) -> u64 {
        let (_, block, size) = self.kind.row();
        self.dimensions.iter().product::<u64>() / block * size as u64
    }
}

/// A whole model.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) keys: Vec<(String, Value)>,
    pub(crate) tensors: Vec<Tensor>,
}

/// Writes the model in so many files and returns the name of the first.
pub(crate) fn write(folder: &Path, name: &str, model: &Model, files: usize) -> io::Result<String> {
    let tensors = &model.tensors;
    let mut first = String::new();
    for part in 0..files {
        let file = match files {
            1 => format!("{name}.gguf"),
            _ => format!("{name}-{:05}-of-{files:05}.gguf", part + 1),
        };
        let mut keys = if part == 0 { model.keys.clone() } else { Vec::new() };
        if files > 1 {
            keys.push(("split.no".to_owned(), Value::Short(part as u16)));
            keys.push(("split.count".to_owned(), Value::Short(files as u16)));
            keys.push(("split.tensors.count".to_owned(), Value::Signed(tensors.len() as i32)));
        }
        let own = &tensors[part * tensors.len() / files..(part + 1) * tensors.len() / files];
        write_one(&folder.join(&file), &keys, own)?;
        if part == 0 {
            first = file;
        }
    }
    Ok(first)
}

/// The bytes before the weights.
pub(crate) fn head(keys: &[(String, Value)], tensors: &[Tensor]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(b"GGUF");
    out.extend(3_u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((keys.len() as u64).to_le_bytes());
    for (key, value) in keys {
        text(&mut out, key);
        put(&mut out, value);
    }
    let mut offset = 0_u64;
    for tensor in tensors {
        text(&mut out, &tensor.name);
        out.extend((tensor.dimensions.len() as u32).to_le_bytes());
        tensor.dimensions.iter().for_each(|size| out.extend(size.to_le_bytes()));
        out.extend(tensor.kind.row().0.to_le_bytes());
        out.extend(offset.to_le_bytes());
        offset += tensor.bytes().next_multiple_of(ALIGNMENT as u64);
    }
    out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
    out
}

fn write_one(path: &Path, keys: &[(String, Value)], tensors: &[Tensor]) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    out.write_all(&head(keys, tensors))?;
    let mut random = 7;
    let mut tiles: Vec<(Kind, Vec<u8>)> = Vec::new();
    for tensor in tensors {
        if !tiles.iter().any(|(kind, _)| *kind == tensor.kind) {
            tiles.push((tensor.kind, tensor.kind.tile(&mut random)));
        }
        let tile = tiles.iter().find(|(kind, _)| *kind == tensor.kind).map_or(&[][..], |(_, tile)| tile);
        let mut left = tensor.bytes() as usize;
        let padding = left.next_multiple_of(ALIGNMENT) - left;
        while left > 0 {
            let now = left.min(tile.len());
            out.write_all(&tile[..now])?;
            left -= now;
        }
        out.write_all(&[0; ALIGNMENT][..padding])?;
    }
    out.flush()
}

/// The bare numbers are the format's own value types.
fn put(out: &mut Vec<u8>, value: &Value) {
    let list = |out: &mut Vec<u8>, kind: u32, count: usize| {
        out.extend(9_u32.to_le_bytes());
        out.extend(kind.to_le_bytes());
        out.extend((count as u64).to_le_bytes());
    };
    match value {
        Value::Number(number) => out.extend([4_u32.to_le_bytes(), number.to_le_bytes()].concat()),
        Value::Short(number) => out.extend([&2_u32.to_le_bytes()[..], &number.to_le_bytes()].concat()),
        Value::Signed(number) => out.extend([5_u32.to_le_bytes(), number.to_le_bytes()].concat()),
        Value::Real(real) => out.extend([6_u32.to_le_bytes(), real.to_le_bytes()].concat()),
        Value::Text(words) => {
            out.extend(8_u32.to_le_bytes());
            text(out, words);
        }
        Value::Numbers(numbers) => {
            list(out, 4, numbers.len());
            numbers.iter().for_each(|number| out.extend(number.to_le_bytes()));
        }
        Value::Texts(texts) => {
            list(out, 8, texts.len());
            texts.iter().for_each(|words| text(out, words));
        }
        Value::Kinds(kinds) => {
            list(out, 5, kinds.len());
            kinds.iter().for_each(|kind| out.extend(kind.to_le_bytes()));
        }
        Value::Reals(reals) => {
            list(out, 6, reals.len());
            reals.iter().for_each(|real| out.extend(real.to_le_bytes()));
        }
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// Splitmix64.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut word = *state;
    word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}
