//! What a pickle would cost to read, found out before it is read.
//!
//! The reader of PyTorch files keeps every object of a pickle, copies what the pickle refers to, and gives every tensor its
//! whole path as a name. A short pickle can therefore ask for any amount of memory: a list of a hundred million empty lists
//! takes 100 MB in a file and 10 GB in memory, and a long key above many tensors becomes a part of each of their names. This
//! goes through the operations of a pickle as the reader would, with a few numbers in the place of every object, and refuses
//! what no file of weights needs.

use std::collections::HashMap;
use std::io::{BufRead, Read};

use super::WeightsFault;

/// Most operations of all pickles of a file. A tensor takes about 35, and the reader about 100 bytes for each.
const MAX_OPERATIONS: u64 = 1 << 20;
/// Most bytes of all pickles of a file.
const MAX_BYTES: u64 = 64 << 20;
/// Most bytes of all names of tensors.
const MAX_NAMES: u64 = 64 << 20;
/// Bytes that an index in a list may take in a name.
const INDEX: u64 = 20;

/// What is said about storages that are named by a text.
const PROTOCOL_0: &str = "its pickle has protocol 0, in which PyTorch writes files that it cannot load itself: save them again \
                          from where the tensors are, with the protocol that torch.save takes if it is not told";

/// What stands for an object.
#[derive(Clone, Copy, Default)]
struct Summary {
    /// Storages that no tensor has been made of yet.
    storages: u64,
    /// Tensors within.
    tensors: u64,
    /// Bytes of their names, as far as they are known.
    names: u64,
    /// Bytes of a text; 0 for everything else.
    text: u64,
    /// Where the object was last put.
    slot: Option<u32>,
}

impl Summary {
    /// Takes an object in as an element whose key has so many bytes.
    fn take(&mut self, element: Self, key: u64) {
        self.storages = self.storages.saturating_add(element.storages);
        self.tensors = self.tensors.saturating_add(element.tensors);
        let names = element.names.saturating_add(element.tensors.saturating_mul(key.saturating_add(1)));
        self.names = self.names.saturating_add(names);
    }

    /// All objects as elements of a sequence. A sequence may become a dictionary, so its texts count as keys.
    fn sequence(elements: &[Self]) -> Self {
        let key = elements.iter().map(|element| element.text).fold(INDEX, u64::max);
        let mut whole = Self::default();
        elements.iter().for_each(|&element| whole.take(element, key));
        whole
    }

    fn pairs(&mut self, elements: &[Self]) {
        for pair in elements.chunks_exact(2) {
            self.take(pair[1], pair[0].text.max(INDEX));
        }
    }
}

/// What was found in one pickle.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// Number of tensors, equal names counted as often as they occur.
    pub(super) tensors: u64,
    /// Whether an object took tensors in that are not all in its dictionary; then `tensors` may be too many.
    pub(super) has_objects: bool,
    /// Name of the last class.
    pub(super) class: String,
    /// The last integer.
    pub(super) integer: u64,
}

/// What all pickles of a file may still cost.
pub(super) struct Budget {
    operations: u64,
    bytes: u64,
    /// Whether a persistent name is a tensor, as in tar files, or a storage.
    names_are_tensors: bool,
}

impl Budget {
    /// The most that is allowed.
    pub(super) fn new(names_are_tensors: bool) -> Self {
        Self { operations: MAX_OPERATIONS, bytes: MAX_BYTES, names_are_tensors }
    }
}

/// Goes through one pickle, and leaves the reader behind it.
pub(super) fn scan(reader: &mut impl BufRead, budget: &mut Budget) -> Result<Scan, WeightsFault> {
    Scanner { reader, budget, stack: Vec::new(), marks: Vec::new(), memo: HashMap::new(), found: Scan::default() }.run()
}

struct Scanner<'a, R> {
    reader: &'a mut R,
    budget: &'a mut Budget,
    stack: Vec<Summary>,
    marks: Vec<usize>,
    memo: HashMap<u32, Summary>,
    found: Scan,
}

fn damaged(reason: impl Into<String>) -> WeightsFault {
    WeightsFault::Damaged(reason.into())
}

impl<R: BufRead> Scanner<'_, R> {
    fn spend(&mut self, bytes: u64) -> Result<(), WeightsFault> {
        let left = self.budget.bytes.checked_sub(bytes);
        self.budget.bytes = left.ok_or_else(|| {
            WeightsFault::Limit(format!("more than {MAX_BYTES} bytes that only describe its tensors"))
        })?;
        Ok(())
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], WeightsFault> {
        self.spend(N as u64)?;
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes).map_err(|e| damaged(format!("in its pickle: {e}")))?;
        Ok(bytes)
    }

    /// A length of `N` bytes, little-endian.
    fn length<const N: usize>(&mut self) -> Result<u64, WeightsFault> {
        Ok(self.bytes::<N>()?.iter().rev().fold(0, |length, &byte| length << 8 | u64::from(byte)))
    }

    /// Skips so many bytes.
    fn skip(&mut self, length: u64) -> Result<(), WeightsFault> {
        self.spend(length)?;
        let skipped = std::io::copy(&mut self.reader.by_ref().take(length), &mut std::io::sink());
        match skipped {
            Ok(skipped) if skipped == length => Ok(()),
            Ok(_) => Err(damaged("its pickle ends within a text")),
            Err(error) => Err(damaged(format!("in its pickle: {error}"))),
        }
    }

    fn line(&mut self) -> Result<String, WeightsFault> {
        let mut line = Vec::new();
        let mut limited = self.reader.by_ref().take(self.budget.bytes.saturating_add(1));
        limited.read_until(b'\n', &mut line).map_err(|e| damaged(format!("in its pickle: {e}")))?;
        self.spend(line.len() as u64)?;
        if line.pop() != Some(b'\n') {
            return Err(damaged("its pickle ends within a line"));
        }
        Ok(String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned())
    }

    fn push(&mut self, object: Summary) -> Result<(), WeightsFault> {
        self.check(object)?;
        self.stack.push(object);
        Ok(())
    }

    fn check(&self, object: Summary) -> Result<(), WeightsFault> {
        if object.names > MAX_NAMES {
            return Err(WeightsFault::Limit(format!("names of tensors with more than {MAX_NAMES} bytes")));
        }
        Ok(())
    }

    fn text(&mut self, length: u64) -> Result<(), WeightsFault> {
        self.skip(length)?;
        self.push(Summary { text: length, ..Summary::default() })
    }

    fn integer(&mut self, value: u64) -> Result<(), WeightsFault> {
        self.found.integer = value;
        self.push(Summary::default())
    }

    fn pop(&mut self) -> Result<Summary, WeightsFault> {
        let guarded = self.marks.last() == Some(&self.stack.len());
        if guarded { None } else { self.stack.pop() }.ok_or_else(|| damaged("its pickle takes more than it has"))
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Summary>, WeightsFault> {
        let mark = self.marks.pop().ok_or_else(|| damaged("its pickle ends a list that it never began"))?;
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    /// Changes the object on top.
    fn change(&mut self, change: impl FnOnce(&mut Summary)) -> Result<(), WeightsFault> {
        let mut top = self.pop()?;
        change(&mut top);
        self.push(top)
    }

    fn sequence_of(&mut self, count: usize) -> Result<(), WeightsFault> {
        let mut elements = Vec::with_capacity(count);
        for _ in 0..count {
            elements.push(self.pop()?);
        }
        self.push(Summary::sequence(&elements))
    }

    fn get(&mut self, slot: u64) -> Result<(), WeightsFault> {
        let object = u32::try_from(slot).ok().and_then(|slot| self.memo.get(&slot).copied());
        self.push(object.ok_or_else(|| damaged("its pickle refers to what it does not have"))?)
    }

    fn put(&mut self, slot: u64) -> Result<(), WeightsFault> {
        let slot = u32::try_from(slot).map_err(|_| damaged("its pickle has a slot of an impossible number"))?;
        let mut top = self.pop()?;
        top.slot = Some(slot);
        self.memo.insert(slot, top);
        self.push(top)
    }

    fn number(line: &str) -> u64 {
        line.trim_end_matches('L').parse().unwrap_or(u64::MAX)
    }

    /// A call: tensors come of storages.
    fn call(&mut self, arguments: usize) -> Result<(), WeightsFault> {
        let mut whole = Summary::default();
        for _ in 0..=arguments {
            whole.take(self.pop()?, 0);
        }
        let tensors = whole.tensors.saturating_add(whole.storages);
        self.push(Summary { storages: 0, tensors, names: whole.names, text: 0, slot: None })
    }

    /// An object gets its state.
    fn build(&mut self) -> Result<(), WeightsFault> {
        let (state, mut object) = (self.pop()?, self.pop()?);
        let slot = object.slot;
        self.found.has_objects |= state.tensors + state.storages > 0;
        object.take(state, 0);
        if let Some(slot) = slot {
            self.memo.insert(slot, object);
        }
        self.push(object)
    }

    fn run(mut self) -> Result<Scan, WeightsFault> {
        loop {
            let left = self.budget.operations.checked_sub(1);
            self.budget.operations = left.ok_or_else(|| {
                WeightsFault::Limit(format!("more than {MAX_OPERATIONS} operations to describe its tensors"))
            })?;
            let [operation] = self.bytes()?;
            match operation {
                b'.' => {
                    self.found.tensors = self.pop()?.tensors;
                    return Ok(self.found);
                }
                b'(' => self.marks.push(self.stack.len()),
                b'N' | b')' | b']' | b'}' | 0x88 | 0x89 | 0x8f => self.push(Summary::default())?,
                b'I' | b'L' => {
                    let line = self.line()?;
                    self.integer(Self::number(&line))?;
                }
                b'K' => self.integer_of::<1>()?,
                b'M' => self.integer_of::<2>()?,
                b'J' => self.integer_of::<4>()?,
                b'F' => {
                    self.line()?;
                    self.push(Summary::default())?;
                }
                b'G' => {
                    self.skip(8)?;
                    self.push(Summary::default())?;
                }
                b'V' => {
                    let text = self.line()?.len() as u64;
                    // One byte of Latin-1 is up to two in UTF-8.
                    self.push(Summary { text: 2 * text, ..Summary::default() })?;
                }
                0x80 | 0x82 => self.skip(1)?,
                0x83 => self.skip(2)?,
                0x84 => self.skip(4)?,
                0x95 => self.skip(8)?,
                b'U' | b'C' | 0x8c => self.text_of::<1>()?,
                b'T' | b'X' | b'B' => self.text_of::<4>()?,
                0x8d | 0x8e | 0x96 => self.text_of::<8>()?,
                0x8a => {
                    let length = self.length::<1>()?;
                    self.long(length)?;
                }
                0x8b => {
                    let length = self.length::<4>()?;
                    self.long(length)?;
                }
                _ => self.object(operation)?,
            }
        }
    }

    fn integer_of<const N: usize>(&mut self) -> Result<(), WeightsFault> {
        let value = self.length::<N>()?;
        self.integer(value)
    }

    fn text_of<const N: usize>(&mut self) -> Result<(), WeightsFault> {
        let length = self.length::<N>()?;
        self.text(length)
    }

    fn long(&mut self, length: u64) -> Result<(), WeightsFault> {
        if length > 8 {
            self.skip(length)?;
            return self.integer(u64::MAX);
        }
        let mut value = 0;
        for place in 0..length {
            value |= self.length::<1>()? << (8 * place);
        }
        self.integer(value)
    }

    /// Operations on objects that are there already.
    fn object(&mut self, operation: u8) -> Result<(), WeightsFault> {
        match operation {
            b't' | b'l' | 0x91 => {
                let elements = self.pop_to_mark()?;
                self.push(Summary::sequence(&elements))
            }
            0x85 => self.sequence_of(1),
            0x86 => self.sequence_of(2),
            0x87 => self.sequence_of(3),
            b'd' => {
                let elements = self.pop_to_mark()?;
                let mut dictionary = Summary::default();
                dictionary.pairs(&elements);
                self.push(dictionary)
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.change(|dictionary| dictionary.pairs(&[key, value]))
            }
            b'u' => {
                let elements = self.pop_to_mark()?;
                self.change(|dictionary| dictionary.pairs(&elements))
            }
            b'a' => {
                let element = self.pop()?;
                self.change(|list| list.take(element, INDEX.max(element.text)))
            }
            b'e' | 0x90 => {
                let elements = Summary::sequence(&self.pop_to_mark()?);
                self.change(|list| list.take(elements, 0))
            }
            b'0' if self.marks.last() == Some(&self.stack.len()) => {
                self.marks.pop();
                Ok(())
            }
            b'0' => self.pop().map(drop),
            b'1' => self.pop_to_mark().map(drop),
            b'2' => {
                let top = self.pop()?;
                self.stack.push(top);
                self.push(top)
            }
            b'g' => {
                let line = self.line()?;
                self.get(Self::number(&line))
            }
            b'h' => self.length::<1>().and_then(|slot| self.get(slot)),
            b'j' => self.length::<4>().and_then(|slot| self.get(slot)),
            b'p' => {
                let line = self.line()?;
                self.put(Self::number(&line))
            }
            b'q' => self.length::<1>().and_then(|slot| self.put(slot)),
            b'r' => self.length::<4>().and_then(|slot| self.put(slot)),
            0x94 => self.put(self.memo.len() as u64),
            b'c' => {
                self.line()?;
                self.found.class = self.line()?;
                self.push(Summary::default())
            }
            0x93 => {
                self.sequence_of(2)?;
                self.change(|class| *class = Summary::default())
            }
            // A storage is named by a tuple; as text it is lost, also for PyTorch.
            b'P' if !self.budget.names_are_tensors => Err(WeightsFault::Unknown(PROTOCOL_0.to_owned())),
            b'P' => {
                self.line()?;
                self.persistent()
            }
            b'Q' => {
                self.pop()?;
                self.persistent()
            }
            b'R' | 0x81 => self.call(1),
            0x92 => self.call(2),
            b'b' => self.build(),
            other => Err(damaged(format!("its pickle has the unknown operation 0x{other:02x}"))),
        }
    }

    fn persistent(&mut self) -> Result<(), WeightsFault> {
        let (storages, tensors) = if self.budget.names_are_tensors { (0, 1) } else { (1, 0) };
        self.push(Summary { storages, tensors, ..Summary::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scanned(pickle: &[u8]) -> Result<Scan, WeightsFault> {
        scan(&mut &*pickle, &mut Budget::new(false))
    }

    #[test]
    fn tensors_are_counted_through_references() {
        // {"a": tensor, "b": the same}, a tensor being a call on a storage.
        let pickle = b"}(X\x01\x00\x00\x00acm\nf\n(NQtRq\x05X\x01\x00\x00\x00bh\x05u.";
        let scan = scanned(pickle).unwrap();
        assert_eq!((scan.tensors, scan.class.as_str()), (2, "f"));
        assert!(!scan.has_objects);
    }

    #[test]
    fn too_many_objects_are_refused() {
        assert!(matches!(scanned(&vec![b']'; MAX_OPERATIONS as usize + 2]), Err(WeightsFault::Limit(_))));
    }

    #[test]
    fn long_keys_above_many_tensors_are_refused() {
        // A dictionary of 4000 tensors, within one under a key of 100 kB.
        let mut pickle = b"}(X".to_vec();
        pickle.extend(100_000_u32.to_le_bytes());
        pickle.extend([b'k'; 100_000]);
        pickle.extend(b"}(");
        for index in 0..4000_u16 {
            pickle.push(b'M');
            pickle.extend(index.to_le_bytes());
            pickle.extend(b"cm\nf\n(NQtR");
        }
        pickle.extend(b"uu.");
        assert!(matches!(scanned(&pickle), Err(WeightsFault::Limit(_))));
    }

    #[test]
    fn lengths_beyond_the_end_are_damage() {
        for pickle in [&b"X\xff\xff\x00\x00abc"[..], b"(]", b"u.", b"h\x07.", b"\xff", b"I12", b""] {
            assert!(matches!(scanned(pickle), Err(WeightsFault::Damaged(_))), "{pickle:?}");
        }
        let huge = [&b"\x8d"[..], &u64::MAX.to_le_bytes(), b"abc"].concat();
        assert!(matches!(scanned(&huge), Err(WeightsFault::Limit(_))));
    }

    #[test]
    fn integers_and_classes_are_told() {
        assert_eq!(scanned(b"\x80\x02\x8a\x02\x39\x05.").unwrap().integer, 1337);
        assert_eq!(scanned(b"L77L\n.").unwrap().integer, 77);
        assert_eq!(scanned(b"ctorch\nFloatStorage\n.").unwrap().class, "FloatStorage");
    }
}
