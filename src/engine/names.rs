//! The series that a stream has named in the plain form, by the bytes in which it named them.
//!
//! A sender says the same of a series in the same bytes again and again. They are read and checked
//! once; from then on they are looked up as they are.

use hashbrown::{DefaultHashBuilder, HashTable};
use std::hash::BuildHasher;
use std::ops::Range;

/// Bytes of a stream's names. When they are more, it starts again from none.
const MAX_BYTES: usize = 4 << 20;

/// A series that a stream has named before. It holds until the request is taken in.
#[derive(Clone, Copy, Debug)]
pub struct Name(u32);

/// `P` is where a series lives.
pub(super) struct Names<P> {
    index: HashTable<u32>,
    entries: Vec<Entry<P>>,
    /// The bytes of all entries.
    bytes: Vec<u8>,
    hasher: DefaultHashBuilder,
}

struct Entry<P> {
    bytes: Range<u32>,
    place: P,
}

impl<P> Default for Names<P> {
    fn default() -> Self {
        let (index, hasher) = (HashTable::new(), DefaultHashBuilder::default());
        Self { index, entries: Vec::new(), bytes: Vec::new(), hasher }
    }
}

impl<P: Copy> Names<P> {
    /// The series that was named in these bytes.
    pub(super) fn find(&self, identity: &[u8]) -> Option<Name> {
        let hash = self.hasher.hash_one(identity);
        let same = |entry: &u32| self.identity(*entry) == identity;
        self.index.find(hash, same).map(|entry| Name(*entry))
    }

    /// Where it lives.
    pub(super) fn place(&self, name: Name) -> P {
        self.entries[name.0 as usize].place
    }

    /// Notes that it lives elsewhere by now.
    pub(super) fn moved(&mut self, name: Name, place: P) {
        self.entries[name.0 as usize].place = place;
    }

    /// Keeps what a series was named by. Names that were found before may not hold any more.
    pub(super) fn insert(&mut self, identity: &[u8], place: P) {
        if self.find(identity).is_some() {
            return;
        }
        if self.bytes.len() + self.entries.len() * size_of::<Entry<P>>() >= MAX_BYTES {
            self.index.clear();
            self.entries.clear();
            self.bytes.clear();
        }
        let start = self.bytes.len() as u32;
        self.bytes.extend_from_slice(identity);
        let entry = self.entries.len() as u32;
        self.entries.push(Entry { bytes: start..self.bytes.len() as u32, place });
        let (entries, bytes, hasher) = (&self.entries, &self.bytes, &self.hasher);
        self.index.insert_unique(hasher.hash_one(identity), entry, |entry| {
            let Range { start, end } = entries[*entry as usize].bytes;
            hasher.hash_one(&bytes[start as usize..end as usize])
        });
    }

    fn identity(&self, entry: u32) -> &[u8] {
        let Range { start, end } = self.entries[entry as usize].bytes;
        &self.bytes[start as usize..end as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_named_is_found_by_the_same_bytes_only() {
        let mut names = Names::default();
        for slot in 0..1000 {
            names.insert(format!("name {slot}").as_bytes(), slot);
        }
        let name = names.find(b"name 77").unwrap();
        assert_eq!(names.place(name), 77);
        assert!(names.find(b"name 7").is_some() && names.find(b"name 1000").is_none());
        names.moved(name, 5);
        assert_eq!(names.place(names.find(b"name 77").unwrap()), 5);
        names.insert(b"name 77", 6);
        assert_eq!(names.place(names.find(b"name 77").unwrap()), 5, "it is known");
    }

    #[test]
    fn names_beyond_the_bound_start_again() {
        let mut names = Names::default();
        let long = "x".repeat(1 << 20);
        for n in 0..20 {
            names.insert(format!("{n}{long}").as_bytes(), n);
            assert!(names.bytes.len() < MAX_BYTES + (2 << 20));
        }
        assert!(names.find(format!("19{long}").as_bytes()).is_some());
        assert!(names.find(format!("0{long}").as_bytes()).is_none());
    }
}
