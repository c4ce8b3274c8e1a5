//! Versions that take part in migrations, and defects of released servers.

use pgportage_link::Failure;
use pgportage_postgres::ServerVersion;
use pgportage_proto::{Reason, Side};
use pgportage_report::finding::Severity;

use super::Finding;
use super::examination::Examination;

/// The oldest and the newest branch that whole migrations are tested with.
const TESTED: std::ops::RangeInclusive<i32> = 14..=18;

/// Whether the server's version takes part at all.
#[expect(clippy::unused_async, reason = "every check has one form")]
pub(super) async fn version(x: &Examination<'_>) -> Result<Vec<Finding>, Failure> {
    let version = x.server.version;
    let major = version.major();
    let finding =
        |severity, message: &str| Finding::new(Reason::VersionUnsupported, severity, version.to_string(), message);
    if major < *TESTED.start() {
        return Ok(vec![finding(Severity::Refuse, "the server is older than PostgreSQL 14")]);
    }
    if let Some(source) = x.source
        && ServerVersion::from_num(source.server_version_num).major() > major
    {
        let source = ServerVersion::from_num(source.server_version_num);
        return Ok(vec![
            finding(Severity::Refuse, "the destination is of an older branch than the source")
                .evidence(format!("source {source}")),
        ]);
    }
    if major > *TESTED.end() {
        return Ok(vec![finding(Severity::Consent, "the server is newer than any this release was tested with")]);
    }
    Ok(vec![])
}

/// A defect of released servers.
struct Defect {
    /// Its commit or CVE.
    id: &'static str,
    /// Which side it hurts.
    side: Side,
    severity: Severity,
    /// The first release of each branch without it, as `server_version_num`. A
    /// branch that is not named was never affected.
    fixed: &'static [i32],
    message: &'static str,
}

/// Only defects that can still matter with this program, and those that it guards against in a way that an
/// operator should know.
const DEFECTS: &[Defect] = &[
    Defect {
        id: "bb19b70081",
        side: Side::Source,
        severity: Severity::Refuse,
        fixed: &[140_013, 150_008, 160_004],
        message: "a slot may start in the middle of a transaction and lose its first part",
    },
    Defect {
        id: "e5ed873b1b",
        side: Side::Source,
        severity: Severity::Refuse,
        fixed: &[140_015, 150_010, 160_006, 170_002],
        message: "the server may remove WAL that a slot still needs",
    },
    Defect {
        id: "5e01001ffb",
        side: Side::Source,
        severity: Severity::Refuse,
        fixed: &[140_003],
        message: "changes of rows with a long replica identity may be lost",
    },
    Defect {
        id: "confirmed_flush moves back",
        side: Side::Source,
        severity: Severity::Consent,
        fixed: &[140_019, 150_014, 160_010, 170_006],
        message: "after a crash of the server the slot may be unusable",
    },
    Defect {
        id: "360392fa2a",
        side: Side::Source,
        severity: Severity::Consent,
        fixed: &[150_006, 160_002],
        message: "the default of a column added later is replicated as NULL",
    },
    Defect {
        id: "7f13ac8123",
        side: Side::Source,
        severity: Severity::Consent,
        fixed: &[140_006, 150_006],
        message: "decoding may use an outdated catalog after a restart",
    },
    Defect {
        id: "4909b38af0",
        side: Side::Source,
        severity: Severity::Note,
        fixed: &[140_018, 150_013, 160_009, 170_005],
        message: "changes made while a publication is altered may be lost; ours is made before the slot and stays as it is",
    },
    Defect {
        id: "006dd4b2e5",
        side: Side::Source,
        severity: Severity::Note,
        fixed: &[140_021, 150_016, 160_012, 170_008, 180_002],
        message: "a checkpoint may invalidate a slot that has just been made; the watch would see it",
    },
    Defect {
        id: "releases before November 2026",
        side: Side::Source,
        severity: Severity::Note,
        fixed: &[140_024, 150_020, 160_015, 170_011, 180_007],
        message: "the initial copy may rarely include a transaction twice or not at all; verify compares the tables",
    },
    Defect {
        id: "aa79bde725",
        side: Side::Destination,
        severity: Severity::Consent,
        fixed: &[150_007, 160_003],
        message: "a table may be left out of the initial copy; the cutover refuses until every table is ready",
    },
    Defect {
        id: "1528b0d899",
        side: Side::Destination,
        severity: Severity::Note,
        fixed: &[160_012, 170_008, 180_002],
        message: "parallel apply may lose a transaction; our subscription does not use it",
    },
    Defect {
        id: "CVE-2026-6638",
        side: Side::Destination,
        severity: Severity::Note,
        fixed: &[160_014, 170_010, 180_004],
        message: "names of relations on the destination may run as SQL on the source when a publication is refreshed",
    },
];

fn affects(defect: &Defect, version: ServerVersion) -> bool {
    defect.fixed.iter().any(|fixed| fixed / 10_000 == version.major() && version.num() < *fixed)
}

/// The known defects of the server's release.
#[expect(clippy::unused_async, reason = "every check has one form")]
pub(super) async fn known(x: &Examination<'_>) -> Result<Vec<Finding>, Failure> {
    let version = x.server.version;
    let mut findings = Vec::new();
    for defect in DEFECTS.iter().filter(|defect| defect.side == x.side && affects(defect, version)) {
        let fixed = defect.fixed.iter().find(|fixed| **fixed / 10_000 == version.major());
        let fixed = fixed.map(|fixed| ServerVersion::from_num(*fixed).to_string()).unwrap_or_default();
        findings.push(
            Finding::new(Reason::ServerDefect, defect.severity, defect.id, defect.message)
                .evidence(format!("server {version}"))
                .remedy(format!("update the server to {fixed} or later"))
                .restart(),
        );
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_branch_without_an_entry_was_never_affected() {
        let defect = &DEFECTS[0];
        for (num, affected) in [(140_012, true), (140_013, false), (160_003, true), (170_000, false), (180_000, false)]
        {
            assert_eq!(affects(defect, ServerVersion::from_num(num)), affected, "{num}");
        }
    }
}
