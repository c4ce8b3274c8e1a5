//! Sessions of ours that wait for somebody else.

use std::collections::{BTreeMap, BTreeSet};

use pgportage_proto::Reason;
use pgportage_report::situation::{PreparedTransaction, ServerSession, Situation};

use super::Explanation;
use super::phrase::{literal, session, span};
use crate::workflow::Side;

/// Most sessions in the way that are named.
const MOST: usize = 5;

/// A prepared transaction among processes.
const PREPARED: i32 = 0;

/// Who is in the way of our sessions on one server, whoever is in the way of the
/// most first.
pub(super) fn explain(side: Side, situation: &Situation) -> Vec<Explanation> {
    let mut victims: BTreeMap<i32, Vec<&ServerSession>> = BTreeMap::new();
    for own in situation.own_sessions.iter().filter(|own| !own.blocked_by.is_empty()) {
        for root in roots(own, situation) {
            victims.entry(root).or_default().push(own);
        }
    }
    let mut found: Vec<_> = victims.into_iter().collect();
    found.sort_by_key(|(_, victims)| std::cmp::Reverse(victims.len()));
    let mut explanations: Vec<Explanation> = found
        .into_iter()
        .take(MOST)
        .flat_map(|(root, victims)| match root {
            PREPARED => prepared(side, situation, &victims),
            pid => vec![blocker(side, situation, pid, &victims)],
        })
        .collect();
    let standby = |own: &&ServerSession| own.wait_event == "SyncRep";
    explanations.extend(situation.own_sessions.iter().find(standby).map(|own| {
        let message = format!("the commit of {} waits for a synchronous standby", session(own));
        Explanation::cause(Some(Reason::Stalled), Some(side), message)
            .hint("Bring the standby that synchronous_standby_names asks for back, or change that setting.")
    }));
    explanations
}

/// Those at the end of the chains: nobody of ours, and not waiting themselves.
/// When all of them wait for each other, whom the session waits for directly.
fn roots(own: &ServerSession, situation: &Situation) -> BTreeSet<i32> {
    let mut roots = BTreeSet::new();
    let mut seen = BTreeSet::from([own.pid]);
    let mut open: Vec<i32> = own.blocked_by.clone();
    while let Some(pid) = open.pop() {
        if !seen.insert(pid) {
            continue;
        }
        let known = situation.blockers.iter().chain(&situation.own_sessions).find(|session| session.pid == pid);
        match known {
            Some(waiting) if !waiting.blocked_by.is_empty() => open.extend(&waiting.blocked_by),
            Some(_) | None => {
                roots.insert(pid);
            }
        }
    }
    if roots.is_empty() { own.blocked_by.iter().copied().collect() } else { roots }
}

/// What our sessions cannot do meanwhile.
fn held_up(side: Side, situation: &Situation, victims: &[&ServerSession]) -> String {
    let makes_slot = |victim: &&&ServerSession| {
        situation.slot.as_ref().is_some_and(|slot| !slot.complete && slot.active_pid == Some(victim.pid))
    };
    if victims.iter().any(|victim| makes_slot(&victim)) {
        return "the creation of the replication slot waits for".to_owned();
    }
    match victims {
        [one] => format!("{} waits for a lock ({}) of", session(one), one.wait_event),
        several => format!("{} sessions of the migration on the {} wait for", several.len(), side.as_str()),
    }
}

fn blocker(side: Side, situation: &Situation, pid: i32, victims: &[&ServerSession]) -> Explanation {
    let known = situation.blockers.iter().chain(&situation.own_sessions).find(|session| session.pid == pid);
    let who = known.map_or_else(|| format!("process {pid}"), session);
    let message = format!("{} {who}", held_up(side, situation, victims));
    let explanation = Explanation::cause(Some(Reason::SessionBlocked), Some(side), message);
    if situation.own_sessions.iter().any(|own| own.pid == pid) {
        return explanation.hint("Both sessions are the migration's own: wait for it.");
    }
    match known.map(|session| (session.backend_type.as_str(), session.state.as_str())) {
        Some(("autovacuum worker", _)) => explanation
            .hint("It gives way by itself unless it works against wraparound; then wait for it, or cancel it.")
            .statement(format!("SELECT pg_cancel_backend({pid});")),
        Some((_, "active")) => explanation
            .hint("Wait until it is done, or cancel what it runs; what it had not committed is then lost.")
            .statement(format!("SELECT pg_cancel_backend({pid});")),
        Some(_) | None => explanation
            .hint("Wait until it commits, or end it; what it had not committed is then lost.")
            .statement(format!("SELECT pg_terminate_backend({pid});")),
    }
}

fn prepared(side: Side, situation: &Situation, victims: &[&ServerSession]) -> Vec<Explanation> {
    let awaited: Vec<&PreparedTransaction> =
        situation.prepared_transactions.iter().filter(|prepared| prepared.awaited).take(MOST).collect();
    let held_up = held_up(side, situation, victims);
    let cause = |message| Explanation::cause(Some(Reason::PreparedTransactions), Some(side), message);
    if awaited.is_empty() {
        return vec![
            cause(format!("{held_up} a prepared transaction"))
                .hint("Find it in pg_prepared_xacts, then commit it or roll it back in its database."),
        ];
    }
    awaited
        .into_iter()
        .map(|PreparedTransaction { gid, role, database, age, .. }| {
            let gid = literal(gid);
            let age = span(*age);
            cause(format!("{held_up} prepared transaction {gid} of role {role} in database {database}, {age} old"))
                .hint(&format!("In database {database}, commit it or roll it back: whoever prepared it knows which."))
                .statement(format!("COMMIT PREPARED {gid};"))
                .statement(format!("ROLLBACK PREPARED {gid};"))
        })
        .collect()
}
