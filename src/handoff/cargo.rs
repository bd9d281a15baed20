//! Whose the results of a flight are. Its memory is used again and again.

use std::ops::Range;

use crate::redis::Placement;

/// The requests of a flight.
#[derive(Default)]
pub struct Cargo {
    /// Their ids, one behind the other.
    text: String,
    entries: Vec<Entry>,
}

struct Entry {
    id: Range<usize>,
    placement: Placement,
    /// Which one of the caller's batch it is.
    index: usize,
}

impl Cargo {
    pub fn add(&mut self, id: &str, placement: Placement, index: usize) {
        let start = self.text.len();
        self.text.push_str(id);
        self.entries.push(Entry { id: start..self.text.len(), placement, index });
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn get(&self, i: usize) -> (&str, Placement) {
        let entry = &self.entries[i];
        (&self.text[entry.id.clone()], entry.placement)
    }

    /// Which ones of the caller's batch they are.
    pub fn indices(&self) -> impl Iterator<Item = usize> + '_ {
        self.entries.iter().map(|entry| entry.index)
    }

    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| &self.text[entry.id.clone()])
    }

    pub(super) fn clear(&mut self) {
        self.text.clear();
        self.entries.clear();
    }
}
