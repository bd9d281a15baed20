//! Entries of the write-behind queue, packed one behind the other: an id, an index, and the records.

use super::store::{Placement, Write};
use crate::metrics::Metrics;

/// Bytes of a chunk. An entry that is larger has a chunk of its own.
pub(super) const SIZE: usize = 1 << 16;
/// Ids up to so many bytes are provided for by [`count_for`].
const USUAL_ID: usize = 64;
/// The id's length, the index, and the number of records.
const HEADER: usize = 2 + 8 + 4;
const RECORD: usize = 3 * 8;
/// What stands for no index.
const APPEND: u64 = u64::MAX;

/// Some entries.
pub struct Chunk {
    bytes: Vec<u8>,
    records: usize,
}

/// One write, as it was pushed.
#[derive(Clone, Copy)]
pub struct Entry<'a> {
    pub id: &'a str,
    pub placement: Placement,
    records: &'a [[u8; RECORD]],
}

/// Bytes that a write takes.
pub fn entry_size(write: &Write<'_>) -> usize {
    HEADER + write.id.len() + RECORD * write.records.len()
}

/// Chunks that hold so many records, each pushed by itself, with ids of usual length.
pub fn count_for(records: usize) -> usize {
    let in_a_chunk = SIZE / (HEADER + USUAL_ID + RECORD);
    // One is being filled, and some are being written.
    records.div_ceil(in_a_chunk) + 2
}

impl Chunk {
    /// An empty one that has room for an entry of `size` at least; `None` where there is no memory.
    pub fn new(size: usize) -> Option<Self> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(size.max(SIZE)).ok()?;
        Some(Chunk { bytes, records: 0 })
    }

    pub fn has_room(&self, size: usize) -> bool {
        self.bytes.capacity() - self.bytes.len() >= size
    }

    pub fn records(&self) -> usize {
        self.records
    }

    /// Adds an entry, for which there is room.
    pub fn add(&mut self, write: &Write<'_>) {
        let index = match write.placement {
            Placement::Append => APPEND,
            Placement::At(index) => index,
        };
        self.bytes.extend_from_slice(&(write.id.len() as u16).to_ne_bytes());
        self.bytes.extend_from_slice(&index.to_ne_bytes());
        self.bytes.extend_from_slice(&(write.records.len() as u32).to_ne_bytes());
        self.bytes.extend_from_slice(write.id.as_bytes());
        for number in write.records.iter().flat_map(Metrics::fields) {
            self.bytes.extend_from_slice(&number.to_ne_bytes());
        }
        self.records += write.records.len();
    }

    /// The entries in the order in which they were added.
    pub fn entries(&self) -> impl Iterator<Item = Entry<'_>> + Clone {
        let mut rest = self.bytes.as_slice();
        std::iter::from_fn(move || {
            let id_len = u16::from_ne_bytes(*split(&mut rest)?);
            let index = u64::from_ne_bytes(*split(&mut rest)?);
            let count = u32::from_ne_bytes(*split(&mut rest)?);
            let (id, behind) = rest.split_at_checked(id_len.into())?;
            let (records, behind) = behind.split_at_checked(RECORD * count as usize)?;
            rest = behind;
            let placement = if index == APPEND { Placement::Append } else { Placement::At(index) };
            Some(Entry { id: std::str::from_utf8(id).ok()?, placement, records: records.as_chunks().0 })
        })
    }

    /// The chunk to be used again, if it is one of the usual size.
    pub fn emptied(mut self) -> Option<Self> {
        self.bytes.clear();
        self.records = 0;
        (self.bytes.capacity() == SIZE).then_some(self)
    }
}

/// The first bytes, which are taken off.
fn split<'a, const N: usize>(bytes: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (first, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(first)
}

impl<'a> Entry<'a> {
    /// How many records there are.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    pub fn records(&self) -> impl Iterator<Item = Metrics> + use<'a> {
        self.records.iter().map(|bytes| {
            let number = |i: usize| bytes[8 * i..].first_chunk().map_or(f64::NAN, |bytes| f64::from_ne_bytes(*bytes));
            Metrics { log_norm: number(0), log_norm_temp: number(1), entropy: number(2) }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Pushed = (String, Option<u64>, Vec<[f64; 3]>);

    fn metrics(fields: &[f64; 3]) -> Metrics {
        Metrics { log_norm: fields[0], log_norm_temp: fields[1], entropy: fields[2] }
    }

    proptest! {
        /// What was added comes out, bit for bit and in order.
        #[test]
        fn entries_come_out_as_they_were_added(
            pushed in prop::collection::vec(
                (".{1,40}", prop::option::of(0..u64::MAX / 2), prop::collection::vec(any::<[f64; 3]>(), 1..9)), 0..20),
        ) {
            let pushed: Vec<Pushed> = pushed;
            let mut chunk = Chunk::new(0).unwrap();
            for (id, index, records) in &pushed {
                let records: Vec<Metrics> = records.iter().map(metrics).collect();
                let placement = index.map_or(Placement::Append, Placement::At);
                let write = Write { id, placement, records: &records };
                let before = chunk.bytes.len();
                prop_assert!(chunk.has_room(entry_size(&write)));
                chunk.add(&write);
                prop_assert_eq!(chunk.bytes.len() - before, entry_size(&write));
            }
            prop_assert_eq!(chunk.records(), pushed.iter().map(|(_, _, records)| records.len()).sum::<usize>());
            prop_assert_eq!(chunk.entries().count(), pushed.len());
            for (entry, (id, index, records)) in chunk.entries().zip(&pushed) {
                prop_assert_eq!(entry.id, id);
                prop_assert_eq!(entry.placement, index.map_or(Placement::Append, Placement::At));
                prop_assert_eq!(entry.len(), records.len());
                for (read, fields) in entry.records().zip(records) {
                    prop_assert_eq!(read.fields().map(f64::to_bits), fields.map(f64::to_bits));
                }
            }
        }
    }

    #[test]
    fn a_record_with_an_id_of_36_bytes_takes_less_than_128_bytes() {
        let write = Write { id: &"x".repeat(36), placement: Placement::At(1), records: &[Metrics::default()] };
        assert!(entry_size(&write) <= 80);
    }

    #[test]
    fn a_large_entry_has_a_chunk_of_its_own_that_is_not_kept() {
        let records = vec![Metrics::default(); 10_000];
        let write = Write { id: "a", placement: Placement::Append, records: &records };
        let mut chunk = Chunk::new(entry_size(&write)).unwrap();
        assert!(chunk.has_room(entry_size(&write)));
        chunk.add(&write);
        assert_eq!(chunk.entries().next().map(|entry| entry.len()), Some(10_000));
        assert!(chunk.emptied().is_none());
    }
}
