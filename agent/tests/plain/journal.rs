//! The journal under kill -9: whatever a process said it had stored is there.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use pgportage_link::Clock;
use pgportage_migration::journal::{CommandEntry, FactKind, Journal, Known};
use rand::Rng;

/// Where the writer writes. Set only in the process that this test starts.
const PATH: &str = "JOURNAL_UNDER_TEST";
const ROUNDS: usize = 40;

fn entry(id: &str) -> CommandEntry {
    CommandEntry {
        id: id.to_owned(),
        migration: "orders".to_owned(),
        digest: [7; 32],
        // Several pages, so that a kill can fall between them.
        message: vec![7; 20_000],
        actor: "spiffe://example.org/pgportage/coordinator/main".to_owned(),
        actor_serial: "01".to_owned(),
    }
}

/// Stores commands and outcomes for ever, and says of each that it is stored
/// once it is.
#[test]
#[ignore = "started by the other test, and killed"]
fn writer() {
    let Some(path) = std::env::var_os(PATH) else { return };
    let journal = Journal::open(&PathBuf::from(path)).unwrap();
    let mut out = std::io::stdout();
    for number in 0.. {
        let id = format!("{}-{number}", std::process::id());
        journal.accept(&entry(&id), None, b"accepted", Clock.wall()).unwrap();
        writeln!(out, "stored {id} 1").unwrap();
        journal.record(&id, FactKind::Final, b"succeeded", Clock.wall()).unwrap();
        writeln!(out, "stored {id} 2").unwrap();
    }
}

#[test]
fn what_was_stored_survives_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.db");
    let mut stored: BTreeMap<String, i64> = BTreeMap::new();
    for _ in 0..ROUNDS {
        write_and_kill(&path, &mut stored);
        let journal = Journal::open(&path).unwrap();
        let mut found: BTreeMap<String, Vec<i64>> = BTreeMap::new();
        for fact in journal.facts_to_send().unwrap() {
            found.entry(fact.command_id).or_default().push(fact.sequence);
        }
        for (id, last) in &stored {
            assert_eq!(journal.known(id, &[7; 32]).unwrap(), Known::Same, "{id}");
            assert!(found[id].len() as i64 >= *last, "{id} had {last} facts, now {:?}", found[id]);
        }
        for (id, facts) in &found {
            assert_eq!(*facts, (1..=facts.len() as i64).collect::<Vec<_>>(), "{id}: without gaps");
        }
        // At most the command that was being stored has no outcome.
        let open = journal.interrupted().unwrap().len();
        assert_eq!(open, found.values().filter(|facts| facts.len() == 1).count());
    }
    assert!(stored.len() > ROUNDS / 2, "the writer hardly got to write: {}", stored.len());
}

fn write_and_kill(path: &Path, stored: &mut BTreeMap<String, i64>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "journal::writer", "--nocapture"])
        .env(PATH, path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // Not always at the same place in a transaction.
    let mut left = rand::rng().random_range(1..40);
    let mut killed = false;
    while let Some(Ok(line)) = lines.next() {
        let mut words = line.split(' ').skip_while(|word| !word.ends_with("stored")).skip(1);
        if let (Some(id), Some(sequence)) = (words.next(), words.next().and_then(|word| word.parse().ok())) {
            stored.insert(id.to_owned(), sequence);
            left -= 1;
        }
        if left <= 0 && !killed {
            child.kill().unwrap();
            killed = true;
        }
    }
    child.wait().unwrap();
}
