//! The token table of the recorded models: text -> token ids, and a seed -> the reply's tokens.
//! It was recovered from the recording, so prompt counts come out exactly as the real server counted them.

const CONSONANTS: &[u8; 16] = b"bcdfghklmnprstvw";
const VOWELS: &[u8; 5] = b"aeiou";
const SYLLABLES: u32 = 333;
const SPACED: u32 = 413;
const SPACED_END: u32 = 493;
/// Bytes that have no piece of their own follow the three control tokens.
const BYTES: u32 = 3;

/// Token ids of a text, with the leading space the real tokenizer puts in front and without the begin token.
pub(crate) fn encode(text: &str) -> Vec<u32> {
    let text = [b" ", text.as_bytes()].concat();
    let mut ids = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        let (id, width) = piece(&text[at..]);
        ids.push(id);
        at += width;
    }
    ids
}

fn piece(rest: &[u8]) -> (u32, usize) {
    if let [b' ', consonant, vowel, ..] = rest
        && let Some(index) = syllable(*consonant, *vowel)
    {
        return (SPACED + index, 3);
    }
    if let [consonant, vowel, ..] = rest
        && let Some(index) = syllable(*consonant, *vowel)
    {
        return (SYLLABLES + index, 2);
    }
    let byte = rest[0];
    let id = match byte {
        b' ' => 259,
        b'a'..=b'z' => 260 + u32::from(byte - b'a'),
        b'A'..=b'Z' => 286 + u32::from(byte - b'A'),
        b'0'..=b'9' => 312 + u32::from(byte - b'0'),
        b'\n' => 332,
        other => BYTES + u32::from(other),
    };
    (id, 1)
}

fn syllable(consonant: u8, vowel: u8) -> Option<u32> {
    let row = CONSONANTS.iter().position(|c| *c == consonant)?;
    let column = VOWELS.iter().position(|v| *v == vowel)?;
    u32::try_from(row * VOWELS.len() + column).ok()
}

/// The text of a token of a reply: a syllable, or one of the pieces JSON replies are made of.
pub(crate) fn decode(id: u32) -> String {
    let (index, space) = match id {
        SYLLABLES..SPACED => (id - SYLLABLES, ""),
        SPACED..SPACED_END => (id - SPACED, " "),
        259 => return " ".into(),
        332 => return "\n".into(),
        byte => return char::from_u32(byte.saturating_sub(BYTES)).map_or(String::new(), String::from),
    };
    let index = usize::try_from(index).expect("a syllable's index is below 80");
    let consonant = char::from(CONSONANTS[index / VOWELS.len()]);
    format!("{space}{consonant}{}", char::from(VOWELS[index % VOWELS.len()]))
}

/// The token at `position` of the one reply a model has for a prompt; never the same one twice running.
pub(crate) fn reply_token(seed: u64, position: usize) -> u32 {
    let token = draw(seed, position);
    if position > 0 && token == draw(seed, position - 1) {
        return SYLLABLES + (token - SYLLABLES + 1 + u32::from(position.is_multiple_of(2))) % (SPACED_END - SYLLABLES);
    }
    token
}

fn draw(seed: u64, position: usize) -> u32 {
    let step = u64::try_from(position).expect("a position fits 64 bits").wrapping_add(1);
    let mut z = seed.wrapping_add(step.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    SYLLABLES + u32::try_from((z ^ (z >> 31)) % u64::from(SPACED_END - SYLLABLES)).expect("a remainder below 160")
}

/// What a model forced into JSON begins with, as recorded: a brace and white space.
pub(crate) fn json_token(position: usize) -> u32 {
    match position {
        0 => BYTES + u32::from(b'{'),
        3 => 332,
        _ => 259,
    }
}

/// A seed, a digest or an id made from words (FNV-1a): the same words give the same number.
pub(crate) fn hash(words: &[&str]) -> u64 {
    words
        .iter()
        .flat_map(|word| word.bytes().chain([0]))
        .fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}
