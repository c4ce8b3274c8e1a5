//! The two streams of a migration, and the objects that make up each.
//!
//! *Forward* carries the source's changes to the destination; *back* carries the destination's to the
//! source once applications write there. Each is a publication and a slot on its publisher, and a
//! subscription on its subscriber. Both are made before the first cutover; the stream that runs shows on
//! which side applications write.
//!
//! **Invariant:** a side follows only while it is closed, and its own slot is then advanced past everything
//! that it applied. So a change that came from the other side is never sent back, on every version. `origin
//! = none` is not used: it would also leave out what an application's own subscriptions write.

use pgportage_proto::{MigrationId, Side};

use crate::Participation;
use crate::names;

/// One direction of a migration's changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stream {
    /// From the source to the destination.
    Forward,
    /// From the destination to the source.
    Back,
}

impl Stream {
    /// The stream that carries what applications write on a side.
    pub fn published_by(side: Side) -> Self {
        match side {
            Side::Source => Self::Forward,
            Side::Destination => Self::Back,
        }
    }

    /// The stream that a side follows while it is closed.
    pub fn subscribed_by(side: Side) -> Self {
        match side {
            Side::Source => Self::Back,
            Side::Destination => Self::Forward,
        }
    }

    /// The name of its publication, slot, subscription and replication role.
    pub fn name(self, migration: &MigrationId) -> String {
        match self {
            Self::Forward => names::replication_name(migration),
            Self::Back => names::replication_name_back(migration),
        }
    }

    /// Our published table whose arrival measures the stream's lag. Each stream has its own: what arrives
    /// in one must not be sent back in the other.
    pub fn heartbeat_table(self) -> &'static str {
        match self {
            Self::Forward => names::HEARTBEAT_TABLE,
            Self::Back => names::HEARTBEAT_BACK_TABLE,
        }
    }
}

/// The name of the stream that this side publishes.
pub fn published_name(participation: &Participation) -> String {
    Stream::published_by(participation.side).name(&participation.migration)
}

/// The name of the stream that this side follows.
pub fn subscribed_name(participation: &Participation) -> String {
    Stream::subscribed_by(participation.side).name(&participation.migration)
}

/// The name of the copy that stands in for the published slot for a moment (see `way_back`).
pub fn published_copy_name(participation: &Participation) -> String {
    match Stream::published_by(participation.side) {
        Stream::Forward => names::slot_copy(&participation.migration),
        Stream::Back => names::slot_copy_back(&participation.migration),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn what_one_side_publishes_the_other_follows() {
        assert_eq!(Stream::published_by(Side::Source), Stream::subscribed_by(Side::Destination));
        assert_eq!(Stream::published_by(Side::Destination), Stream::subscribed_by(Side::Source));
    }

    #[test]
    fn no_two_names_of_any_migrations_are_equal() {
        let names: Vec<String> = ["m", "m-back", "back-m", "back", "m-copy", "m--back"]
            .into_iter()
            .flat_map(|text| {
                let migration = MigrationId::new(text).unwrap();
                let part = |side| Participation {
                    migration: migration.clone(),
                    side,
                    database: "d".to_owned(),
                    peer: "p".to_owned(),
                };
                let (source, destination) = (part(Side::Source), part(Side::Destination));
                [
                    published_name(&source),
                    published_name(&destination),
                    published_copy_name(&source),
                    published_copy_name(&destination),
                    names::proof_publication(&migration),
                ]
            })
            .collect();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "{names:?}");
    }

    #[test]
    fn the_longest_names_fit() {
        let migration = MigrationId::new(&"m".repeat(40)).unwrap();
        for name in [
            format!("{}_canary", Stream::Back.name(&migration)),
            names::slot_copy_back(&migration),
            names::proof_publication(&migration),
        ] {
            assert!(name.len() < 64, "{name}");
        }
    }
}
