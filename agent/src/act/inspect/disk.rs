//! Room on the disk, where the agent can know it.

use pgportage_link::Failure;
use pgportage_postgres::free_disk_bytes;
use pgportage_proto::Reason;
use pgportage_report::finding::Severity;

use super::Finding;
use super::examination::Examination;

const MIB: u64 = 1 << 20;

/// On the source WAL piles up while the migration runs.
pub(super) async fn of_wal(x: &Examination<'_>) -> Result<Vec<Finding>, Failure> {
    let Some(free) = free_disk_bytes(x.server).await else { return Ok(vec![]) };
    let limits = x.handles.policy.limits();
    let severity = match free {
        free if free < limits.free_disk_abort_bytes => Severity::Refuse,
        free if free < limits.free_disk_warn_bytes => Severity::Note,
        _ => return Ok(vec![]),
    };
    let finding = Finding::new(
        Reason::DiskSpaceLow,
        severity,
        "pg_wal",
        "the disk has little room for the WAL that piles up during the migration",
    )
    .evidence(format!(
        "{} MiB free; the policy warns below {} MiB and gives up below {} MiB",
        free / MIB,
        limits.free_disk_warn_bytes / MIB,
        limits.free_disk_abort_bytes / MIB
    ))
    .remedy("make room on the source's disk");
    Ok(vec![finding])
}

/// The whole database has to fit on the destination.
pub(super) async fn of_data(x: &Examination<'_>) -> Result<Vec<Finding>, Failure> {
    let Some(free) = free_disk_bytes(x.server).await else { return Ok(vec![]) };
    let size = x.source.map_or(0, |source| source.size_bytes.unsigned_abs());
    // WAL and the building of indexes take half as much again.
    let severity = match free {
        free if free < size => Severity::Refuse,
        free if free < size / 2 * 3 => Severity::Note,
        _ => return Ok(vec![]),
    };
    let finding =
        Finding::new(Reason::DiskSpaceLow, severity, "data_directory", "the disk has little room for the database")
            .evidence(format!("{} MiB free, {} MiB on the source", free / MIB, size / MIB))
            .remedy("make room on the destination's disk");
    Ok(vec![finding])
}
