//! What a verification found.

use super::{Style, Tone, clean, count, findings, push_line};
use crate::view::Verification;

/// Counts, every difference, and what replication leaves behind.
#[must_use]
pub fn verification(report: &Verification, style: Style) -> String {
    let mut out = String::new();
    let verdict = if report.differences.is_empty() {
        style.paint(Tone::Good, "both sides agree")
    } else {
        style.paint(Tone::Bad, &format!("{} between the sides", count(report.differences.len() as i64, "difference")))
    };
    push_line(&mut out, &verdict);
    push_line(
        &mut out,
        &format!(
            "  {} compared, {} on the destination: {} equal, {} changing while counted and within what changed",
            count(report.table_count, "table"),
            count(report.row_count, "row"),
            report.equal_count,
            report.moving_count
        ),
    );
    for difference in &report.differences {
        push_line(&mut out, &format!("  {} {}", style.paint(Tone::Bad, "differs:"), clean(difference)));
    }
    if !report.not_replicated.is_empty() {
        push_line(&mut out, "  not carried by replication:");
        out.push_str(&findings(&report.not_replicated, style));
    }
    out
}
