//! Every place where a test may end the process.

use crate::action::{ActionKind, Verb};

/// Places inside steps, by the name given to
/// [`crate::step::Context::fail_point`]. A test compares this list with the
/// source.
const INSIDE: &[&str] = &[
    "close_database.perform.committed",
    "close_database.undo.committed",
    "create_publication.perform.committed",
    "create_publication.perform.intended",
    "create_publication.undo.dropped",
    "create_replication_role.perform.made",
    "create_replication_role.undo.dropped",
    "drain_to_marker.perform.flushed",
    "drain_to_marker.perform.seen",
    "fence_source.perform.committed",
    "fence_source.perform.expelled",
    "fence_source.perform.noted",
    "fence_source.perform.proved",
    "open_destination.perform.committed",
    "open_destination.perform.decided",
    "open_destination.perform.sequences",
    "raise_barrier.perform.evicted",
    "raise_barrier.perform.locked",
    "raise_barrier.perform.marked",
    "remove_roles.replication",
    "set_replica_identity.perform.noted",
    "set_replica_identity.perform.set",
    "set_replica_identity.undo.restored",
];

/// Every fail point of the agent: four (three for an undo, which has nothing to
/// survey) around each action, and those inside of steps.
#[must_use]
pub fn fail_points() -> Vec<String> {
    let mut points = Vec::new();
    for kind in ActionKind::ALL {
        for verb in Verb::ALL {
            for moment in Moment::ALL {
                if verb == Verb::Perform || moment != Moment::Surveyed {
                    points.push(name(*kind, verb, moment));
                }
            }
        }
    }
    points.extend(INSIDE.iter().map(|&point| point.to_owned()));
    points
}

/// What has just become true of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// The intent is on disk; nothing was done.
    Accepted,
    /// The step has looked.
    Surveyed,
    /// The step has acted; nobody knows.
    Performed,
    /// The outcome is on disk; nobody was told.
    Recorded,
}

impl Moment {
    const ALL: [Self; 4] = [Self::Accepted, Self::Surveyed, Self::Performed, Self::Recorded];

    fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Surveyed => "surveyed",
            Self::Performed => "performed",
            Self::Recorded => "recorded",
        }
    }
}

/// Passes one of the points around an action.
pub(crate) fn pass(kind: ActionKind, verb: Verb, moment: Moment) {
    pgportage_link::fail_point::hit(&name(kind, verb, moment));
}

fn name(kind: ActionKind, verb: Verb, moment: Moment) -> String {
    format!("{kind}.{verb}.{}", moment.as_str())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    fn in_source(directory: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                in_source(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                for call in [concat!(".fail_", "point(\""), concat!("fail_point", "::hit(\"")] {
                    found.extend(text.split(call).skip(1).filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())));
                }
            }
        }
    }

    #[test]
    fn the_list_is_complete() {
        let mut found = BTreeSet::new();
        in_source(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
        let listed: BTreeSet<String> = INSIDE.iter().map(|&point| point.to_owned()).collect();
        assert_eq!(found, listed, "keep `INSIDE` as the source has it");
    }

    #[test]
    fn every_name_is_unique() {
        let points = fail_points();
        assert_eq!(points.iter().collect::<BTreeSet<_>>().len(), points.len());
    }
}
