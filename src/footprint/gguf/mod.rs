//! GGUF: the first bytes of a model's file -> its keys and the index of its tensors, or what is wrong and where.
//!
//! A file is whatever somebody put there, so nothing in it is believed before it is compared with what is there: counts
//! and lengths with the length of the file, sizes with each other. The layout is that of ggml's docs/gguf.md, and what its
//! own reader (ggml/src/gguf.cpp) refuses is refused here: what llama.cpp cannot load needs no footprint. What is not
//! needed (tokens, merges, long texts) is stepped over without a copy.

mod cursor;
pub mod tensor_type;

use std::collections::{BTreeMap, BTreeSet};

use self::cursor::Cursor;
use self::tensor_type::TensorType;

/// How much of a file is read for its head at most. Vocabularies of 260,000 tokens with their merges take 16 MiB.
pub const HEAD_MAX: u64 = 64 << 20;
const MAGIC: u32 = u32::from_le_bytes(*b"GGUF");
const VERSIONS: [u32; 2] = [2, 3];
const ALIGNMENT_DEFAULT: u64 = 32;
const ALIGNMENT_KEY: &str = "general.alignment";
const ALIGNMENT_MAX: u64 = 1 << 20;
const KEYS_MAX: u64 = 1 << 16;
const TENSORS_MAX: u64 = 1 << 16;
const KEY_LENGTH_MAX: u64 = 1 << 16;
const TENSOR_NAME_MAX: u64 = 1 << 10;
const DIMENSIONS_MAX: u32 = 4;
/// Texts and lists that are longer are stepped over: no hyperparameter is one.
const TEXT_KEPT_MAX: u64 = 256;
const LIST_KEPT_MAX: u64 = 4096;

/// What a key holds. Only what a hyperparameter can be is kept.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Number(u64),
    Negative(i64),
    Real(f64),
    Flag(bool),
    Text(String),
    /// Whole numbers and flags, for each layer one.
    List(Vec<u64>),
    /// So many texts, reals or too many numbers, not kept.
    Skipped(u64),
}

/// One entry of the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    pub name: String,
    pub kind: TensorType,
    /// The innermost first, as in the file.
    pub dimensions: Vec<u64>,
    pub bytes: u64,
}

/// The head of one file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Head {
    pub keys: BTreeMap<String, Value>,
    pub tensors: Vec<Tensor>,
}

/// Why the head could not be read from these bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GgufError {
    /// Nothing is wrong so far: the head is longer than what was given.
    #[error("the head goes on after these bytes, and at least so many are needed: {at_least}")]
    NeedsMore { at_least: u64 },
    #[error("{problem}, at byte {offset}")]
    Wrong { problem: Problem, offset: u64 },
}

/// What is wrong with a head, with the evidence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("no GGUF file: it begins with {0:#010x}")]
    Magic(u32),
    #[error("a GGUF file of a big-endian machine, which is not read here")]
    BigEndian,
    #[error("a version of GGUF that is not read here: {0}")]
    Version(u32),
    #[error("{what} are more than {limit}: {count}")]
    TooMany { what: &'static str, count: u64, limit: u64 },
    #[error("{what} would end after the file: {length} bytes, of {left} that are left")]
    BeyondTheFile { what: &'static str, length: u64, left: u64 },
    #[error("a head that is longer than {HEAD_MAX} bytes")]
    TooLong,
    #[error("a name that is no UTF-8")]
    NotText,
    #[error("a key that is there twice: `{0}`")]
    TwoKeys(String),
    #[error("a tensor that is there twice: `{0}`")]
    TwoTensors(String),
    #[error("a value of an unknown type: {0}")]
    ValueType(u32),
    #[error("a list of lists")]
    NestedList,
    #[error("a flag that is neither 0 nor 1: {0}")]
    Flag(u8),
    #[error("an alignment that is no power of two up to {ALIGNMENT_MAX}: {0}")]
    Alignment(u64),
    #[error("a tensor of an unknown type: {0}")]
    TensorType(u32),
    #[error("a tensor whose size is no number that there is: `{0}`")]
    Size(String),
    #[error("a tensor whose rows are no whole number of blocks: `{0}`")]
    Blocks(String),
    #[error("a tensor that does not lie behind the one before it: `{name}` at {offset} and not at {expected}")]
    Misplaced { name: String, offset: u64, expected: u64 },
}

/// Reads the head of a file of this length from its first bytes.
pub fn read(bytes: &[u8], file_length: u64) -> Result<Head, GgufError> {
    let mut cursor = Cursor::new(bytes, file_length);
    let magic = cursor.u32()?;
    if magic != MAGIC {
        return Err(cursor.wrong(Problem::Magic(magic)));
    }
    let version = cursor.u32()?;
    if !VERSIONS.contains(&version) {
        let turned = VERSIONS.contains(&version.swap_bytes());
        return Err(cursor.wrong(if turned { Problem::BigEndian } else { Problem::Version(version) }));
    }
    let tensor_count = cursor.count("tensors", TENSORS_MAX)?;
    let key_count = cursor.count("keys", KEYS_MAX)?;
    let mut keys = BTreeMap::new();
    for _ in 0..key_count {
        let key = cursor.text("a key", KEY_LENGTH_MAX)?;
        let kind = cursor.u32()?;
        let value = value(&mut cursor, kind)?;
        if keys.contains_key(&key) {
            return Err(cursor.wrong(Problem::TwoKeys(key)));
        }
        keys.insert(key, value);
    }
    let alignment = alignment(&cursor, &keys)?;
    let tensors = tensors(&mut cursor, tensor_count, alignment)?;
    Ok(Head { keys, tensors })
}

fn alignment(cursor: &Cursor, keys: &BTreeMap<String, Value>) -> Result<u64, GgufError> {
    match keys.get(ALIGNMENT_KEY) {
        None => Ok(ALIGNMENT_DEFAULT),
        Some(Value::Number(number)) if number.is_power_of_two() && *number <= ALIGNMENT_MAX => Ok(*number),
        Some(Value::Number(number)) => Err(cursor.wrong(Problem::Alignment(*number))),
        Some(_) => Err(cursor.wrong(Problem::Alignment(0))),
    }
}

/// The index, and whether the tensors lie in it one behind the other and inside the file.
fn tensors(cursor: &mut Cursor, count: u64, alignment: u64) -> Result<Vec<Tensor>, GgufError> {
    let (mut tensors, mut names, mut end) = (Vec::new(), BTreeSet::new(), 0_u64);
    for _ in 0..count {
        let (tensor, offset) = tensor(cursor)?;
        let name = tensor.name.clone();
        if offset != end {
            return Err(cursor.wrong(Problem::Misplaced { name, offset, expected: end }));
        }
        let padded = tensor.bytes.checked_next_multiple_of(alignment);
        end = match padded.and_then(|padded| end.checked_add(padded)) {
            Some(end) => end,
            None => return Err(cursor.wrong(Problem::Size(name))),
        };
        if !names.insert(name) {
            return Err(cursor.wrong(Problem::TwoTensors(tensor.name)));
        }
        tensors.push(tensor);
    }
    // The padding behind the last tensor may be left out.
    let last = tensors.last().map_or(0, |tensor| tensor.bytes.next_multiple_of(alignment) - tensor.bytes);
    cursor.has_after_padding("the weights", alignment, end - last)?;
    Ok(tensors)
}

fn tensor(cursor: &mut Cursor) -> Result<(Tensor, u64), GgufError> {
    let name = cursor.text("the name of a tensor", TENSOR_NAME_MAX)?;
    let count = cursor.u32()?;
    if count > DIMENSIONS_MAX {
        let (count, limit) = (u64::from(count), u64::from(DIMENSIONS_MAX));
        return Err(cursor.wrong(Problem::TooMany { what: "dimensions", count, limit }));
    }
    let mut dimensions = Vec::new();
    for _ in 0..count {
        dimensions.push(cursor.u64()?);
    }
    let code = cursor.u32()?;
    let Some(kind) = TensorType::of_code(code) else { return Err(cursor.wrong(Problem::TensorType(code))) };
    let offset = cursor.u64()?;
    let columns = dimensions.first().copied().unwrap_or(1);
    if !columns.is_multiple_of(kind.block()) {
        return Err(cursor.wrong(Problem::Blocks(name)));
    }
    let Some(bytes) = kind.bytes(&dimensions) else { return Err(cursor.wrong(Problem::Size(name))) };
    Ok((Tensor { name, kind, dimensions, bytes }, offset))
}

/// The value types of docs/gguf.md by their codes.
fn value(cursor: &mut Cursor, kind: u32) -> Result<Value, GgufError> {
    match kind {
        8 => Ok(cursor.text_if_short("a text", TEXT_KEPT_MAX)?.map_or(Value::Skipped(1), Value::Text)),
        9 => list(cursor),
        _ => scalar(cursor, kind),
    }
}

fn scalar(cursor: &mut Cursor, kind: u32) -> Result<Value, GgufError> {
    let signed = |number: i64| u64::try_from(number).map_or(Value::Negative(number), Value::Number);
    Ok(match kind {
        0 => Value::Number(cursor.array::<1>()?[0].into()),
        1 => signed(i8::from_le_bytes(cursor.array()?).into()),
        2 => Value::Number(u16::from_le_bytes(cursor.array()?).into()),
        3 => signed(i16::from_le_bytes(cursor.array()?).into()),
        4 => Value::Number(cursor.u32()?.into()),
        5 => signed(i32::from_le_bytes(cursor.array()?).into()),
        6 => Value::Real(f32::from_le_bytes(cursor.array()?).into()),
        7 => match cursor.array::<1>()?[0] {
            0 => Value::Flag(false),
            1 => Value::Flag(true),
            other => return Err(cursor.wrong(Problem::Flag(other))),
        },
        10 => Value::Number(cursor.u64()?),
        11 => signed(i64::from_le_bytes(cursor.array()?)),
        12 => Value::Real(f64::from_le_bytes(cursor.array()?)),
        _ => return Err(cursor.wrong(Problem::ValueType(kind))),
    })
}

fn list(cursor: &mut Cursor) -> Result<Value, GgufError> {
    let kind = cursor.u32()?;
    let width = match kind {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        8 | 10..=12 => 8,
        9 => return Err(cursor.wrong(Problem::NestedList)),
        _ => return Err(cursor.wrong(Problem::ValueType(kind))),
    };
    let count = cursor.u64()?;
    // A text takes at least the eight bytes of its length.
    let length = count.saturating_mul(width);
    cursor.has("a list", length)?;
    if kind == 8 {
        for _ in 0..count {
            cursor.text_if_short("a text", 0)?;
        }
        return Ok(Value::Skipped(count));
    }
    if matches!(kind, 6 | 12) || count > LIST_KEPT_MAX {
        cursor.skip("a list", length)?;
        return Ok(Value::Skipped(count));
    }
    let mut numbers = Vec::new();
    for _ in 0..count {
        match scalar(cursor, kind)? {
            Value::Number(number) => numbers.push(number),
            Value::Flag(flag) => numbers.push(flag.into()),
            // A negative number is no size: it counts as none.
            Value::Negative(_) | Value::Real(_) | Value::Text(_) | Value::List(_) | Value::Skipped(_) => {
                numbers.push(0);
            }
        }
    }
    Ok(Value::List(numbers))
}

#[cfg(test)]
mod tests;
