//! Why a migration does not move: what was found, then what it was found in.

use pgportage_report::situation::{PreparedTransaction, ServerSession, Slot, Subscription};

use super::status::{answers, over};
use super::{Style, Tone, clean, count, elapsed, labelled, push_line, size, span};
use crate::view::{Explained, Explanation, Report, Side, Situation, Weight};

/// Most sessions of the migration that are shown; the rest is a number.
const SHOWN_SESSIONS: usize = 8;

/// Everything that was found, and the facts of both sides.
pub fn explained(explained: &Explained, style: Style) -> String {
    let mut out = String::new();
    let name = style.paint(Tone::Strong, &clean(&explained.migration.name));
    push_line(&mut out, &format!("migration {name}: {}", verdict(explained, style)));
    for (weight, heading, tone) in [
        (Weight::Cause, "in the way", Tone::Bad),
        (Weight::Suspicion, "may have to do with it", Tone::Careful),
        (Weight::Unchecked, "could not be checked", Tone::Careful),
        (Weight::Unrecognised, "said by a newer coordinator", Tone::Careful),
    ] {
        let found: Vec<_> = explained.explanations.iter().filter(|found| found.weight == weight).collect();
        if !found.is_empty() {
            out.push('\n');
            push_line(&mut out, &style.paint(tone, heading));
            for found in found {
                out.push_str(&explanation(found, style));
            }
        }
    }
    for report in &explained.reports {
        out.push('\n');
        out.push_str(&self::report(report, style));
    }
    out.push('\n');
    out.push_str(&answers(&explained.migration, style));
    out
}

fn verdict(explained: &Explained, style: Style) -> String {
    let causes = explained.explanations.iter().filter(|found| found.weight == Weight::Cause).count();
    match (causes, explained.all_checked) {
        _ if over(&explained.migration) => style.paint(Tone::Quiet, "it is over, nothing is to be explained"),
        (0, true) => style.paint(Tone::Good, "nothing found that keeps it from moving"),
        (0, false) => {
            style.paint(Tone::Careful, "nothing found that keeps it from moving, but not everything could be checked")
        }
        (1, _) => style.paint(Tone::Careful, "one thing keeps it from moving"),
        (causes, _) => style.paint(Tone::Careful, &format!("{causes} things keep it from moving, the likeliest first")),
    }
}

fn side_word(side: Side) -> &'static str {
    match side {
        Side::Source => "source",
        Side::Destination => "destination",
        Side::Neither => "",
    }
}

fn explanation(found: &Explanation, style: Style) -> String {
    let mut out = String::new();
    let place = match found.side {
        Side::Neither => String::new(),
        side => format!("{}: ", side_word(side)),
    };
    push_line(&mut out, &format!("  {place}{}", clean(&found.message)));
    let statements = |separator: &str| {
        let painted: Vec<_> =
            found.statements.iter().map(|statement| style.paint(Tone::Strong, &clean(statement))).collect();
        painted.join(separator)
    };
    out.push_str(&labelled(
        style,
        4,
        &[
            ("detail", clean(&found.detail).into_owned()),
            ("hint", clean(&found.hint).into_owned()),
            ("run there", statements("\n")),
            ("see", clean(&found.page).into_owned()),
        ],
    ));
    out
}

fn report(report: &Report, style: Style) -> String {
    let mut out = String::new();
    let word = style.paint(Tone::Strong, side_word(report.side));
    push_line(&mut out, &format!("{word} {}", clean(&report.agent)));
    match (&report.situation, &report.failure) {
        (Some(situation), _) => out.push_str(&self::situation(situation, style)),
        (None, Some(failure)) => push_line(&mut out, &format!("  no answer: {}", clean(&failure.message))),
        (None, None) => push_line(&mut out, "  no answer"),
    }
    out
}

fn situation(situation: &Situation, style: Style) -> String {
    let link = situation.round_trip.map(|round_trip| format!("the other agent answers in {}", span(round_trip)));
    let in_use: Vec<_> = situation
        .capacities
        .iter()
        .map(|capacity| format!("{} of {} {}", capacity.used, capacity.limit, clean(&capacity.setting)))
        .collect();
    let disk = situation.free_disk_bytes.map(|bytes| format!("{} free", size(bytes)));
    let mut sessions: Vec<_> = situation.own_sessions.iter().take(SHOWN_SESSIONS).map(session).collect();
    if let Some(more) = situation.own_sessions.len().checked_sub(SHOWN_SESSIONS).filter(|more| *more > 0) {
        sessions.push(format!("and {} more", count(more as i64, "session")));
    }
    let lines = |sessions: &[ServerSession]| sessions.iter().map(session).collect::<Vec<_>>().join("\n");
    let prepared: Vec<_> = situation.prepared_transactions.iter().map(prepared).collect();
    labelled(
        style,
        2,
        &[
            ("link", link.unwrap_or_default()),
            ("slot", situation.slot.as_ref().map(slot).unwrap_or_default()),
            ("subscription", situation.subscription.as_ref().map(subscription).unwrap_or_default()),
            ("in use", in_use.join(", ")),
            ("disk", disk.unwrap_or_default()),
            ("sessions", sessions.join("\n")),
            ("blockers", lines(&situation.blockers)),
            ("oldest", lines(&situation.oldest_transactions)),
            ("prepared", prepared.join("\n")),
        ],
    )
}

/// `4711 pgportage control, role porter, active, waits for Lock relation behind
/// 123`.
fn session(session: &ServerSession) -> String {
    let mut parts = vec![match (session.application.as_str(), session.backend_type.as_str()) {
        ("", kind) => format!("{} {}", session.pid, clean(kind)),
        (application, _) => format!("{} {}", session.pid, clean(application)),
    }];
    if !session.role.is_empty() {
        parts.push(format!("role {}", clean(&session.role)));
    }
    if !session.state.is_empty() {
        parts.push(clean(&session.state).into_owned());
    }
    parts.extend(session.transaction_age.map(|age| format!("transaction open for {}", elapsed(age))));
    // What an idle session waits for is its client.
    if !session.wait_event.is_empty() && session.wait_event_type != "Client" && session.wait_event_type != "Activity" {
        let behind: Vec<_> = session
            .blocked_by
            .iter()
            .map(|pid| if *pid == 0 { "a prepared transaction".to_owned() } else { pid.to_string() })
            .collect();
        let behind = if behind.is_empty() { String::new() } else { format!(" behind {}", behind.join(", ")) };
        parts.push(format!("waits for {} {}{behind}", clean(&session.wait_event_type), clean(&session.wait_event)));
    }
    parts.join(", ").trim().to_owned()
}

fn prepared(prepared: &PreparedTransaction) -> String {
    let age = elapsed(prepared.age);
    let awaited = if prepared.awaited { ", waited for" } else { "" };
    format!(
        "{} of role {} in database {}, {age} old{awaited}",
        clean(&prepared.gid),
        clean(&prepared.role),
        clean(&prepared.database)
    )
}

fn slot(slot: &Slot) -> String {
    let used = match (slot.complete, slot.active_pid) {
        _ if !slot.invalidation.is_empty() => format!("lost: {}", clean(&slot.invalidation)),
        (true, Some(pid)) => format!("process {pid} streams from it"),
        (true, None) => "no subscriber streams from it".to_owned(),
        (false, Some(pid)) => format!("being made by process {pid}"),
        (false, None) => "unfinished, and no process makes it".to_owned(),
    };
    let kept = slot.retained_wal_bytes.map(|bytes| format!(", {} of WAL kept", size(bytes))).unwrap_or_default();
    format!("{used}{kept}")
}

fn subscription(subscription: &Subscription) -> String {
    let mut parts = vec![
        if subscription.enabled { "enabled" } else { "disabled" }.to_owned(),
        count(subscription.apply_workers, "apply worker"),
        count(subscription.sync_workers, "copy worker"),
        format!("{} ready", count(subscription.ready_tables, "table")),
    ];
    for (number, word) in [(subscription.copying_tables, "copying"), (subscription.waiting_tables, "waiting")] {
        if number > 0 {
            parts.push(format!("{number} {word}"));
        }
    }
    let errors = subscription.apply_errors.unwrap_or(0) + subscription.sync_errors.unwrap_or(0);
    if errors > 0 {
        parts.push(format!("{} so far", count(errors, "error")));
    }
    parts.join(", ")
}
