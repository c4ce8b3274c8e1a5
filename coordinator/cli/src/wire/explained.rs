//! Explanations, as the contract has them.

use pgportage_proto::v1;
use pgportage_report::situation::{self, Link};

use super::migration;
use crate::view::{Explained, Explanation, Failure, Report, Side, Situation, Weight, page};

/// What the coordinator explains.
pub fn explained(message: v1::ExplainMigrationResponse) -> Result<Explained, pgportage_link::Failure> {
    let explanations: Vec<_> = message.explanations.into_iter().map(Explanation::from).collect();
    Ok(Explained {
        migration: migration(message.migration)?,
        cause_found: explanations.iter().any(|found| found.weight == Weight::Cause),
        all_checked: explanations.iter().all(|found| match found.weight {
            Weight::Cause | Weight::Suspicion => true,
            Weight::Unchecked | Weight::Unrecognised => false,
        }),
        explanations,
        reports: message.reports.into_iter().map(Report::from).collect(),
    })
}

pub(super) fn side(side: v1::Side) -> Side {
    match side {
        v1::Side::Source => Side::Source,
        v1::Side::Destination => Side::Destination,
        v1::Side::Unspecified => Side::Neither,
    }
}

impl From<v1::Explanation> for Explanation {
    fn from(message: v1::Explanation) -> Self {
        Self {
            weight: match message.weight() {
                v1::explanation::Weight::Cause => Weight::Cause,
                v1::explanation::Weight::Suspicion => Weight::Suspicion,
                v1::explanation::Weight::Unchecked => Weight::Unchecked,
                v1::explanation::Weight::Unspecified => Weight::Unrecognised,
            },
            side: side(message.side()),
            page: if message.code.is_empty() { String::new() } else { page(&message.code) },
            code: message.code,
            message: message.message,
            detail: message.detail,
            hint: message.hint,
            statements: message.statements,
        }
    }
}

impl From<v1::SideReport> for Report {
    fn from(message: v1::SideReport) -> Self {
        Self {
            side: side(message.side()),
            agent: message.agent_id,
            situation: message.situation.map(Situation::from),
            failure: message.failure.map(Failure::from),
        }
    }
}

impl From<v1::Situation> for Situation {
    fn from(message: v1::Situation) -> Self {
        let said = situation::Situation::from(message);
        Self {
            own_sessions: said.own_sessions,
            blockers: said.blockers,
            oldest_transactions: said.oldest_transactions,
            prepared_transactions: said.prepared_transactions,
            capacities: said.capacities,
            slot: said.slot,
            subscription: said.subscription,
            free_disk_bytes: said.disk.map(|disk| disk.free_bytes),
            round_trip: match said.link {
                Some(Link::Answers(round_trip)) => Some(round_trip),
                Some(Link::Broken(_)) | None => None,
            },
        }
    }
}
