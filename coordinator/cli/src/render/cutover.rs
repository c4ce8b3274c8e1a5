//! What a cutover did and how long it took.

use super::{Style, Tone, clean, count, labelled, push_line, span};
use crate::view::{Cutover, CutoverPhase, SwitchComparison};

pub(crate) fn cutover(report: &Cutover, style: Style) -> String {
    let mut out = String::new();
    let (what, left, entered) =
        if report.rollback { ("rollback", "destination", "source") } else { ("cutover", "source", "destination") };
    let (tone, sentence) = match report.phase {
        CutoverPhase::Preparing => (Tone::Quiet, "preparing: nothing durable has happened".to_owned()),
        CutoverPhase::Fenced => {
            (Tone::Careful, format!("the {left} is closed to applications; the {entered} has not decided"))
        }
        CutoverPhase::InDoubt => (
            Tone::Bad,
            format!(
                "in doubt: the {entered} was asked to open and has not answered; the {left} stays closed until it does"
            ),
        ),
        CutoverPhase::Open => (Tone::Good, format!("the {entered} is open: applications belong there now")),
        CutoverPhase::TakenBack => (Tone::Careful, format!("taken back: the {left} takes writes as before")),
        CutoverPhase::Unrecognised => (Tone::Careful, "in a phase that this release does not know".to_owned()),
    };
    push_line(&mut out, &format!("{what} {}: {}", report.epoch, style.paint(tone, &sentence)));
    let sessions = match (report.cancelled_session_count, report.terminated_session_count) {
        (0, 0) => String::new(),
        (cancelled, terminated) => {
            format!("{} cancelled, {} ended", count(cancelled, "statement"), count(terminated, "session"))
        }
    };
    let compared = report.comparison.as_ref().map(compared).unwrap_or_default();
    out.push_str(&labelled(
        style,
        2,
        &[
            ("outage", report.outage.map(span).unwrap_or_default()),
            ("lock wait", report.lock_wait.map(span).unwrap_or_default()),
            ("drain", report.drain_time.map(span).unwrap_or_default()),
            ("compared", compared),
            ("sessions", sessions),
            ("marker", clean(&report.marker_id).into_owned()),
            ("fence at", clean(&report.fence_lsn).into_owned()),
            ("opened at", clean(&report.open_lsn).into_owned()),
        ],
    ));
    out
}

/// What was compared before the other side opened, and what was not.
fn compared(comparison: &SwitchComparison) -> String {
    let elapsed = comparison.elapsed.map(|elapsed| format!(", in {}", span(elapsed))).unwrap_or_default();
    let left_out = match comparison.left_out.as_slice() {
        [] => String::new(),
        tables => format!("; not {}", clean(&tables.join(", "))),
    };
    format!(
        "{} of {} written in the switchover{elapsed}{left_out}",
        count(comparison.row_count, "row"),
        count(comparison.table_count, "table")
    )
}

/// The statements that reopen the source, with what they are for.
pub(crate) fn unfence(statements: &[String], database: &str, source: &str, style: Style) -> String {
    let mut out = String::new();
    if statements.is_empty() {
        return out;
    }
    push_line(
        &mut out,
        &format!(
            "{} database {} on {} stays closed to applications. To reopen it one day, run there:",
            style.paint(Tone::Careful, "note:"),
            clean(database),
            clean(source)
        ),
    );
    for statement in statements {
        // To be copied as they are: with an end each.
        let end = if statement.trim_end().ends_with(';') { "" } else { ";" };
        for line in format!("{}{end}", statement.trim_end()).lines() {
            push_line(&mut out, &format!("  {}", clean(line)));
        }
    }
    out
}
