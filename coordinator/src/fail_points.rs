//! The places where a test may kill the coordinator.

/// Every fail point of this crate, around each write to the store and each
/// message sent or received. Every migration passes each of them. A test compares the list with the source.
pub const ALL: &[&str] = &[
    "coordinator.store.opened",
    "coordinator.store.leading",
    "coordinator.store.session_begun",
    "coordinator.store.before_commit",
    "coordinator.store.after_commit",
    "coordinator.session.before_attach",
    "coordinator.session.welcomed",
    "coordinator.session.first_beat",
    "coordinator.receive.fact",
    "coordinator.before_send.command",
    "coordinator.send.command",
    "coordinator.send.word",
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::*;

    fn collect(directory: &Path, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, found);
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            for rest in text.split("fail_point::hit(\"").skip(1) {
                found.extend(rest.split('"').next().map(str::to_owned));
            }
        }
    }

    #[test]
    fn the_list_is_complete() {
        let mut found = BTreeSet::new();
        collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
        found.retain(|point| point.starts_with("coordinator."));
        let listed: BTreeSet<_> = ALL.iter().map(|point| (*point).to_owned()).collect();
        assert_eq!(found, listed);
    }
}
