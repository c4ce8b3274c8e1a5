//! Slots, workers, the subscription, the disk: what the stream needs.

use std::time::Duration;

use pgportage_proto::Reason;
use pgportage_report::situation::{Situation, Subscription};

use super::phrase::{count, session};
use super::{Explanation, Facts, Report};
use crate::workflow::{Side, StepName};

/// A worker that failed starts anew every five seconds; one that is older than
/// twice that has outlived its errors.
const SETTLED: Duration = Duration::from_secs(10);

/// A transaction that is older than this when the cutover's locks are near.
const LONG: Duration = Duration::from_secs(60);

/// What one side lacks.
pub(super) fn explain(facts: &Facts, side: Side, situation: &Situation) -> Vec<Explanation> {
    let mut found = Vec::new();
    if side == facts.standing.publisher {
        publisher(facts, side, situation, &mut found);
    } else {
        follower(facts, side, situation, &mut found);
    }
    if let Some(disk) = situation.disk
        && disk.free_bytes < disk.warn_bytes
    {
        let message = format!("{} MiB are free on the {}'s disk", disk.free_bytes >> 20, side.as_str());
        found.push(
            Explanation::suspicion(Reason::DiskSpaceLow, side, message)
                .detail(&format!("The agent's policy warns below {} MiB.", disk.warn_bytes >> 20))
                .hint("Make room on that disk."),
        );
    }
    found
}

fn publisher(facts: &Facts, side: Side, situation: &Situation, found: &mut Vec<Explanation>) {
    let place = side.as_str();
    if let Some(slot) = situation.slot.as_ref().filter(|slot| !slot.invalidation.is_empty()) {
        let message = format!("the {place} gave the replication slot up: {}", slot.invalidation);
        let hint = match side {
            Side::Source => "Abort the migration and begin again: without the slot changes are missing.",
            Side::Destination => "The way back is lost. Finish the migration: what is written now stays here alone.",
        };
        found.push(Explanation::cause(Some(Reason::SlotLost), Some(side), message).hint(hint));
    }
    if situation.full("max_replication_slots") {
        let message = used_up(situation, "max_replication_slots", "replication slots");
        let needed = situation.slot.is_none() && facts.standing.step == Some(StepName::Copy);
        let hint = format!(
            "Drop replication slots that nobody needs, or raise max_replication_slots and restart the {place}."
        );
        found.push(exhausted(needed, Reason::SlotsExhausted, side, message).hint(&hint));
    }
    if situation.full("max_wal_senders") {
        let message = used_up(situation, "max_wal_senders", "WAL senders");
        let streams = situation.slot.as_ref().is_some_and(|slot| slot.active_pid.is_some());
        let needed = facts.standing.applies() && !streams;
        let hint = format!("End WAL senders that nobody needs, or raise max_wal_senders and restart the {place}.");
        found.push(exhausted(needed, Reason::SendersExhausted, side, message).hint(&hint));
    }
    if let Some(switch) = facts.standing.next_switch() {
        let writers = situation.oldest_transactions.iter().filter(|transaction| transaction.writes);
        for writer in writers.filter(|writer| writer.transaction_age.is_some_and(|age| age >= LONG)).take(3) {
            found.push(
                Explanation::suspicion(
                    Reason::LongTransaction,
                    side,
                    format!("the {switch}'s locks would wait for {}", session(writer)),
                )
                .hint("Wait until it commits, or end it; what it had not committed is then lost.")
                .statement(format!("SELECT pg_terminate_backend({});", writer.pid)),
            );
        }
        let prepared = situation.prepared_transactions.len();
        if prepared > 0 {
            let number = count(i64::try_from(prepared).unwrap_or(i64::MAX), "prepared transaction");
            let message = format!("the {switch} is refused while there are prepared transactions: {number}");
            found.push(
                Explanation::suspicion(Reason::PreparedTransactions, side, message)
                    .hint("Find them in pg_prepared_xacts, then commit them or roll them back."),
            );
        }
    }
}

fn follower(facts: &Facts, side: Side, situation: &Situation, found: &mut Vec<Explanation>) {
    let place = side.as_str();
    let full =
        ["max_logical_replication_workers", "max_worker_processes"].into_iter().find(|setting| situation.full(setting));
    let mut needed = false;
    if let Some(subscription) = situation.subscription.as_ref().filter(|_| facts.standing.applies()) {
        needed = subscription.enabled && needs_worker(subscription);
        found.extend(failing(facts, side, subscription, full.is_some()));
    }
    if let Some(setting) = full {
        let hint = format!("Raise {setting} (max_worker_processes stays above it), and restart the {place}.");
        let message = used_up(situation, setting, "workers");
        found.push(exhausted(needed, Reason::WorkersExhausted, side, message).hint(&hint));
    }
    for setting in ["max_active_replication_origins", "max_replication_slots"] {
        if situation.full(setting) {
            let hint = format!("Drop subscriptions that nobody needs, or raise {setting} and restart the {place}.");
            let message = used_up(situation, setting, "replication origins");
            let needed = situation.subscription.is_none() && facts.standing.step == Some(StepName::Subscribe);
            found.push(exhausted(needed, Reason::OriginsExhausted, side, message).hint(&hint));
        }
    }
}

fn needs_worker(subscription: &Subscription) -> bool {
    subscription.apply_workers == 0 || (subscription.waiting_tables > 0 && subscription.sync_workers == 0)
}

/// What is wrong with the subscription itself.
fn failing(facts: &Facts, side: Side, subscription: &Subscription, no_worker_free: bool) -> Option<Explanation> {
    let (place, other) = (side.as_str(), side.other().as_str());
    let cause = |message| Explanation::cause(Some(Reason::ApplyFailed), Some(side), message);
    if !subscription.enabled {
        let name = facts.migration.stream_name(side.other());
        return Some(
            cause("the subscription is disabled".to_owned())
                .hint("Find out who disabled it and why; then enable it.")
                .statement(format!("ALTER SUBSCRIPTION {name} ENABLE;")),
        );
    }
    let restarting = subscription.apply_workers == 0 || subscription.apply_worker_age.is_some_and(|age| age < SETTLED);
    let log = &format!(
        "The log of the {place} server says why. Remove the cause; nothing is lost while the {other} keeps its WAL."
    );
    let apply_errors = subscription.apply_errors.unwrap_or(0);
    if restarting && apply_errors > 0 {
        return Some(
            cause(format!("the subscription fails and starts again: {} so far", count(apply_errors, "error")))
                .hint(log),
        );
    }
    let sync_errors = subscription.sync_errors.unwrap_or(0);
    let unfinished = subscription.waiting_tables + subscription.copying_tables;
    if unfinished > 0 && subscription.sync_workers == 0 && sync_errors > 0 {
        let tables = count(unfinished, "table");
        let message = format!("the copy of {tables} fails and starts again: {} so far", count(sync_errors, "error"));
        return Some(cause(message).hint(log));
    }
    (subscription.apply_workers == 0 && !no_worker_free).then(|| {
        Explanation::suspicion(Reason::ApplyFailed, side, "no worker applies the stream at this moment".to_owned())
            .detail("One that ended is started again after five seconds.")
            .hint(&format!("Ask again; if none comes, the log of the {place} server says why."))
    })
}

fn used_up(situation: &Situation, setting: &str, what: &str) -> String {
    let figures = situation
        .capacity(setting)
        .map(|capacity| format!(" ({} of {})", capacity.used, capacity.limit))
        .unwrap_or_default();
    format!("all {what} that {setting} allows are in use{figures}")
}

/// Scarcity is a cause only where one more is needed now.
fn exhausted(needed: bool, code: Reason, side: Side, message: String) -> Explanation {
    if needed {
        Explanation::cause(Some(code), Some(side), message)
    } else {
        Explanation::suspicion(code, side, message)
    }
}

/// What shows only when both sides are seen together.
pub(super) fn between(facts: &Facts) -> Option<Explanation> {
    let (Report::Answered(source), Report::Answered(destination)) = (&facts.source, &facts.destination) else {
        return None;
    };
    let side = facts.standing.publisher;
    let (publisher, follower) = match side {
        Side::Source => (source, destination),
        Side::Destination => (destination, source),
    };
    let slot = publisher.slot.as_ref().filter(|slot| slot.complete && slot.invalidation.is_empty())?;
    let subscription = follower.subscription.as_ref().filter(|subscription| subscription.enabled)?;
    let idle = facts.standing.applies() && slot.active_pid.is_none() && subscription.apply_workers > 0;
    idle.then(|| {
        let (place, other) = (side.other().as_str(), side.as_str());
        let message = format!("a worker applies on the {place}, and nobody streams from the slot on the {other}");
        Explanation::suspicion(Reason::PeerUnreachable, side, message)
            .detail("The connection between them broke and one end has not noticed yet, or is being made.")
            .hint("Ask again in a minute; if it stays so, look at the logs of both agents.")
    })
}
