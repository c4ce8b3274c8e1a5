//! What both agents have signed about a cutover or rollback, and what of it is proved.

use std::time::Duration;

use pgportage_certificate::{Account, Direction, Report, Statement, TableSet, Verification};

use super::{Style, Tone, clean, count, labelled, push_line, span, table};

/// A certificate, checked.
pub fn certificate(report: &Report, style: Style) -> String {
    let mut out = String::new();
    let what = report.direction.map_or("switchover", Direction::as_str);
    let verdict = if report.proved() {
        style.paint(Tone::Good, "proved")
    } else {
        style.paint(Tone::Bad, "not proved: nothing below is to be relied on")
    };
    let (epoch, migration) = (report.cutover_epoch, clean(&report.migration));
    push_line(
        &mut out,
        &format!("{what} {epoch} of migration {migration}, database {}: {verdict}", clean(&report.database)),
    );
    for statement in &report.statements {
        out.push_str(&stated(statement, style));
    }
    let rows: Vec<Vec<String>> = report
        .checks
        .iter()
        .map(|check| {
            let proved = if check.proved { "proved" } else { "not proved" };
            vec![proved.to_owned(), clean(&check.subject).into_owned(), clean(&check.text).into_owned()]
        })
        .collect();
    let tone = |row: usize, column: usize| match (column, report.checks[row].proved) {
        (0, true) => Some(Tone::Good),
        (0, false) => Some(Tone::Bad),
        (_, true | false) => None,
    };
    push_line(&mut out, "");
    out.push_str(&table(style, 2, &[], &rows, tone));
    out
}

fn stated(statement: &Statement, style: Style) -> String {
    let mut out = String::new();
    let (side, pairs) = match &statement.account {
        Account::Left(left) => (
            "left",
            vec![
                ("marker", format!("{} at {}", clean(&statement.marker_id), clean(&left.marker_lsn))),
                ("fence", format!("at {}, no session left at {}", clean(&left.fence_lsn), left.fence_time)),
                (
                    "sessions",
                    format!(
                        "{} cancelled, {} ended",
                        count(left.cancelled_session_count, "statement"),
                        count(left.terminated_session_count, "session")
                    ),
                ),
                ("lock wait", micros(left.lock_wait_microseconds)),
                ("barrier", micros(left.barrier_microseconds)),
            ],
        ),
        Account::Entered(entered) => (
            "entered",
            vec![
                ("marker", format!("{} seen, flushed at {}", clean(&statement.marker_id), clean(&entered.flush_lsn))),
                ("decision", format!("at {}, {}", clean(&entered.decision_lsn), entered.decision_time)),
                ("drain", micros(entered.drain_microseconds)),
            ],
        ),
    };
    push_line(&mut out, "");
    push_line(&mut out, &format!("  {} {}", style.paint(Tone::Strong, side), clean(&statement.agent)));
    let mut all = vec![("server", server(statement))];
    all.extend(pairs);
    all.extend([
        ("tables", tables(&statement.tables)),
        ("catalog", clean(&statement.catalog_sha256).into_owned()),
        ("sequences", format!("{}, {}", statement.sequences.count, clean(&statement.sequences.sha256))),
        ("rows", statement.verification.as_ref().map(looked_at).unwrap_or_default()),
        ("phases", phases(statement)),
        ("stated", statement.statement_time.to_string()),
    ]);
    out.push_str(&labelled(style, 4, &all));
    out
}

fn server(statement: &Statement) -> String {
    let version = statement.server.version_num;
    let system = clean(&statement.server.system_identifier);
    format!("PostgreSQL {}.{}, system {system}", version / 10_000, version % 10_000)
}

fn tables(tables: &TableSet) -> String {
    format!("{}, {}", tables.count, clean(&tables.sha256))
}

fn looked_at(found: &Verification) -> String {
    let how = if found.comparison.is_some() { "compared" } else { "counted" };
    format!(
        "{} in {} {how} at {}",
        count(found.row_count, "row"),
        count(counted(found.tables.count), "table"),
        found.time
    )
}

fn phases(statement: &Statement) -> String {
    let told = statement.phases.iter().map(|phase| format!("{} {}", clean(&phase.name), span(phase.length())));
    told.collect::<Vec<_>>().join(", ")
}

fn micros(microseconds: u64) -> String {
    span(Duration::from_micros(microseconds))
}

fn counted(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
