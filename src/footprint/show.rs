//! Show: what a server says of a model, as JSON -> the same head that its file would give.
//!
//! Ollama's `/api/show` has the keys of the file under their own names and a list of tensors with types and sizes. Long
//! lists are null or empty there.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value as Json;

use super::gguf::tensor_type::TensorType;
use super::gguf::{Head, Tensor, Value};

/// The part of the answer that is read.
#[derive(Debug, Default, Deserialize)]
pub struct Shown {
    #[serde(default)]
    pub model_info: BTreeMap<String, Json>,
    #[serde(default)]
    pub tensors: Option<Vec<ShownTensor>>,
}

#[derive(Debug, Deserialize)]
pub struct ShownTensor {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub shape: Vec<u64>,
}

impl Shown {
    /// A tensor of an unknown type or of an impossible size makes the weights unknown, and so the head has none.
    pub fn head(&self) -> Head {
        let keys = self.model_info.iter().map(|(key, value)| (key.clone(), kept(value))).collect();
        let tensor = |shown: &ShownTensor| {
            let kind = TensorType::of_name(&shown.kind)?;
            let bytes = kind.bytes(&shown.shape)?;
            Some(Tensor { name: shown.name.clone(), kind, dimensions: shown.shape.clone(), bytes })
        };
        let tensors = self.tensors.iter().flatten().map(tensor).collect::<Option<Vec<_>>>();
        Head { keys, tensors: tensors.unwrap_or_default() }
    }
}

fn kept(value: &Json) -> Value {
    match value {
        Json::Bool(flag) => Value::Flag(*flag),
        Json::String(text) => Value::Text(text.clone()),
        Json::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
            (Some(number), ..) => Value::Number(number),
            // A server that reads all numbers as fractions writes whole ones so.
            (None, None, Some(real)) if real >= 0.0 && real.fract() == 0.0 && real < 9e15 => Value::Number(real as u64),
            (None, Some(number), _) => Value::Negative(number),
            (None, None, real) => Value::Real(real.unwrap_or(0.0)),
        },
        Json::Array(entries) => {
            let number = |entry: &Json| match entry {
                Json::Bool(flag) => Some(u64::from(*flag)),
                Json::Number(number) => Some(number.as_u64().unwrap_or(0)),
                Json::Null | Json::String(_) | Json::Array(_) | Json::Object(_) => None,
            };
            match entries.iter().map(number).collect::<Option<Vec<_>>>() {
                Some(numbers) if !numbers.is_empty() => Value::List(numbers),
                Some(_) | None => Value::Skipped(entries.len() as u64),
            }
        }
        Json::Null | Json::Object(_) => Value::Skipped(0),
    }
}
