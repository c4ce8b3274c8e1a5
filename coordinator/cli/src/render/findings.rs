//! Findings, as `preflight` and `status` show them.

use super::{Style, Tone, clean, count, labelled, push_line, table};
use crate::view::{Finding, Preflight, Severity};

/// What preflight found, both sides, with a verdict at the end.
pub fn preflight(preflight: &Preflight, source: &str, destination: &str, style: Style) -> String {
    let mut out = String::new();
    out.push_str(&side("source", source, &preflight.source_findings, style));
    out.push('\n');
    out.push_str(&side("destination", destination, &preflight.destination_findings, style));
    out.push('\n');
    let number = |severity| {
        let of = |findings: &[Finding]| findings.iter().filter(|finding| finding.severity == severity).count();
        of(&preflight.source_findings) + of(&preflight.destination_findings)
    };
    let (refusals, consents) = (number(Severity::Refuse), number(Severity::Consent));
    let verdict = match (refusals, consents) {
        (0, 0) => style.paint(Tone::Good, "a migration can start"),
        (0, consents) => style.paint(
            Tone::Careful,
            &format!("a migration can start once you have agreed to {}", count(consents as i64, "finding")),
        ),
        (refusals, _) => style.paint(
            Tone::Bad,
            &format!("a migration cannot start: {} to mend first", count(refusals as i64, "finding")),
        ),
    };
    push_line(&mut out, &verdict);
    out
}

fn side(word: &str, agent: &str, findings: &[Finding], style: Style) -> String {
    let mut out = String::new();
    push_line(&mut out, &format!("{} {}", style.paint(Tone::Strong, word), clean(agent)));
    if findings.is_empty() {
        push_line(&mut out, "  nothing found");
    } else {
        out.push_str(&self::findings(findings, style));
    }
    out
}

/// One block for each finding: a line of the table, and under it what was
/// read, what mends it and where to read on.
pub(crate) fn findings(findings: &[Finding], style: Style) -> String {
    let rows: Vec<Vec<String>> = findings
        .iter()
        .map(|finding| {
            vec![
                word(finding).to_owned(),
                clean(&finding.code).into_owned(),
                if finding.object.is_empty() { "-".to_owned() } else { clean(&finding.object).into_owned() },
                clean(&finding.message).into_owned(),
            ]
        })
        .collect();
    let head = table(style, 2, &["severity", "code", "object", "message"], &rows, |row, column| match column {
        0 => findings.get(row).map(tone),
        _ => None,
    });
    let mut out = String::new();
    for (number, line) in head.lines().enumerate() {
        push_line(&mut out, line);
        if let Some(finding) = number.checked_sub(1).and_then(|row| findings.get(row)) {
            out.push_str(&more(finding, style));
        }
    }
    out
}

fn more(finding: &Finding, style: Style) -> String {
    let mend = finding.remedy.lines().map(clean).collect::<Vec<_>>().join("\n");
    let restart = if finding.needs_restart { "needed on that server before the mend takes effect" } else { "" };
    labelled(
        style,
        12,
        &[
            ("evidence", clean(&finding.evidence).into_owned()),
            ("mend", mend),
            ("restart", restart.to_owned()),
            ("see", clean(&finding.page).into_owned()),
        ],
    )
}

fn word(finding: &Finding) -> &'static str {
    match (finding.severity, finding.agreed) {
        (Severity::Refuse, _) => "refuse",
        (Severity::Consent, false) => "consent",
        (Severity::Consent, true) => "agreed",
        (Severity::Note, _) => "note",
    }
}

fn tone(finding: &Finding) -> Tone {
    match (finding.severity, finding.agreed) {
        (Severity::Refuse, _) => Tone::Bad,
        (Severity::Consent, false) => Tone::Careful,
        (Severity::Consent, true) => Tone::Good,
        (Severity::Note, _) => Tone::Quiet,
    }
}
