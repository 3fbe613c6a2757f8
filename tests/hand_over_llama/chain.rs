//! Chain: a generated model -> the same model, in which some tokens are always followed by certain others.
//!
//! It makes characters of several tokens: of such a one a server tells nothing until its last byte is there.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// In half precision: what an embedding row has in the dimension that no layer touches, and what an output row has there
/// whose token is not to be said by chance.
const CONSTANT: u16 = 0x4600;
const NEVER: u16 = 0xC800;
/// What ties two tokens together: 200 in the embedding of the first, 5 in the output row of the second.
const TIE_IN: u16 = 0x5A40;
const TIE_OUT: u16 = 0x4500;
const ALIGNMENT: usize = 32;

/// The token of a byte, and that of a printable ASCII character.
pub fn byte(byte: u8) -> usize {
    3 + usize::from(byte)
}

pub fn ascii(character: u8) -> usize {
    260 + usize::from(character - b'!')
}

/// After the first token of each pair the model says the second.
pub fn link(model: &Path, embedding: usize, pairs: &[(usize, usize)]) {
    let mut bytes = fs::read(model).unwrap();
    let row = embedding * 2;
    let is_row = |at: usize| bytes.get(at..at + 2) == Some(&CONSTANT.to_le_bytes()[..]);
    let mut places = (0..bytes.len()).step_by(ALIGNMENT);
    let first =
        places.find(|at| (0..64).all(|index| is_row(at + index * row))).expect("the embedding is the first tensor");
    let tokens = (0..).take_while(|index| is_row(first + index * row)).count();
    // The weights of the last norm lie between.
    let norm = first + (tokens * row).next_multiple_of(ALIGNMENT);
    let output = norm + (embedding * 4).next_multiple_of(ALIGNMENT);
    let mut set = |at: usize, value: u16| bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
    for token in pairs.iter().map(|(_, said)| said).collect::<BTreeSet<_>>() {
        (1..embedding).for_each(|dimension| set(output + token * row + dimension * 2, 0));
        set(output + token * row, NEVER);
    }
    for (dimension, (after, said)) in (1..).zip(pairs) {
        (1..embedding).for_each(|other| set(first + after * row + other * 2, 0));
        set(first + after * row + dimension * 2, TIE_IN);
        set(output + said * row + dimension * 2, TIE_OUT);
    }
    fs::write(model, bytes).unwrap();
}
