//! What a rehearsal showed, and what it says about the cutover.

use std::time::Duration;

use super::{Style, Tone, count, push_line, span, table};
use crate::view::{Rehearsal, RehearsalPhase, RestSource, Spread};

/// The report of a rehearsal.
pub fn rehearsal(report: &Rehearsal, style: Style) -> String {
    let mut out = String::new();
    let what = name(report);
    let budget = report.max_outage.map(span).unwrap_or_default();
    let (tone, sentence) = match report.phase {
        RehearsalPhase::Running => (Tone::Quiet, "it goes on".to_owned()),
        RehearsalPhase::Done if report.fits => {
            (Tone::Good, format!("a {what} is expected within the budget of {budget}"))
        }
        RehearsalPhase::Done => (Tone::Bad, format!("a {what} is not expected within the budget of {budget}")),
        RehearsalPhase::GivenUp => {
            (Tone::Careful, "a round was given up and taken back: applications write as before".to_owned())
        }
        RehearsalPhase::Unrecognised => (Tone::Careful, "in a phase that this release does not know".to_owned()),
    };
    let rounds = format!("{} of {}", report.completed_count, count(report.round_count, "round"));
    push_line(&mut out, &format!("rehearsal of the {what}, {rounds}: {}", style.paint(tone, &sentence)));
    let rows: Vec<Vec<String>> = [
        row("preparing", report.prepare, "no application waits for it"),
        row("barrier and marker", report.barrier, ""),
        row("  of that the locks", report.lock_wait, ""),
        row("drain", report.drain, ""),
        row("  of that comparing", report.compare, ""),
        row("release", report.release, ""),
        row("writers waited", report.pause, &cancelled(report)),
        rest(report),
        row("predicted outage", report.prediction, "barrier, drain, fence and opening"),
    ]
    .into_iter()
    .flatten()
    .collect();
    if !rows.is_empty() {
        let last = rows.len() - 1;
        let head = ["", "p50", "p95", "worst", ""];
        out.push_str(&table(style, 2, &head, &rows, |row, _| (row == last).then_some(Tone::Strong)));
    }
    out
}

/// `cutover` or `rollback`.
pub(super) fn name(report: &Rehearsal) -> &'static str {
    if report.rollback { "rollback" } else { "cutover" }
}

fn row(phase: &str, spread: Option<Spread>, remark: &str) -> Option<Vec<String>> {
    let Spread { p50, p95, worst } = spread?;
    let cell = |spent: Option<Duration>| spent.map(span).unwrap_or_default();
    Some(vec![phase.to_owned(), cell(p50), cell(p95), cell(worst), remark.to_owned()])
}

fn rest(report: &Rehearsal) -> Option<Vec<String>> {
    let remark = match report.rest_source {
        RestSource::Switch => "as long as in the latest cutover or rollback",
        RestSource::Estimate => "an estimate, from round trips and commits; the ending of sessions is not in it",
        RestSource::None | RestSource::Unrecognised => "",
    };
    let row = vec!["fence and opening".to_owned(), span(report.rest?), String::new(), String::new(), remark.to_owned()];
    Some(row)
}

fn cancelled(report: &Rehearsal) -> String {
    match report.cancelled_session_count {
        0 => String::new(),
        number => format!("{} cancelled: they stood in a lock cycle with the barrier", count(number, "statement")),
    }
}
