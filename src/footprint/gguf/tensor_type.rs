//! Tensor types: a code or a name -> how many values a block has, and how many bytes.
//!
//! The codes are those of `enum ggml_type` (ggml/include/ggml.h), the sizes those of the blocks in ggml/src/ggml-common.h.

use serde::{Deserialize, Serialize};

/// How a tensor's values are stored, by its name in lower case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TensorType(u32);

/// Code, name, values in a block, bytes of a block.
const TYPES: [(u32, &str, u64, u64); 33] = [
    (0, "f32", 1, 4),
    (1, "f16", 1, 2),
    (2, "q4_0", 32, 18),
    (3, "q4_1", 32, 20),
    (6, "q5_0", 32, 22),
    (7, "q5_1", 32, 24),
    (8, "q8_0", 32, 34),
    (9, "q8_1", 32, 36),
    (10, "q2_k", 256, 84),
    (11, "q3_k", 256, 110),
    (12, "q4_k", 256, 144),
    (13, "q5_k", 256, 176),
    (14, "q6_k", 256, 210),
    (15, "q8_k", 256, 292),
    (16, "iq2_xxs", 256, 66),
    (17, "iq2_xs", 256, 74),
    (18, "iq3_xxs", 256, 98),
    (19, "iq1_s", 256, 50),
    (20, "iq4_nl", 32, 18),
    (21, "iq3_s", 256, 110),
    (22, "iq2_s", 256, 82),
    (23, "iq4_xs", 256, 136),
    (24, "i8", 1, 1),
    (25, "i16", 1, 2),
    (26, "i32", 1, 4),
    (27, "i64", 1, 8),
    (28, "f64", 1, 8),
    (29, "iq1_m", 256, 56),
    (30, "bf16", 1, 2),
    (34, "tq1_0", 256, 54),
    (35, "tq2_0", 256, 66),
    (39, "mxfp4", 32, 17),
    (40, "nvfp4", 64, 36),
];

impl TensorType {
    pub const F16: TensorType = TensorType(1);

    pub fn of_code(code: u32) -> Option<Self> {
        TYPES.iter().find(|(known, ..)| *known == code).map(|_| TensorType(code))
    }

    /// By its name in either case, as servers write it.
    pub fn of_name(name: &str) -> Option<Self> {
        TYPES.iter().find(|(_, known, ..)| known.eq_ignore_ascii_case(name)).map(|(code, ..)| TensorType(*code))
    }

    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// How many values a block has.
    pub fn block(self) -> u64 {
        self.row().2
    }

    /// What a tensor of these dimensions takes; `None` when that is beyond all numbers.
    pub fn bytes(self, dimensions: &[u64]) -> Option<u64> {
        let values = dimensions.iter().try_fold(1_u64, |product, one| product.checked_mul(*one))?;
        self.bytes_of(values)
    }

    /// What so many values in whole blocks take.
    pub fn bytes_of(self, values: u64) -> Option<u64> {
        let (_, _, block, size) = self.row();
        values.div_ceil(block).checked_mul(size)
    }

    fn row(self) -> (u32, &'static str, u64, u64) {
        // A number from a recording that is no type counts as the widest.
        TYPES.into_iter().find(|(code, ..)| *code == self.0).unwrap_or((self.0, "unknown", 1, 8))
    }
}
