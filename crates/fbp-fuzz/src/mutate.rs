//! Changes of a file at random.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// Most changes of one case.
const CHANGES: usize = 8;
/// Longest part that is moved or repeated.
const PART: usize = 4096;
/// Numbers that formats stumble over, in place of others.
const NUMBERS: [i64; 16] = [
    0,
    1,
    -1,
    2,
    127,
    128,
    255,
    256,
    32_767,
    65_535,
    i32::MAX as i64,
    i32::MIN as i64,
    u32::MAX as i64,
    1 << 40,
    i64::MAX,
    i64::MIN,
];
/// The same as text.
const WORDS: [&str; 22] = [
    "0",
    "-1",
    "1",
    "4294967296",
    "18446744073709551615",
    "99999999999999999999",
    "1e308",
    "1e999",
    "-0.0",
    "NaN",
    "inf",
    "null",
    "true",
    "\"\"",
    "[]",
    "{}",
    "[[",
    "}}",
    "1e-400",
    "\u{0}",
    "é",
    "\\u0000",
];

/// One of the seeds with some changes.
pub(crate) fn changed(seeds: &[Vec<u8>], rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut bytes = seeds[rng.random_range(0..seeds.len())].clone();
    let other = &seeds[rng.random_range(0..seeds.len())];
    // What is changed once gets far into a reader.
    let changes = if rng.random_bool(0.5) { 1 } else { rng.random_range(2..=CHANGES) };
    for _ in 0..changes {
        change(&mut bytes, other, rng);
    }
    bytes
}

fn change(bytes: &mut Vec<u8>, other: &[u8], rng: &mut ChaCha8Rng) {
    if bytes.is_empty() {
        bytes.push(rng.random());
        return;
    }
    // Headers decide more than what follows them.
    let reach = if rng.random_bool(0.5) { bytes.len() } else { bytes.len().min(256) };
    let at = rng.random_range(0..reach);
    let end = at + rng.random_range(0..=(bytes.len() - at).min(PART));
    match rng.random_range(0..12) {
        0 | 1 => bytes[at] ^= 1 << rng.random_range(0..8),
        2 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff, b'(', b'"', b'\n'][rng.random_range(0..8)],
        3 | 4 => {
            let width = 1 << rng.random_range(0..4);
            let number = match rng.random_range(0..20) {
                16 => bytes.len() as i64,
                17 => bytes.len() as i64 + 1,
                18 => rng.random(),
                which => NUMBERS[which % NUMBERS.len()],
            };
            let written = if rng.random_bool(0.5) { number.to_le_bytes() } else { number.to_be_bytes() };
            let part = if rng.random_bool(0.5) { &written[..width] } else { &written[8 - width..] };
            for (to, from) in bytes[at..].iter_mut().zip(part) {
                *to = *from;
            }
        }
        5 => drop(bytes.drain(at..end)),
        6 => bytes.truncate(at),
        7 => {
            let part = bytes[at..end].to_vec();
            let place = rng.random_range(0..=bytes.len());
            bytes.splice(place..place, part);
        }
        8 => {
            let noise: Vec<u8> = (0..rng.random_range(1..16)).map(|_| rng.random()).collect();
            bytes.splice(at..at, noise);
        }
        9 if !other.is_empty() => {
            let from = rng.random_range(0..other.len());
            let len = rng.random_range(0..=(other.len() - from).min(PART));
            bytes.splice(at..end, other[from..from + len].iter().copied());
        }
        _ => replace_number(bytes, at, rng),
    }
}

/// Puts a word in the place of the next run of digits, as text formats have them.
fn replace_number(bytes: &mut Vec<u8>, from: usize, rng: &mut ChaCha8Rng) {
    let word = WORDS[rng.random_range(0..WORDS.len())].bytes();
    let start = bytes[from..].iter().position(u8::is_ascii_digit).map_or(from, |offset| from + offset);
    let len = bytes[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    bytes.splice(start..start + len, word);
}
