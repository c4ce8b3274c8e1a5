//! What an act that cannot be taken back will do, said before it is done.

use std::time::Duration;

use super::rehearsal::name;
use super::{Style, Tone, clean, labelled, push_line, span};
use crate::view::{CutoverPhase, Migration, WayBack};

/// Before `cutover`.
pub fn before_cutover(
    migration: &Migration,
    max_outage: Option<Duration>,
    compare: Option<Duration>,
    keeps_way_back: bool,
    style: Style,
) -> String {
    before_switch(migration, false, max_outage, compare, after_cutover(migration, keeps_way_back), style)
}

/// Before `rollback`.
pub fn before_rollback(
    migration: &Migration,
    max_outage: Option<Duration>,
    compare: Option<Duration>,
    style: Style,
) -> String {
    let then = "Nothing that was written on the destination is lost. It then follows the source again: cutover may be \
                typed anew.";
    before_switch(migration, true, max_outage, compare, then, style)
}

/// Before the applications move to the other side, or back. `then`: what is so afterwards.
fn before_switch(
    migration: &Migration,
    rollback: bool,
    max_outage: Option<Duration>,
    compare: Option<Duration>,
    then: &str,
    style: Style,
) -> String {
    let source = ("source", &migration.source_agent);
    let destination = ("destination", &migration.destination_agent);
    let (verb, back, (left, from), (entered, to)) =
        if rollback { ("rollback", " back", destination, source) } else { ("cutover", "", source, destination) };
    let mut out = String::new();
    push_line(
        &mut out,
        &format!(
            "{} moves the applications of database {}{back} from {} to {}:",
            style.paint(Tone::Strong, verb),
            clean(&migration.database),
            clean(from),
            clean(to)
        ),
    );
    for act in [
        format!("1. Writers on the {left} wait, then every application session there is ended."),
        format!("2. The last change is awaited on the {entered}, and its sequences are set.{}", compared(compare)),
        format!("3. The {entered} opens. {}", budget(max_outage)),
        then.to_owned(),
    ] {
        push_line(&mut out, &format!("  {act}"));
    }
    out.push_str(&rehearsed(migration, rollback, max_outage, style));
    out.push_str(&lag_now(migration, style));
    out
}

/// What the latest rehearsal says about a cutover or rollback with this budget. Empty
/// where the rehearsal was one of the other, or older than the latest try.
fn rehearsed(migration: &Migration, rollback: bool, max_outage: Option<Duration>, style: Style) -> String {
    let mut out = String::new();
    let tried = migration.cutover.as_ref().map_or(0, |cutover| cutover.epoch);
    let Some(report) = migration.rehearsal.as_ref().filter(|it| it.rollback == rollback && it.epoch > tried) else {
        return out;
    };
    let Some(p95) = report.prediction.and_then(|prediction| prediction.p95) else { return out };
    let what = name(report);
    let told = format!("  The latest rehearsal expects an outage of up to {}.", span(p95));
    match max_outage.or(report.max_outage) {
        Some(limit) if p95 > limit => {
            let doubt = format!("{told} This {what} is likely to be taken back.");
            push_line(&mut out, &style.paint(Tone::Careful, &doubt));
        }
        Some(_) | None => push_line(&mut out, &told),
    }
    out
}

/// Before a rehearsal.
pub fn before_rehearsal(
    migration: &Migration,
    rollback: bool,
    rounds: Option<u32>,
    max_outage: Option<Duration>,
    compare: Option<Duration>,
    style: Style,
) -> String {
    let mut out = String::new();
    let (what, left) =
        if rollback { ("rollback", &migration.destination_agent) } else { ("cutover", &migration.source_agent) };
    push_line(
        &mut out,
        &format!(
            "{} tries the {what} of database {} {}, and moves no application:",
            style.paint(Tone::Strong, "rehearsal"),
            clean(&migration.database),
            rounds.map_or_else(|| "a few times".to_owned(), |rounds| format!("{rounds} times")),
        ),
    );
    let limit = max_outage.map_or("the coordinator's limit".to_owned(), span);
    for act in [
        format!(
            "1. Writers on {} wait until the last change has arrived; never longer than {limit}.{}",
            clean(left),
            compared(compare)
        ),
        "2. Statements that stand in a lock cycle with the barrier are cancelled, as they will be on the day."
            .to_owned(),
        "3. Everything is taken back. No session is ended, no application is kept out, no hook runs.".to_owned(),
    ] {
        push_line(&mut out, &format!("  {act}"));
    }
    out.push_str(&lag_now(migration, style));
    out
}

fn after_cutover(migration: &Migration, keeps_way_back: bool) -> &'static str {
    match migration.way_back {
        WayBack::Planned | WayBack::Proved | WayBack::Running if keeps_way_back => {
            "What is written from then on flows back to the source, which stays closed: rollback returns there, until \
             finish."
        }
        WayBack::None | WayBack::Planned | WayBack::Proved | WayBack::Running | WayBack::Unrecognised => {
            "From then on nothing can be taken back: the source stays closed to applications."
        }
    }
}

fn budget(max_outage: Option<Duration>) -> String {
    max_outage
        .map_or("If it would take longer than the coordinator's limit, everything is taken back.".to_owned(), |limit| {
            format!("If it would take longer than {}, everything is taken back.", span(limit))
        })
}

/// Of nothing where nothing is compared.
fn compared(limit: Option<Duration>) -> String {
    limit
        .map(|limit| format!(" What was written meanwhile is compared, for {} at most.", span(limit)))
        .unwrap_or_default()
}

fn lag_now(migration: &Migration, style: Style) -> String {
    let lag = migration.figures.as_ref().and_then(|figures| figures.lag).map(span).unwrap_or_default();
    let lag = if lag.is_empty() { "not known".to_owned() } else { lag };
    labelled(style, 2, &[("lag now", lag)])
}

/// Before `finish`.
pub fn before_finish(migration: &Migration, style: Style) -> String {
    let mut out = String::new();
    push_line(
        &mut out,
        &format!(
            "{} removes everything of pgportage from {} and {}:",
            style.paint(Tone::Strong, "finish"),
            clean(&migration.source_agent),
            clean(&migration.destination_agent)
        ),
    );
    push_line(&mut out, "  The subscription, publication, slot, replication role and our schema are dropped.");
    if migration.way_back == WayBack::Running {
        let end = format!(
            "  The way back ends: what is written on {} no longer reaches {}, and there is no rollback any more.",
            clean(&migration.destination_agent),
            clean(&migration.source_agent)
        );
        push_line(&mut out, &style.paint(Tone::Careful, &end));
    }
    push_line(
        &mut out,
        &format!(
            "  Database {} on {} stays closed to applications; the statements that reopen it are printed.",
            clean(&migration.database),
            clean(&migration.source_agent)
        ),
    );
    out
}

/// Before `abort`.
pub fn before_abort(migration: &Migration, style: Style) -> String {
    let mut out = String::new();
    push_line(
        &mut out,
        &format!("{} takes migration {} back:", style.paint(Tone::Strong, "abort"), clean(&migration.name)),
    );
    push_line(
        &mut out,
        &format!(
            "  Everything copied to database {} on {} is dropped, and has to be copied again by a new migration.",
            clean(&migration.database),
            clean(&migration.destination_agent)
        ),
    );
    push_line(
        &mut out,
        &format!(
            "  The slot, publication, replication role and our schema on {} are dropped; its data is not touched.",
            clean(&migration.source_agent)
        ),
    );
    if migration.cutover.as_ref().is_some_and(|cutover| cutover.phase == CutoverPhase::InDoubt) {
        push_line(
            &mut out,
            &style.paint(
                Tone::Careful,
                "  A cutover is in doubt: the source stays closed until the destination says that it will not open.",
            ),
        );
    }
    out
}
