//! Decision: one that was made -> its row, which holds the whole record as JSON.

/// So many are kept, the last ones.
pub const KEPT_MAX: usize = 200;

/// A decision as it is kept. What is in the record is its writer's business.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    pub id: u64,
    pub record: String,
}
