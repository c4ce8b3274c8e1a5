//! Decides whether a row that seems to differ really does. Pure.
//!
//! The subscriber's agent looks at both sides in turn: destination, source, destination, source. Between a
//! look at the source and the next one at the destination, a heartbeat passes the stream: it is written
//! after the first look and has arrived before the second. Therefore
//!
//! - what the source showed, the destination has applied at its next look, and perhaps more;
//! - what the destination shows is no later than what the source shows next.
//!
//! A row whose version was the same at two looks was not written in between. So a row that stood still on
//! the source from one look to the next must be on the destination in between, with the same contents. And
//! a row that stood still on the destination from one look to the next must have been on the source in
//! between. **Nothing else is called a difference**, with one exception: a row that in many looks one side
//! never had and the other always had.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::part::{RowHash, RowKey};

/// Hashes remembered of each side. A row that is written all the time may be found equal only to what the
/// other side showed some looks before.
const REMEMBERED: usize = 32;
/// Looks at each side after which "never" and "always" count.
const ENOUGH: u32 = 10;

/// What kind of difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Difference {
    /// Only the source has the row.
    Missing,
    /// Only the destination has it.
    Extra,
    /// Its contents differ.
    Changed,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "missing",
            Self::Extra => "extra",
            Self::Changed => "changed",
        })
    }
}

/// What became of a suspicion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Both sides agree.
    Equal,
    /// The sides differ, and no write explains it.
    Differs(Difference),
}

/// One row under suspicion.
#[derive(Clone, Debug)]
pub struct Suspect {
    /// Its key.
    pub key: RowKey,
    source: Side,
    destination: Side,
}

#[derive(Clone, Debug, Default)]
struct Side {
    looks: u32,
    /// The row at the latest look, if it was there.
    latest: Option<Option<Seen>>,
    /// The hashes at the latest looks.
    hashes: Vec<Option<[i64; 2]>>,
    always: bool,
    ever: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    hash: [i64; 2],
    version: String,
}

impl Side {
    fn look(&mut self, seen: Option<Seen>) -> Option<Option<Seen>> {
        self.remember(seen.as_ref());
        self.always = seen.is_some() && (self.always || self.looks == 0);
        self.looks += 1;
        self.latest.replace(seen)
    }

    fn remember(&mut self, seen: Option<&Seen>) {
        self.ever |= seen.is_some();
        self.hashes.push(seen.map(|seen| seen.hash));
        if self.hashes.len() > REMEMBERED {
            self.hashes.remove(0);
        }
    }

    fn showed(&self, seen: Option<&Seen>) -> bool {
        self.hashes.contains(&seen.map(|seen| seen.hash))
    }
}

fn seen(row: Option<&RowHash>) -> Option<Seen> {
    row.map(|row| Seen { hash: row.hash, version: row.version.clone() })
}

impl Suspect {
    /// A row that neither side was asked about yet.
    pub fn new(key: RowKey) -> Self {
        Self { key, source: Side::default(), destination: Side::default() }
    }

    /// A look at the destination, after a heartbeat that followed the latest look
    /// at the source has arrived.
    pub fn on_destination(&mut self, row: Option<&RowHash>) -> Option<Verdict> {
        let now = seen(row);
        if self.source.showed(now.as_ref()) {
            return Some(Verdict::Equal);
        }
        let before = self.destination.look(now.clone());
        let (Some(Some(before)), Some(None), Some(now)) = (before, &self.source.latest, now) else { return None };
        (before.version == now.version).then_some(Verdict::Differs(Difference::Extra))
    }

    /// A look at the destination without a heartbeat before it. It can only clear the row.
    pub fn peek(&mut self, row: Option<&RowHash>) -> Option<Verdict> {
        let now = seen(row);
        if self.source.showed(now.as_ref()) {
            return Some(Verdict::Equal);
        }
        self.destination.remember(now.as_ref());
        None
    }

    /// A look at the source.
    pub fn on_source(&mut self, row: Option<&RowHash>) -> Option<Verdict> {
        let now = seen(row);
        if self.destination.showed(now.as_ref()) {
            return Some(Verdict::Equal);
        }
        let before = self.source.look(now.clone());
        let (Some(Some(before)), Some(now)) = (before, now) else { return None };
        if before.version != now.version {
            return None;
        }
        match &self.destination.latest {
            Some(Some(_)) => Some(Verdict::Differs(Difference::Changed)),
            Some(None) => Some(Verdict::Differs(Difference::Missing)),
            None => None,
        }
    }

    /// The verdict on a row that was written between all looks, if there is one.
    pub fn at_last(&self) -> Option<Verdict> {
        if self.source.looks < ENOUGH || self.destination.looks < ENOUGH {
            return None;
        }
        if self.source.always && !self.destination.ever {
            Some(Verdict::Differs(Difference::Missing))
        } else if self.destination.always && !self.source.ever {
            Some(Verdict::Differs(Difference::Extra))
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One row on a source that applications write to, and on a destination that follows.
    #[derive(Debug)]
    struct World {
        /// Contents after each write; none where the row was deleted.
        writes: Vec<Option<i64>>,
        /// How many of the writes the source has seen, and how many the destination.
        source: usize,
        destination: usize,
        /// A change planted by hand in the row on the destination, and after which write.
        planted: Option<(Plant, usize)>,
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Plant {
        Gone,
        Other,
    }

    impl World {
        fn on_source(&self) -> Option<RowHash> {
            let value = (*self.writes.get(self.source.checked_sub(1)?)?)?;
            Some(row(value, self.source))
        }

        fn on_destination(&self) -> Option<RowHash> {
            if let Some((plant, at)) = self.planted
                && at == self.destination
            {
                return match plant {
                    Plant::Gone => None,
                    Plant::Other => Some(row(99, usize::MAX)),
                };
            }
            let value = (*self.writes.get(self.destination.checked_sub(1)?)?)?;
            Some(row(value, self.destination))
        }
    }

    fn row(value: i64, version: usize) -> RowHash {
        RowHash { key: RowKey(vec!["1".to_owned()]), hash: [value, 0], version: version.to_string() }
    }

    /// Time that passes: writes, and how far the destination follows.
    type Pause = (usize, usize);

    /// Looks in turn until there is a verdict.
    fn investigate(world: &mut World, pauses: &[Pause]) -> Option<Verdict> {
        let mut suspect = Suspect::new(RowKey(vec!["1".to_owned()]));
        let mut pauses = pauses.iter().copied().cycle();
        let pass = |world: &mut World, (written, followed): Pause| {
            world.source = (world.source + written).min(world.writes.len());
            world.destination = (world.destination + followed).min(world.source);
        };
        for round in 0..40 {
            if let Some(verdict) = suspect.on_destination(world.on_destination().as_ref()) {
                return Some(verdict);
            }
            pass(world, pauses.next().unwrap());
            if let Some(verdict) = suspect.on_source(world.on_source().as_ref()) {
                return Some(verdict);
            }
            let fence = world.source;
            pass(world, pauses.next().unwrap());
            if round % 3 == 2
                && let Some(verdict) = suspect.peek(world.on_destination().as_ref())
            {
                return Some(verdict);
            }
            // The heartbeat has arrived.
            world.destination = world.destination.max(fence);
        }
        None
    }

    fn pauses() -> impl Strategy<Value = Vec<Pause>> {
        prop::collection::vec((0_usize..4, 0_usize..4), 1..12)
    }

    fn writes() -> impl Strategy<Value = Vec<Option<i64>>> {
        prop::collection::vec(prop::option::weighted(0.7, 0_i64..3), 0..60)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]

        /// A row may be written, deleted and written again, and the destination may be far behind: no look
        /// turns that into a difference.
        #[test]
        fn writes_are_no_difference(writes in writes(), behind in 0_usize..10, pauses in pauses()) {
            let source = behind.min(writes.len());
            let mut world = World { writes, source, destination: 0, planted: None };
            let verdict = investigate(&mut world, &pauses);
            prop_assert!(!matches!(verdict, Some(Verdict::Differs(_))), "{:?}", verdict);
        }

        /// A row that stands still and differs is found, whatever was written before.
        #[test]
        fn what_differs_is_found(
            writes in prop::collection::vec(prop::option::weighted(0.7, 0_i64..3), 1..10),
            gone in any::<bool>(),
            pauses in pauses(),
        ) {
            let last = *writes.last().unwrap();
            let plant = if gone { Plant::Gone } else { Plant::Other };
            prop_assume!(!(gone && last.is_none()));
            // A difference from what the last write should have left.
            let at = writes.len();
            let mut world = World { writes, source: at, destination: at, planted: Some((plant, at)) };
            let expected = match (plant, last) {
                (Plant::Gone, _) => Difference::Missing,
                (Plant::Other, Some(_)) => Difference::Changed,
                (Plant::Other, None) => Difference::Extra,
            };
            prop_assert_eq!(investigate(&mut world, &pauses), Some(Verdict::Differs(expected)));
        }
    }

    #[test]
    fn a_row_that_is_written_all_the_time_is_cleared_by_one_match() {
        let mut suspect = Suspect::new(RowKey(vec!["1".to_owned()]));
        for value in 0..5 {
            assert_eq!(suspect.on_destination(Some(&row(100 + value, 100))), None);
            assert_eq!(suspect.on_source(Some(&row(value, value as usize))), None);
        }
        assert_eq!(suspect.peek(Some(&row(3, 7))), Some(Verdict::Equal));
    }

    #[test]
    fn never_against_always_counts_after_many_looks() {
        let mut suspect = Suspect::new(RowKey(vec!["1".to_owned()]));
        for value in 0..ENOUGH {
            assert_eq!(suspect.at_last(), None);
            assert_eq!(suspect.on_destination(None), None);
            assert_eq!(suspect.on_source(Some(&row(value.into(), value as usize))), None);
        }
        assert_eq!(suspect.at_last(), Some(Verdict::Differs(Difference::Missing)));
        suspect.peek(Some(&row(77, 77)));
        assert_eq!(suspect.at_last(), None, "once is not never");
    }
}
