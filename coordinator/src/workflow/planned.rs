//! The plan as people read it: what will run on which side, before it runs.
//!
//! A plan and its digest are functions of a migration's state. Before the start they
//! are written from what both agents have read when the plan was asked for
//! ([`Survey`](super::state::Survey)), from then on from what the inspection has read.
//! **The inspection counts**: where it differs from what an operator was shown, the
//! plan is another one, with another digest, which every later command carries; and
//! [`changes`] says which lines came and which went. It holds nothing up: up to there
//! nothing has been changed on either server, and sizes always differ.

use std::collections::BTreeSet;
use std::time::SystemTime;

use pgportage_report::inventory::PlannedTable;
use sha2::{Digest as _, Sha256};

use super::act::{Digest, Inventory};
use super::judge::counted;
use super::state::State;
use super::statement::{Basis, Line, size};
use super::{ActRow, Belongs, Order, Side, StepName, StepRow, TABLE, Undo};

/// One act as it will run, on one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Planned {
    pub step: StepName,
    /// The server that these lines are about.
    pub side: Side,
    pub agent: String,
    /// What will run there.
    pub lines: Vec<Line>,
    pub held: bool,
    /// Whether it can be taken back.
    pub undoable: bool,
}

struct Read<'a> {
    source: &'a Inventory,
    destination: &'a Inventory,
    time: Option<SystemTime>,
}

/// What the plan is written from, unless neither server was read yet.
fn read(state: &State) -> Option<Read<'_>> {
    inspected(state).or_else(|| surveyed(state))
}

fn inspected(state: &State) -> Option<Read<'_>> {
    let step = state.step(StepName::Inspect);
    let (source, destination) = (state.inventory(Side::Source)?, state.inventory(Side::Destination)?);
    step.succeeded.then_some(Read { source, destination, time: step.end_time })
}

fn surveyed(state: &State) -> Option<Read<'_>> {
    let survey = state.survey.as_ref()?;
    Some(Read { source: &survey.source, destination: &survey.destination, time: Some(survey.time) })
}

/// When the servers were read that the plan is about.
pub(crate) fn record_time(state: &State) -> Option<SystemTime> {
    read(state)?.time
}

/// Every act of a migration, in order.
pub(crate) fn render(state: &State) -> Vec<Planned> {
    render_from(state, read(state).as_ref())
}

fn render_from(state: &State, read: Option<&Read<'_>>) -> Vec<Planned> {
    let mut planned = Vec::new();
    // From the act that is the point of no return on, nothing goes back.
    let mut past_return = false;
    for row in TABLE {
        for (index, act) in acts(state.way_back, row).enumerate() {
            past_return |= act.undo == Undo::Never;
            let basis = Basis {
                id: &state.id,
                spec: &state.spec,
                reverse: state.way_back,
                source: read.map(|read| read.source),
                destination: read.map(|read| read.destination),
                rollback: row.name == StepName::Rollback,
                side: act.side,
            };
            let statements = (act.act.statements)(&basis);
            let on = |side: Side, lines: Vec<Line>, held: bool| Planned {
                step: row.name,
                side,
                agent: state.spec.agent(side).to_owned(),
                lines,
                held,
                undoable: !past_return,
            };
            let held = row.hold.is_some() && index == 0;
            if !statements.there.is_empty() {
                planned.push(on(act.side.other(), statements.there, false));
            }
            planned.push(on(act.side, statements.here, held));
        }
    }
    planned
}

/// The acts of a step that a migration does not leave out.
fn acts(reverse: bool, row: &'static StepRow) -> impl Iterator<Item = &'static ActRow> {
    row.acts.iter().filter(move |act| match act.belongs {
        // A rehearsal shows nothing that its switch does not, a verification behind it
        // nothing that the one before does not.
        Belongs::Always | Belongs::ToCounts | Belongs::ToRows => {
            !row.name.is_optional() && (row.name != StepName::Rollback || reverse)
        }
        Belongs::ToTheWayBack => reverse,
        Belongs::ToTheCertificate => row.name != StepName::Rollback || reverse,
    })
}

/// What comes of the plan on each side, the source first.
pub(crate) fn summary(state: &State) -> [String; 2] {
    let read = read(state);
    let read = read.as_ref();
    [Side::Source, Side::Destination].map(|side| {
        let inventory = read.map(|read| match side {
            Side::Source => read.source,
            Side::Destination => read.destination,
        });
        let source = read.and_then(|read| read.source.plan_material.as_deref());
        summed_up(state, side, inventory, source.map(|material| &material.tables))
    })
}

fn summed_up(state: &State, side: Side, inventory: Option<&Inventory>, tables: Option<&Vec<PlannedTable>>) -> String {
    let version = match inventory.map_or(0, |inventory| inventory.server_version_num) {
        0 => String::new(),
        number => format!(", PostgreSQL {}.{}", number / 10_000, number % 10_000),
    };
    let moved = match tables {
        None => "its tables".to_owned(),
        Some(tables) => {
            let bytes = tables.iter().map(|table| table.size_bytes).sum();
            format!("{} with {}", counted(tables.len(), "table"), size(bytes))
        }
    };
    let material = inventory.and_then(|inventory| inventory.plan_material.as_deref());
    let roles = match material {
        Some(material) => {
            [&material.replication_role, &material.canary_role].into_iter().filter(|role| !role.premade).count()
        }
        None => 2,
    };
    let roles = match roles {
        0 => "no role".to_owned(),
        count => counted(count, "role"),
    };
    let publishes = format!("a publication, a slot and {roles}");
    let (does, makes) = match (side, state.way_back) {
        (Side::Source, true) => ("publishes", format!("{publishes}, and a subscription for the reverse direction")),
        (Side::Source, false) => ("publishes", publishes),
        (Side::Destination, true) => {
            ("receives", format!("a subscription, and for the reverse direction two publications, a slot and {roles}"))
        }
        (Side::Destination, false) => ("receives", "a subscription".to_owned()),
    };
    let sessions =
        material.map_or(0, |material| material.sessions.iter().map(|group| group.session_count).sum::<i32>());
    let ended = match (material, side) {
        (None, _) => "every other session of the database is ended".to_owned(),
        (Some(_), Side::Source) => format!("every session of the database is ended at the cutover ({sessions} seen)"),
        (Some(_), Side::Destination) => {
            format!("every session of the database is ended when it is closed ({sessions} seen)")
        }
    };
    let left = match side {
        Side::Source => "after finish only the fence is left",
        Side::Destination => "after finish nothing of it is left but what was copied",
    };
    format!(
        "{side} {}{version}: {does} {moved}; gets schema pgportage, {makes}; {ended}; {left}",
        state.spec.agent(side)
    )
}

/// Lines by which the plan of the inspection differs from the one of before the start:
/// those that went begin with `- `, those that came with `+ `. Empty if the servers
/// were not read twice.
pub(crate) fn changes(state: &State) -> Vec<String> {
    let (Some(before), Some(now)) = (surveyed(state), inspected(state)) else { return Vec::new() };
    let lines = |read: &Read<'_>| -> BTreeSet<String> {
        let planned = render_from(state, Some(read));
        let statements = planned.iter().flat_map(|planned| {
            planned.lines.iter().filter_map(move |line| match line {
                // Sizes and counts always differ.
                Line::Runs(_) | Line::OnlyIf { .. } => {
                    Some(format!("on {}: {}", planned.agent, without_comments(&line.to_string())))
                }
                Line::Remark(_) => None,
            })
        });
        statements.collect()
    };
    let (before, now) = (lines(&before), lines(&now));
    let gone = before.difference(&now).map(|line| format!("- {line}"));
    gone.chain(now.difference(&before).map(|line| format!("+ {line}"))).collect()
}

fn without_comments(line: &str) -> String {
    let mut text = line.to_owned();
    while let (Some(begin), Some(end)) = (text.find("/*"), text.find("*/")) {
        if begin > end {
            break;
        }
        text.replace_range(begin..end + 2, "");
    }
    text.trim_end().to_owned()
}

/// SHA-256 over the plan as it is shown: commands and approvals carry it.
pub(crate) fn digest(state: &State) -> Digest {
    let mut hash = Sha256::new();
    let mut add = |text: &str| {
        // Length first: no two plans run together into the same bytes.
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text.as_bytes());
    };
    let spec = &state.spec;
    add("pgportage plan 3");
    add(state.id.as_str());
    add(&spec.source_agent);
    add(&spec.destination_agent);
    add(&spec.database);
    for consent in &spec.consents {
        add(&consent.code);
        add(&consent.object);
        add(&consent.evidence_digest.to_string());
    }
    for act in TABLE.iter().flat_map(|row| acts(state.way_back, row)) {
        add(act.act.kind.as_str());
        add(act.side.as_str());
        add(match act.order {
            Order::InTurn => "in turn",
            Order::WithPrevious => "with previous",
            Order::Detached => "detached",
        });
    }
    for planned in render(state) {
        add(planned.step.as_str());
        add(&planned.agent);
        for line in &planned.lines {
            add(&line.to_string());
        }
    }
    for line in summary(state) {
        add(&line);
    }
    Digest(hash.finalize().to_vec())
}

#[cfg(test)]
#[path = "planned_tests.rs"]
mod tests;
