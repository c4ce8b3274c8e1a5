//! What an operator sees, in every state, against files under `tests/golden/`.
//!
//! `PGPORTAGE_UPDATE_GOLDEN=1 cargo test -p pgportage --test program golden` writes them
//! anew; read the difference before committing it.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use clap::CommandFactory;
use pgportage::arguments::Arguments;
use pgportage::news::{Grain, news};
use pgportage::pace::Pace;
use pgportage::render::{self, Style};
use pgportage::view::{Agent, Failure, Migration, Plan, Preflight, Proof, WayBack};
use pgportage::wire;
use pgportage_certificate::{Check, Direction, Report};
use pgportage_proto::{Reason, v1};
use time::OffsetDateTime;

use crate::support;

type Render = Box<dyn Fn(Style) -> String>;

fn now() -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(support::NOW).unwrap()
}

/// A coordinator that sends what a terminal would obey.
fn hostile() -> v1::Migration {
    let mut migration = support::failed();
    migration.spec.as_mut().unwrap().database = "shop\u{1b}[2J\u{202e}".to_owned();
    migration.waiting_for = "line one\nline two\u{7}".to_owned();
    let failure = support::step(&mut migration, "subscribe").failure.as_mut().unwrap();
    failure.message = "\u{1b}]0;owned\u{7} message".to_owned();
    failure.hint = "first\nsecond\r\u{1b}[1A".to_owned();
    migration
}

/// The copy, a number of seconds before.
fn copying_before(seconds: i64) -> v1::Migration {
    let mut migration = support::copying();
    let progress = support::step(&mut migration, "copy").progress.as_mut().unwrap();
    progress.completed -= seconds * (70 << 20);
    for part in progress.parts.iter_mut().filter(|part| !part.ready && part.size_bytes > 0) {
        part.size_bytes = (part.size_bytes - seconds * (10 << 20)).max(0);
    }
    migration
}

/// Everything was looked at, and nothing is wrong.
fn explained_well() -> v1::ExplainMigrationResponse {
    let mut explained = support::explained();
    explained.explanations.clear();
    for report in &mut explained.reports {
        let situation = report.situation.as_mut().unwrap();
        let slot = situation.slot.take().map(|slot| v1::SlotSituation { complete: true, ..slot });
        *situation = v1::Situation { link: situation.link.take(), slot, ..v1::Situation::default() };
    }
    explained
}

/// The source agent does not answer.
fn explained_blindly() -> v1::ExplainMigrationResponse {
    let mut explained = support::explained();
    explained.explanations.retain(|found| found.weight() == v1::explanation::Weight::Unchecked);
    let silent =
        pgportage_link::Failure::new(Reason::CouldNotCheck, "agent alpha did not say within 2500 ms what it sees");
    explained.reports[0] =
        v1::SideReport { situation: None, failure: Some(silent.into()), ..explained.reports[0].clone() };
    explained
}

/// A server whose names a terminal would obey.
fn explained_hostile() -> v1::ExplainMigrationResponse {
    let mut explained = support::explained();
    let evil = "\u{1b}[2J\u{202e}x\n";
    explained.explanations[0].message.push_str(evil);
    explained.explanations[0].statements = vec![format!("COMMIT PREPARED '{evil}';")];
    let situation = explained.reports[0].situation.as_mut().unwrap();
    for session in situation.own_sessions.iter_mut().chain(&mut situation.blockers) {
        for text in [&mut session.role_name, &mut session.application_name, &mut session.state, &mut session.wait_event]
        {
            text.push_str(evil);
        }
    }
    situation.prepared_transactions[0].gid.push_str(evil);
    situation.slot.as_mut().unwrap().invalidation.push_str(evil);
    explained
}

fn states() -> Vec<(&'static str, v1::Migration)> {
    vec![
        ("pending", support::pending()),
        ("consent-wanted", support::consent_wanted()),
        ("copying", support::copying()),
        ("copying-natively", support::copying_natively()),
        ("failed", support::failed()),
        ("ready", support::ready()),
        ("differing", support::differing()),
        ("drifted", support::drifted()),
        ("cutting-over", support::cutting_over()),
        ("doubtful", support::doubtful()),
        ("doubtful-rollback", support::doubtful_rollback()),
        ("in-doubt", support::in_doubt()),
        ("taken-back", support::taken_back()),
        ("rehearsing", support::rehearsing()),
        ("rehearsed", support::rehearsed(300)),
        ("rehearsal-given-up", support::rehearsal_given_up()),
        ("cut-over", support::cut_over()),
        ("returnable", support::returnable()),
        ("rolled-back", support::rolled_back()),
        ("succeeded", support::succeeded()),
        ("aborting", support::aborting()),
        ("aborted", support::aborted()),
        ("hostile", hostile()),
        ("newer-coordinator", v1::Migration { state: 42, ..support::pending() }),
    ]
}

fn preflight(source: Vec<v1::Finding>, destination: Vec<v1::Finding>) -> Preflight {
    Preflight::from(v1::RunPreflightResponse { source_findings: source, destination_findings: destination })
}

/// A certificate that was checked.
fn checked(checks: &[(&str, bool, &str)]) -> Report {
    let check = |(subject, proved, text): &(&str, bool, &str)| Check {
        subject: (*subject).to_owned(),
        proved: *proved,
        text: (*text).to_owned(),
    };
    Report {
        migration: "shop".to_owned(),
        cutover_epoch: 1,
        direction: Some(Direction::Cutover),
        database: "shop".to_owned(),
        checks: checks.iter().map(check).collect(),
        statements: support::certificate::statements(now().into()).into(),
    }
}

/// Certificates that were checked: a good one, one that is not, and one whose maker tries
/// to command the terminal.
fn certificates() -> Vec<(&'static str, Report)> {
    let good = [
        ("signature", true, "agent \"alpha\" signed what it states about the side that was left"),
        ("sequences", true, "each of 1 sequences was set to where it stood when no session was left"),
    ];
    let bad = [good[0], ("signature", false, "the statement about the side that was entered has expired")];
    let mut hostile = checked(&bad);
    hostile.migration.push_str("\u{1b}[2J");
    hostile.checks[0].text.push_str("\u{202e}x\n");
    for statement in &mut hostile.statements {
        let texts = [&mut statement.agent, &mut statement.marker_id, &mut statement.server.system_identifier];
        texts.into_iter().chain([&mut statement.phases[0].name]).for_each(|text| text.push_str("\u{1b}]0;x\u{7}"));
    }
    let nothing = Report { direction: None, statements: Vec::new(), ..checked(&bad[1..]) };
    vec![("proved", checked(&good)), ("not-proved", checked(&bad)), ("unreadable", nothing), ("hostile", hostile)]
}

fn failures() -> Vec<(&'static str, Failure)> {
    let bare = v1::Failure { message: "the call failed".to_owned(), ..Default::default() };
    let hopeless = v1::Failure {
        reason: "SLOT_LOST".to_owned(),
        message: "the slot is gone".to_owned(),
        hint: "Abort, and start again with a larger max_slot_wal_keep_size.".to_owned(),
        remedy: v1::failure::Remedy::Abort.into(),
        effect: v1::failure::Effect::None.into(),
        ..Default::default()
    };
    let passing = v1::Failure {
        reason: "PEER_UNREACHABLE".to_owned(),
        message: "could not connect to agent \"beta\" at 10.0.0.2:7443".to_owned(),
        detail: "The network said: connection refused.".to_owned(),
        causes: vec!["connection refused (os error 111)".to_owned()],
        remedy: v1::failure::Remedy::Wait.into(),
        effect: v1::failure::Effect::None.into(),
        ..Default::default()
    };
    vec![
        ("full", support::failure().into()),
        ("bare", bare.into()),
        ("hopeless", hopeless.into()),
        ("passing", passing.into()),
    ]
}

/// Every golden file: its name and what belongs in it.
fn cases() -> Vec<(String, Render)> {
    let mut cases: Vec<(String, Render)> = Vec::new();
    let mut add = |name: String, render: Render| cases.push((name, render));
    for (name, message) in states() {
        let migration = Migration::from(message);
        let copy = migration.clone();
        let so_far = Pace::since_start(&copy, now());
        add(format!("status-{name}.txt"), Box::new(move |style| render::status(&copy, &so_far, now(), style)));
        add(format!("conclusion-{name}.txt"), Box::new(move |style| render::conclusion(&migration, style)));
    }
    let watched = Migration::from(support::copying());
    let mut so_far = Pace::default();
    // The first one is old enough for the beginning to be forgotten.
    for seconds in [35, 10] {
        let before = Migration::from(copying_before(seconds));
        so_far.look(&before, now() - Duration::from_secs(seconds.unsigned_abs()));
    }
    so_far.look(&watched, now());
    let text = move |style| render::status(&watched, &so_far, now(), style);
    add("status-copying-watched.txt".to_owned(), Box::new(text));
    let all: Vec<_> = states().into_iter().map(|(_, message)| Migration::from(message)).collect();
    add("status-all.txt".to_owned(), Box::new(move |style| render::migrations(&all, now(), style)));
    add("status-none.txt".to_owned(), Box::new(|style| render::migrations(&[], now(), style)));

    let reports = [
        ("refuse", preflight(support::findings(), support::destination_findings())),
        ("consent", preflight(Vec::new(), support::destination_findings())),
        ("clean", preflight(Vec::new(), Vec::new())),
    ];
    for (name, report) in reports {
        add(format!("preflight-{name}.txt"), Box::new(move |style| render::preflight(&report, "alpha", "beta", style)));
    }
    for (name, failure) in failures() {
        add(format!("failure-{name}.txt"), Box::new(move |style| render::failure(&failure, style)));
    }
    for (name, message) in [
        ("cause", support::explained()),
        ("nothing", explained_well()),
        ("blind", explained_blindly()),
        ("hostile", explained_hostile()),
        ("over", v1::ExplainMigrationResponse { migration: Some(support::succeeded()), ..Default::default() }),
    ] {
        let explained = wire::explained(message).unwrap();
        add(format!("explain-{name}.txt"), Box::new(move |style| render::explained(&explained, style)));
    }
    let plan = Plan::from_wire("shop", support::plan());
    add("plan.txt".to_owned(), Box::new(move |style| render::plan(&plan, style)));
    let agents: Vec<_> = support::agents().into_iter().map(Agent::from).collect();
    add("agents.txt".to_owned(), Box::new(move |style| render::agents(&agents, now(), style)));
    add("agents-none.txt".to_owned(), Box::new(|style| render::agents(&[], now(), style)));

    for (name, report) in certificates() {
        add(format!("certificate-{name}.txt"), Box::new(move |style| render::certificate(&report, style)));
    }

    let ready = Migration::from(support::ready());
    let again = ready.clone();
    add(
        "question-cutover.txt".to_owned(),
        Box::new(move |style| render::before_cutover(&ready, Some(Duration::from_secs(1)), None, true, style)),
    );
    add(
        "question-cutover-unbounded.txt".to_owned(),
        Box::new(move |style| render::before_cutover(&again, None, None, true, style)),
    );
    for (name, max_outage) in [("expected", 300), ("doubtful", 100)] {
        let rehearsed = Migration::from(support::rehearsed(300));
        let limit = Some(Duration::from_millis(max_outage));
        let text = move |style| render::before_cutover(&rehearsed, limit, limit, true, style);
        add(format!("question-cutover-{name}.txt"), Box::new(text));
    }
    for (name, rollback, rounds) in [("cutover", false, None), ("rollback", true, Some(20))] {
        let migration = Migration::from(support::ready());
        let limit = rounds.map(|_| Duration::from_millis(300));
        let text = move |style| render::before_rehearsal(&migration, rollback, rounds, limit, limit, style);
        add(format!("question-{name}-rehearsal.txt"), Box::new(text));
    }
    let over = pgportage::view::Rehearsal::from(support::rehearsed(100).rehearsal.unwrap());
    add("rehearsal-over-budget.txt".to_owned(), Box::new(move |style| render::rehearsal(&over, style)));
    let returnable = Migration::from(support::returnable());
    let ending = returnable.clone();
    add(
        "question-rollback.txt".to_owned(),
        Box::new(move |style| render::before_rollback(&returnable, Some(Duration::from_secs(1)), None, style)),
    );
    add("question-finish-way-back.txt".to_owned(), Box::new(move |style| render::before_finish(&ending, style)));
    let proved = Migration { way_back: WayBack::Proved, ..Migration::from(support::ready()) };
    add(
        "question-cutover-way-back.txt".to_owned(),
        Box::new(move |style| render::before_cutover(&proved, None, None, true, style)),
    );
    let done = Migration::from(support::cut_over());
    add("question-finish.txt".to_owned(), Box::new(move |style| render::before_finish(&done, style)));
    let copying = Migration::from(support::copying());
    add("question-abort.txt".to_owned(), Box::new(move |style| render::before_abort(&copying, style)));
    let doubt = Migration::from(support::in_doubt());
    add("question-abort-in-doubt.txt".to_owned(), Box::new(move |style| render::before_abort(&doubt, style)));

    for (name, grain) in [("news-steps.txt", Grain::Steps), ("news-tenths.txt", Grain::Tenths)] {
        add(name.to_owned(), Box::new(move |_| story(grain)));
    }

    // One look at JSON for each type; pretty here, one line in the program.
    for (name, message) in [
        ("copying", support::copying()),
        ("ready", support::ready()),
        ("differing", support::differing()),
        ("drifted", support::drifted()),
        ("failed", support::failed()),
        ("rehearsed", support::rehearsed(300)),
        ("succeeded", support::succeeded()),
    ] {
        let text = serde_json::to_string_pretty(&Migration::from(message)).unwrap();
        add(format!("json-migration-{name}.json"), Box::new(move |_| format!("{text}\n")));
    }
    let json = [
        ("json-preflight.json", serde_json::to_string_pretty(&preflight(support::findings(), Vec::new()))),
        ("json-plan.json", serde_json::to_string_pretty(&Plan::from_wire("shop", support::plan()))),
        (
            "json-agents.json",
            serde_json::to_string_pretty(&support::agents().into_iter().map(Agent::from).collect::<Vec<_>>()),
        ),
        ("json-explained.json", serde_json::to_string_pretty(&wire::explained(support::explained()).unwrap())),
        (
            "json-certificate.json",
            serde_json::to_string_pretty(&Proof { proved: true, report: &certificates().remove(0).1 }),
        ),
        ("json-failure.json", serde_json::to_string_pretty(&Failure::from(support::failure()))),
    ];
    for (name, text) in json {
        let text = text.unwrap();
        add(name.to_owned(), Box::new(move |_| format!("{text}\n")));
    }
    for (name, text) in help() {
        add(name, Box::new(move |_| text.clone()));
    }
    cases
}

/// A whole migration, as lines for people.
fn story(grain: Grain) -> String {
    let mut half = support::copying();
    support::step(&mut half, "copy").progress.as_mut().unwrap().completed = 22 << 30;
    let mut retried = support::failed();
    retried.state = v1::migration::State::Running.into();
    retried.waiting_for.clear();
    let subscribe = support::step(&mut retried, "subscribe");
    subscribe.state = v1::step::State::Running.into();
    subscribe.attempt_count = 4;
    let doubtful = support::doubtful();
    let looks = [
        support::pending(),
        support::copying(),
        half,
        support::failed(),
        retried,
        support::ready(),
        support::rehearsing(),
        support::rehearsed(300),
        support::drifted(),
        support::ready(),
        support::cutting_over(),
        doubtful,
        support::cut_over(),
        support::succeeded(),
    ];
    let mut seen: Option<Migration> = None;
    let mut out = String::new();
    for look in looks {
        let look = Migration::from(look);
        for line in news(seen.as_ref(), &look, grain) {
            out.push_str(&line);
            out.push('\n');
        }
        seen = Some(look);
    }
    out
}

/// The help of the program and of every verb.
fn help() -> Vec<(String, String)> {
    fn walk(command: &mut clap::Command, path: &str, out: &mut Vec<(String, String)>) {
        out.push((format!("help{path}.txt"), command.render_help().to_string()));
        for child in command.get_subcommands_mut() {
            let path = format!("{path}-{}", child.get_name());
            walk(child, &path, out);
        }
    }
    let mut command = Arguments::command();
    command.build();
    let mut out = Vec::new();
    walk(&mut command, "", &mut out);
    out
}

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

#[test]
fn what_is_shown_is_what_was_agreed_on() {
    let update = std::env::var_os("PGPORTAGE_UPDATE_GOLDEN").is_some();
    let mut wrong = Vec::new();
    for (name, render) in cases() {
        let path = directory().join(&name);
        let actual = render(Style::Plain);
        if update {
            fs::write(&path, &actual).unwrap();
        } else if fs::read_to_string(&path).ok().as_deref() != Some(actual.as_str()) {
            wrong.push(format!("==== {name} is now:\n{actual}"));
        }
    }
    assert!(wrong.is_empty(), "{}\nset PGPORTAGE_UPDATE_GOLDEN=1 to accept", wrong.join("\n"));
}

#[test]
fn every_golden_file_is_used() {
    let used: BTreeSet<String> = cases().into_iter().map(|(name, _)| name).collect();
    let stray: Vec<String> = fs::read_dir(directory())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !used.contains(name))
        .collect();
    assert!(stray.is_empty(), "no test reads {stray:?}");
}

/// Every field that programs may read is explained in the guide.
#[test]
fn every_field_is_documented() {
    fn fields(value: &serde_json::Value, out: &mut BTreeSet<String>) {
        match value {
            serde_json::Value::Object(map) => {
                for (key, value) in map {
                    out.insert(key.clone());
                    fields(value, out);
                }
            }
            serde_json::Value::Array(values) => values.iter().for_each(|value| fields(value, out)),
            _ => {}
        }
    }
    let mut found = BTreeSet::new();
    for (name, render) in cases().into_iter().filter(|(name, _)| name.starts_with("json-")) {
        fields(&serde_json::from_str(&render(Style::Plain)).expect(&name), &mut found);
    }
    let guide = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/operating.md");
    let guide = fs::read_to_string(guide).unwrap();
    let missing: Vec<_> = found.iter().filter(|field| !guide.contains(&format!("`{field}`"))).collect();
    assert!(found.len() > 60 && missing.is_empty(), "docs/operating.md does not explain {missing:?}");
}

#[test]
fn colour_never_carries_meaning_alone() {
    let mut coloured_cases = 0;
    for (name, render) in cases() {
        let coloured = render(Style::Coloured);
        coloured_cases += usize::from(coloured.contains('\u{1b}'));
        assert_eq!(without_colour(&coloured), render(Style::Plain), "{name}");
    }
    assert!(coloured_cases > 20);
}

#[test]
fn nothing_that_a_terminal_obeys_is_shown() {
    for (name, render) in cases() {
        let text = render(Style::Plain);
        assert!(!text.chars().any(|c| (c.is_control() && c != '\n') || c == '\u{202e}'), "{name}");
    }
}

/// `text` without colour sequences, and without the blanks that a colour
/// sequence kept from being trimmed at the end of a line.
fn without_colour(text: &str) -> String {
    let mut out = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character == '\u{1b}' {
            for character in characters.by_ref() {
                if character == 'm' {
                    break;
                }
            }
        } else {
            out.push(character);
        }
    }
    out.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}
