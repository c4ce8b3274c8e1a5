//! What the documents claim of the code and a text can show.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every source file below a directory, but for tests, and what it says without its
/// comments.
fn sources(directory: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut directories = vec![root().join(directory)];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).unwrap().map(Result::unwrap) {
            let path = entry.path();
            let name = entry.file_name().into_string().unwrap();
            if path.is_dir() && !matches!(name.as_str(), "tests" | "target") {
                directories.push(path);
            } else if name.ends_with(".rs") && !name.ends_with("tests.rs") {
                let text = fs::read_to_string(&path).unwrap();
                let code: Vec<_> = text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
                let place = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
                found.push((place, code.join("\n")));
            }
        }
    }
    assert!(!found.is_empty(), "{directory}");
    found
}

/// The files below the directories that hold one of the words, and are none of `allowed`.
fn others_with(words: &[&str], directories: &[&str], allowed: &[&str]) -> Vec<String> {
    let sources = directories.iter().flat_map(|directory| sources(directory));
    let holding = sources.filter(|(_, code)| words.iter().any(|word| code.contains(word)));
    holding.map(|(place, _)| place).filter(|place| !allowed.iter().any(|start| place.starts_with(start))).collect()
}

const NONE: [String; 0] = [];

#[test]
fn one_module_reads_clocks() {
    let words = ["Instant::now()", "SystemTime::now()", "tokio::time::sleep"];
    assert_eq!(others_with(&words, &["agent", "coordinator", "proto"], &["proto/link/src/clock.rs"]), NONE);
}

#[test]
fn sessions_are_opened_in_the_room_that_knows_postgresql() {
    // PgBouncer's console is no database.
    let allowed = ["agent/src/postgres/", "agent/postgres/", "agent/src/pooler/console.rs"];
    assert_eq!(others_with(&["NoTls", "connect_raw"], &["agent"], &allowed), NONE);
}

#[test]
fn the_workflow_knows_no_clock_no_socket_and_no_store() {
    let words = ["tokio", "tonic", "rusqlite", "SystemTime::now", "crate::engine", "crate::store"];
    assert_eq!(others_with(&words, &["coordinator/src/workflow"], &[]), NONE);
    // An act's own file has its codec; what decides knows no message.
    assert_eq!(others_with(&["v1::"], &["coordinator/src/workflow"], &["coordinator/src/workflow/act"]), NONE);
}

#[test]
fn the_coordinator_knows_generated_types_where_it_speaks() {
    // Figures are passed on as the agents send them.
    let speaking =
        ["wire", "service", "fleet", "daemon", "engine/hear", "engine/task/send", "workflow/act", "figures", "metrics"];
    let allowed = speaking.map(|place| format!("coordinator/src/{place}"));
    let allowed: Vec<&str> = allowed.iter().map(String::as_str).collect();
    assert_eq!(others_with(&["v1::"], &["coordinator/src"], &allowed), NONE);
}

#[test]
fn what_agents_report_is_read_and_written_in_one_place() {
    // Neither what measures it nor what decides and explains by it knows how it is sent.
    let words = ["v1::Situation", "v1::PlanMaterial", "v1::WalForecast", "v1::DriftedObject", "v1::ProgressPart"];
    assert_eq!(others_with(&words, &["agent", "coordinator/src", "proto"], &["proto/report/src/"]), NONE);
}

#[test]
fn one_module_of_the_command_line_writes() {
    let words = ["print!(", "println!(", "std::io::stdout", "std::io::stderr", "io::stdout()", "io::stderr()"];
    assert_eq!(others_with(&words, &["coordinator/cli/src"], &["coordinator/cli/src/terminal.rs"]), NONE);
}

/// `use crate::…` of link's files, as far as they name another one.
fn links() -> Vec<(String, Vec<String>)> {
    let files = sources("proto/link/src");
    let room = |place: &str| {
        let name = place.trim_start_matches("proto/link/src/").trim_end_matches(".rs");
        name.split('/').next().unwrap_or_default().to_owned()
    };
    let rooms: Vec<String> = files.iter().map(|(place, _)| room(place)).collect();
    let named = |place: &str, code: &str| {
        // What a file's own tests need is no tie.
        let code = code.split("#[cfg(test)]").next().unwrap_or_default().to_owned();
        let ties = |other: &&String| {
            let direct = code.contains(&format!("crate::{other}::"));
            let grouped = code.split("use crate::{").skip(1).any(|rest| {
                let names = rest.split('}').next().unwrap_or_default();
                names.split(',').any(|name| name.trim() == other.as_str())
            });
            direct || grouped
        };
        rooms.iter().filter(|other| **other != room(place)).filter(ties).cloned().collect::<Vec<_>>()
    };
    files.iter().map(|(place, code)| (room(place), named(place, code))).collect()
}

#[test]
fn no_files_of_link_are_a_circle() {
    let links = links();
    for (start, _) in &links {
        let mut reached: Vec<&str> = Vec::new();
        let mut waiting = vec![start.as_str()];
        while let Some(room) = waiting.pop() {
            for next in links.iter().filter(|(from, _)| from == room).flat_map(|(_, to)| to) {
                assert_ne!(next, start, "{start} and {room} are in a circle");
                if !reached.contains(&next.as_str()) {
                    reached.push(next);
                    waiting.push(next);
                }
            }
        }
    }
}
