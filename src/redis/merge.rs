//! Consecutive records of a request made into one write: what is queued under load costs the server a command a request, not
//! one a record.

use std::collections::HashMap;
use std::ops::Range;

use super::chunk::Entry;
use super::store::{Placement, Write};
use crate::metrics::Metrics;

/// Records at most that are put together: one command of them is soon sent and executed.
const MOST: usize = 1024;

/// Writes that do what some entries would have done one by one.
pub struct Merged<'a> {
    groups: Vec<Group<'a>>,
    /// Of all groups, one behind the other.
    records: Vec<Metrics>,
}

struct Group<'a> {
    id: &'a str,
    placement: Placement,
    /// How many groups of this id come before it.
    turn: usize,
    /// Its part of the records.
    range: Range<usize>,
    /// Records of its entries. Those that replace others of the group count as well.
    accepted: u64,
}

impl Group<'_> {
    /// At which of the group's records an entry begins that comes right behind it or replaces some of it.
    fn position(&self, entry: &Entry<'_>) -> Option<usize> {
        let position = match (self.placement, entry.placement) {
            (Placement::Append, Placement::Append) => self.range.len(),
            (Placement::At(first), Placement::At(index)) => usize::try_from(index.checked_sub(first)?).ok()?,
            _ => return None,
        };
        (position <= self.range.len() && position + entry.len() <= MOST).then_some(position)
    }
}

impl<'a> Merged<'a> {
    /// Merges entries. The writes of a request are in the order of its entries.
    pub fn of(entries: impl Iterator<Item = Entry<'a>> + Clone) -> Self {
        let mut groups: Vec<Group<'a>> = Vec::new();
        // Where each entry goes: its group, and which of the group's records its first one is.
        let mut places = Vec::new();
        let mut latest = HashMap::new();
        for entry in entries.clone() {
            let group = latest.entry(entry.id).or_insert(usize::MAX);
            let before = groups.get(*group).map(|group| (group.turn, group.position(&entry)));
            let position = match before {
                Some((_, Some(position))) => position,
                _ => {
                    let turn = before.map_or(0, |(turn, _)| turn + 1);
                    *group = groups.len();
                    groups.push(Group { id: entry.id, placement: entry.placement, turn, range: 0..0, accepted: 0 });
                    0
                }
            };
            let target = &mut groups[*group];
            target.range.end = target.range.end.max(position + entry.len());
            target.accepted += entry.len() as u64;
            places.push((*group, position));
        }
        let mut end = 0;
        for group in &mut groups {
            group.range = end..end + group.range.len();
            end = group.range.end;
        }
        let mut records = vec![Metrics::default(); end];
        for (entry, (group, position)) in entries.zip(places) {
            let first = groups[group].range.start + position;
            records[first..].iter_mut().zip(entry.records()).for_each(|(place, record)| *place = record);
        }
        Merged { groups, records }
    }

    /// How many turns it takes: a request's writes are to be done one after the other.
    pub fn turns(&self) -> usize {
        self.groups.iter().map(|group| group.turn + 1).max().unwrap_or(0)
    }

    /// Each write of a turn, and how many records were accepted for it. No two are of one request.
    pub fn writes(&self, turn: usize) -> impl Iterator<Item = (Write<'_>, u64)> {
        self.groups.iter().filter(move |group| group.turn == turn).map(|group| {
            let records = &self.records[group.range.clone()];
            (Write { id: group.id, placement: group.placement, records }, group.accepted)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::chunk::Chunk;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// An id, an index or an append, and the numbers of the records.
    type Pushed = (&'static str, Option<u64>, Vec<u32>);

    fn chunk_of(pushed: &[Pushed]) -> Chunk {
        let mut chunk = Chunk::new(0).unwrap();
        for (id, index, numbers) in pushed {
            let records: Vec<Metrics> =
                numbers.iter().map(|n| Metrics { log_norm: f64::from(*n), ..Metrics::default() }).collect();
            chunk.add(&Write { id, placement: index.map_or(Placement::Append, Placement::At), records: &records });
        }
        chunk
    }

    fn shown(merged: &Merged<'_>) -> Vec<(String, Option<u64>, Vec<u32>, u64)> {
        let show = |(write, accepted): (Write<'_>, u64)| {
            let index = match write.placement {
                Placement::Append => None,
                Placement::At(index) => Some(index),
            };
            let numbers = write.records.iter().map(|record| record.log_norm as u32).collect();
            (write.id.to_string(), index, numbers, accepted)
        };
        (0..merged.turns()).flat_map(|turn| merged.writes(turn)).map(show).collect()
    }

    fn check(pushed: &[Pushed], expected: &[(&str, Option<u64>, &[u32], u64)]) {
        let chunk = chunk_of(pushed);
        let expected: Vec<_> =
            expected.iter().map(|(id, index, numbers, n)| (id.to_string(), *index, numbers.to_vec(), *n)).collect();
        assert_eq!(shown(&Merged::of(chunk.entries())), expected);
    }

    #[test]
    fn records_that_follow_each_other_are_one_write() {
        check(
            &[("a", Some(5), vec![1]), ("b", None, vec![2]), ("a", Some(6), vec![3, 4]), ("b", None, vec![5])],
            &[("a", Some(5), &[1, 3, 4], 3), ("b", None, &[2, 5], 2)],
        );
    }

    #[test]
    fn what_is_replaced_is_not_written_and_yet_counted() {
        check(
            &[("a", Some(5), vec![1, 2]), ("a", Some(5), vec![3]), ("a", Some(6), vec![4, 5])],
            &[("a", Some(5), &[3, 4, 5], 5)],
        );
    }

    #[test]
    fn what_does_not_follow_is_a_write_of_its_own() {
        check(
            &[("a", Some(5), vec![1]), ("a", Some(7), vec![2]), ("a", Some(4), vec![3]), ("a", None, vec![4])],
            &[("a", Some(5), &[1], 1), ("a", Some(7), &[2], 1), ("a", Some(4), &[3], 1), ("a", None, &[4], 1)],
        );
    }

    #[test]
    fn a_command_does_not_grow_without_end() {
        let all = [
            ("a", Some(0), vec![7; MOST - 1]),
            ("a", Some(MOST as u64 - 1), vec![1]),
            ("a", Some(MOST as u64), vec![2]),
        ];
        let chunk = chunk_of(&all);
        let merged = Merged::of(chunk.entries());
        let sizes = |turn| merged.writes(turn).map(|(write, _)| write.records.len()).collect::<Vec<_>>();
        assert_eq!((merged.turns(), sizes(0), sizes(1)), (2, vec![MOST], vec![1]));
        // One call's records stay together.
        let chunk = chunk_of(&[("a", None, vec![1]), ("a", None, vec![7; 2 * MOST])]);
        assert_eq!(Merged::of(chunk.entries()).turns(), 2);
    }

    /// What a server makes of writes: refuses those past the end, replaces, appends.
    fn apply<'a>(writes: impl Iterator<Item = (&'a str, Option<u64>, Vec<u32>)>) -> BTreeMap<&'a str, Vec<u32>> {
        let mut lists = BTreeMap::<&str, Vec<u32>>::new();
        for (id, index, numbers) in writes {
            let list = lists.entry(id).or_default();
            let index = index.map_or(list.len(), |index| index as usize);
            if index <= list.len() {
                let tail = list.split_off(list.len().min(index + numbers.len()));
                list.truncate(index);
                list.extend(numbers);
                list.extend(tail);
            }
        }
        lists.retain(|_, list| !list.is_empty());
        lists
    }

    proptest! {
        /// The lists are what they would have been without merging, where nothing is refused for a gap within the entries.
        #[test]
        fn merging_changes_no_list(
            pushed in prop::collection::vec(
                (prop::sample::select(vec!["a", "b", "c"]), prop::option::of(0..6_u64),
                 prop::collection::vec(any::<u32>(), 1..4)), 0..30),
        ) {
            let chunk = chunk_of(&pushed);
            let merged = Merged::of(chunk.entries());
            let shown = shown(&merged);
            let total: u64 = shown.iter().map(|(_, _, _, accepted)| accepted).sum();
            prop_assert_eq!(total, chunk.records() as u64);
            let as_merged =
                apply(shown.iter().map(|(id, index, numbers, _)| (id.as_str(), *index, numbers.clone())));
            let one_by_one = apply(pushed.iter().map(|(id, index, numbers)| (*id, *index, numbers.clone())));
            prop_assert_eq!(as_merged, one_by_one);
        }
    }
}
