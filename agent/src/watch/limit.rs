//! Decides when the migration gives way. Pure, so that every edge can be tested.

use super::look::Seen;
use crate::policy::Limits;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    /// No limit is near.
    Well,
    /// A limit is near: the warning, for operators.
    Warn(String),
    /// The slot has to go, for this reason.
    GiveWay(String),
}

/// Compares a look with the policy. A figure that is not known exceeds no limit.
pub(super) fn judge(seen: &Seen, limits: &Limits) -> Judgement {
    let retained = seen.retained_wal_bytes.unwrap_or(0);
    let xmin_age = seen.xmin_age.unwrap_or(0);
    let free = seen.free_disk_bytes.unwrap_or(u64::MAX);
    if !seen.exist {
        return Judgement::Well;
    }
    if retained >= limits.retained_wal_abort_bytes {
        return Judgement::GiveWay(format!(
            "The source keeps {} of WAL for the migration's slot; the policy allows {}.",
            bytes(retained),
            bytes(limits.retained_wal_abort_bytes)
        ));
    }
    if free < limits.free_disk_abort_bytes {
        return Judgement::GiveWay(format!(
            "The server's disk has {} left; the policy gives up below {}.",
            bytes(free),
            bytes(limits.free_disk_abort_bytes)
        ));
    }
    if xmin_age >= limits.xmin_age_abort {
        return Judgement::GiveWay(format!(
            "The migration's slot holds back the cleaning of {xmin_age} transactions; the policy allows {}.",
            limits.xmin_age_abort
        ));
    }
    let mut warnings = Vec::new();
    if retained >= limits.retained_wal_warn_bytes {
        warnings.push(format!(
            "{} of WAL retained for the slot, at {} it is dropped",
            bytes(retained),
            bytes(limits.retained_wal_abort_bytes)
        ));
    }
    if free < limits.free_disk_warn_bytes {
        warnings.push(format!(
            "{} free on the server's disk, below {} the slot is dropped",
            bytes(free),
            bytes(limits.free_disk_abort_bytes)
        ));
    }
    if xmin_age >= limits.xmin_age_warn {
        warnings.push(format!("the slot holds back the cleaning of {xmin_age} transactions"));
    }
    if let Some(left) = seen.safe_wal_bytes
        && left < retained / 4
    {
        warnings.push(format!("the server gives the slot up after {} more of WAL", bytes(left)));
    }
    if warnings.is_empty() { Judgement::Well } else { Judgement::Warn(warnings.join("; ")) }
}

fn bytes(count: u64) -> String {
    const MIB: u64 = 1 << 20;
    let mib = count / MIB;
    if mib < 10 * 1024 { format!("{mib} MiB") } else { format!("{} GiB", mib / 1024) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen() -> Seen {
        Seen { exist: true, retained_wal_bytes: Some(0), xmin_age: Some(3), ..Seen::default() }
    }

    #[test]
    fn edges() {
        let limits = Limits {
            retained_wal_warn_bytes: 100 << 20,
            retained_wal_abort_bytes: 200 << 20,
            free_disk_warn_bytes: 50 << 20,
            free_disk_abort_bytes: 20 << 20,
            xmin_age_warn: 1_000,
            xmin_age_abort: 2_000,
            ..Limits::default()
        };
        let is_warning = |seen: &Seen| matches!(judge(seen, &limits), Judgement::Warn(_));
        let gives_way = |seen: &Seen| matches!(judge(seen, &limits), Judgement::GiveWay(_));
        assert_eq!(judge(&seen(), &limits), Judgement::Well);
        assert_eq!(judge(&Seen::default(), &limits), Judgement::Well);
        assert!(is_warning(&Seen { retained_wal_bytes: Some(100 << 20), ..seen() }));
        assert!(is_warning(&Seen { retained_wal_bytes: Some((200 << 20) - 1), ..seen() }));
        assert!(gives_way(&Seen { retained_wal_bytes: Some(200 << 20), ..seen() }));
        assert!(is_warning(&Seen { free_disk_bytes: Some((50 << 20) - 1), ..seen() }));
        assert!(gives_way(&Seen { free_disk_bytes: Some((20 << 20) - 1), ..seen() }));
        assert!(is_warning(&Seen { xmin_age: Some(1_000), ..seen() }));
        assert!(gives_way(&Seen { xmin_age: Some(2_000), ..seen() }));
        assert!(is_warning(&Seen { retained_wal_bytes: Some(80 << 20), safe_wal_bytes: Some(1 << 20), ..seen() }));
        // A slot that does not exist fills no disk, however full that is.
        assert_eq!(judge(&Seen { exist: false, free_disk_bytes: Some(0), ..seen() }, &limits), Judgement::Well);
    }
}
