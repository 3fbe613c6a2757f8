//! Cpu: what a processor can compute with -> which weights llama.cpp packs anew for it, and what the copies take.
//!
//! A matrix is copied in another order beside its file where that makes multiplying quicker. The two places that decide
//! it are asked in this order: ggml/src/ggml-cpu/amx and ggml/src/ggml-cpu/repack.cpp. Which of them a server has been
//! built with cannot be seen from outside: one without AMX takes less than is said here, and is learned.

use serde::{Deserialize, Serialize};

use super::gguf::Tensor;

/// What matters of a processor, by what it has at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cpu {
    /// Nothing is packed for it.
    #[default]
    Plain,
    Avx2,
    Avx512,
    Amx,
    Arm,
}

/// The type of a matrix, the width that its rows must divide by, and how many bytes each such part of a row takes, with
/// what AMX keeps beside it (ggml-cpu/amx/mmq.cpp, get_row_size).
const AMX: [(&str, u64, u64); 8] = [
    ("f16", 16, 32),
    ("q4_0", 32, 18),
    ("q4_1", 32, 20),
    ("q8_0", 32, 34 + 4),
    ("q4_k", 256, 144 + 4),
    ("q5_k", 256, 176 + 4),
    ("q6_k", 256, 210),
    ("iq4_xs", 256, 136 + 2),
];
/// AMX works on so many rows at once, the others on eight.
const AMX_ROWS: u64 = 32;
const ROWS: u64 = 8;

impl Cpu {
    pub const ALL: [Cpu; 5] = [Cpu::Plain, Cpu::Avx2, Cpu::Avx512, Cpu::Amx, Cpu::Arm];

    pub fn name(self) -> &'static str {
        match self {
            Cpu::Plain => "plain",
            Cpu::Avx2 => "avx2",
            Cpu::Avx512 => "avx512",
            Cpu::Amx => "amx",
            Cpu::Arm => "arm",
        }
    }

    /// By the names that the kernel gives its features.
    pub fn of_features(features: &[&str]) -> Self {
        let has = |name: &str| features.contains(&name);
        if has("amx_int8") && has("avx512_vnni") {
            Cpu::Amx
        } else if has("avx512f") {
            Cpu::Avx512
        } else if has("avx2") {
            Cpu::Avx2
        } else if has("asimd") {
            Cpu::Arm
        } else {
            Cpu::Plain
        }
    }

    /// What the copy of this tensor takes; `None` where it is used as it lies.
    pub fn copy_of(self, tensor: &Tensor) -> Option<u64> {
        let looked_up = ["token_embd", "position_embd", "token_types"].iter().any(|name| tensor.name.contains(name));
        if looked_up { None } else { self.copy_for_output(tensor) }
    }

    /// The same of a matrix that is not only looked up, but multiplied with at the end as well.
    pub fn copy_for_output(self, tensor: &Tensor) -> Option<u64> {
        let rows = tensor.dimensions.get(1).copied().filter(|rows| *rows > 1)?;
        let is_convolution = ["conv1d", "shortconv.conv"].iter().any(|name| tensor.name.contains(name));
        if is_convolution {
            return None;
        }
        let by_amx = if self == Cpu::Amx { amx(tensor, rows) } else { None };
        let is_packed = rows.is_multiple_of(ROWS) && self.packs(tensor.kind.name()) && has_its_form(tensor);
        by_amx.or_else(|| is_packed.then_some(tensor.bytes))
    }

    fn packs(self, kind: &str) -> bool {
        let types: &[&str] = match self {
            Cpu::Plain => &[],
            Cpu::Avx2 => &["q4_0", "iq4_nl", "q4_k", "mxfp4"],
            Cpu::Avx512 | Cpu::Amx => &["q4_0", "iq4_nl", "q4_k", "mxfp4", "q2_k"],
            Cpu::Arm => &["q4_0", "iq4_nl", "q4_k", "q5_k", "q6_k", "q8_0", "mxfp4"],
        };
        types.contains(&kind)
    }
}

/// The matrices of experts are chosen from, which AMX does not do.
fn is_of_experts(tensor: &Tensor) -> bool {
    tensor.name.contains("_exps")
}

fn amx(tensor: &Tensor, rows: u64) -> Option<u64> {
    let (_, part, size) = AMX.into_iter().find(|(kind, ..)| *kind == tensor.kind.name())?;
    let width = tensor.dimensions.first().copied()?;
    if is_of_experts(tensor) || !rows.is_multiple_of(AMX_ROWS) || !width.is_multiple_of(part) {
        return None;
    }
    let all: u64 = tensor.dimensions[1..].iter().try_fold(width / part, |product, one| product.checked_mul(*one))?;
    all.checked_mul(size)
}

/// Matrices, and stacks of them where experts are chosen.
fn has_its_form(tensor: &Tensor) -> bool {
    let is_stack = tensor.dimensions.iter().skip(2).any(|size| *size > 1);
    is_stack == is_of_experts(tensor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::footprint::gguf::tensor_type::TensorType;

    fn tensor(name: &str, kind: &str, dimensions: &[u64]) -> Tensor {
        let kind = TensorType::of_name(kind).unwrap();
        Tensor { name: name.to_owned(), kind, dimensions: dimensions.to_vec(), bytes: kind.bytes(dimensions).unwrap() }
    }

    /// What a server wrote to its log of such tensors, in bytes: 1024 by 4096 as F16 is 8 MiB.
    #[test]
    fn what_is_copied_depends_on_the_type_and_the_processor() {
        let copied = |kind: &str| {
            let matrix = tensor("blk.0.ffn_up.weight", kind, &[1024, 4096]);
            Cpu::ALL.map(|cpu| cpu.copy_of(&matrix))
        };
        let bytes = |kind: &str| tensor("", kind, &[1024, 4096]).bytes;
        let same = |kind: &str| Some(bytes(kind));
        assert_eq!(copied("f32"), [None; 5]);
        assert_eq!(copied("bf16"), [None; 5]);
        assert_eq!(copied("f16"), [None, None, None, Some(8 << 20), None]);
        assert_eq!(copied("q4_0"), [None, same("q4_0"), same("q4_0"), same("q4_0"), same("q4_0")]);
        let more = Some(bytes("q4_k") / 144 * 148);
        assert_eq!(copied("q4_k"), [None, same("q4_k"), same("q4_k"), more, same("q4_k")]);
        assert_eq!(copied("q6_k"), [None, None, None, same("q6_k"), same("q6_k")]);
        assert_eq!(copied("q8_0"), [None, None, None, Some(bytes("q8_0") / 34 * 38), same("q8_0")]);
        assert_eq!(copied("q2_k"), [None, None, same("q2_k"), same("q2_k"), None]);
        assert_eq!(copied("q3_k"), [None; 5]);
    }

    #[test]
    fn what_is_no_matrix_of_the_right_form_is_used_as_it_lies() {
        let amx = |name: &str, kind: &str, dimensions: &[u64]| Cpu::Amx.copy_of(&tensor(name, kind, dimensions));
        assert_eq!(amx("blk.0.ffn_up.weight", "f16", &[1024, 4096]), Some(8 << 20));
        assert_eq!(amx("blk.0.ffn_up.weight", "f16", &[1024, 4097]), None, "rows");
        assert_eq!(amx("blk.0.ffn_up.weight", "f16", &[1000, 4096]), None, "width");
        assert_eq!(amx("blk.0.attn_norm.weight", "f16", &[1024]), None);
        assert_eq!(amx("token_embd.weight", "f16", &[1024, 4096]), None, "only looked up");
        assert_eq!(amx("blk.0.ffn_up_exps.weight", "f16", &[1024, 4096, 8]), None, "chosen from");
        assert_eq!(amx("blk.0.attn_k_b.weight", "f16", &[64, 256, 16]), Some(64 * 256 * 16 * 2), "a stack");
        let experts = tensor("blk.0.ffn_up_exps.weight", "q4_k", &[1024, 4096, 8]);
        assert_eq!([Cpu::Avx2, Cpu::Amx].map(|cpu| cpu.copy_of(&experts)), [Some(experts.bytes); 2]);
        let stack = tensor("blk.0.attn_k_b.weight", "q4_0", &[64, 256, 16]);
        assert_eq!(Cpu::Avx2.copy_of(&stack), None);
        let embedded = tensor("token_embd.weight", "q6_k", &[1024, 4096]);
        assert_eq!(Cpu::Amx.copy_for_output(&embedded), Some(embedded.bytes), "where it is the output too");
    }

    #[test]
    fn a_processor_is_what_it_has_at_most() {
        let of = |features: &str| Cpu::of_features(&features.split(' ').collect::<Vec<_>>());
        assert_eq!(of("fpu sse2"), Cpu::Plain);
        assert_eq!(of("fpu avx2 f16c"), Cpu::Avx2);
        assert_eq!(of("avx2 avx512f avx512_vnni amx_bf16"), Cpu::Avx512);
        assert_eq!(of("avx2 avx512f avx512_vnni amx_tile amx_int8"), Cpu::Amx);
        assert_eq!(of("fp asimd asimddp"), Cpu::Arm);
    }
}
