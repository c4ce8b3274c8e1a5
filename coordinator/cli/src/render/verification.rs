//! What a verification found.

use super::{Style, Tone, clean, count, findings, push_line, span};
use crate::view::{RowComparison, Side, Verification};

/// How rows were compared, and where it says which of them differ.
fn compared(rows: &RowComparison, follower: &str) -> String {
    let mut out = String::new();
    let elapsed = rows.elapsed.map(|elapsed| format!(" in {}", span(elapsed))).unwrap_or_default();
    push_line(
        &mut out,
        &format!(
            "  {}{elapsed}, {} looked at again",
            count(rows.range_count, "part"),
            count(rows.recheck_count, "row")
        ),
    );
    for (path, what) in [(&rows.report_path, "their keys"), (&rows.repair_path, "statements that mend them")] {
        if !path.is_empty() {
            push_line(&mut out, &format!("  {what}, on the {follower} agent's machine: {}", clean(path)));
        }
    }
    out
}

/// Counts, every difference, and what replication leaves behind.
pub(crate) fn verification(report: &Verification, style: Style) -> String {
    let mut out = String::new();
    let verdict = if report.differences.is_empty() {
        style.paint(Tone::Good, "both sides agree")
    } else {
        style.paint(Tone::Bad, &format!("{} between the sides", count(report.differences.len() as i64, "difference")))
    };
    push_line(&mut out, &verdict);
    let follower = match report.follower {
        Side::Source => "source",
        Side::Destination | Side::Neither => "destination",
    };
    let tables = count(report.table_count, "table");
    let rows = count(report.row_count, "row");
    push_line(
        &mut out,
        &match &report.rows {
            Some(_) => format!("  {tables}, {rows} compared by their hashes: {} equal", report.equal_count),
            None => format!(
                "  {tables} compared, {rows} on the {follower}: {} equal, {} changing while counted and within what changed",
                report.equal_count, report.moving_count
            ),
        },
    );
    if let Some(rows) = &report.rows {
        out.push_str(&compared(rows, follower));
    }
    for difference in &report.differences {
        push_line(&mut out, &format!("  {} {}", style.paint(Tone::Bad, "differs:"), clean(difference)));
    }
    if !report.not_replicated.is_empty() {
        push_line(&mut out, "  not carried by replication:");
        out.push_str(&findings(&report.not_replicated, style));
    }
    out
}
