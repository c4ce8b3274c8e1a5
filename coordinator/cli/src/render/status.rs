//! One migration: what is happening, what it waits for, what to type next.

use std::time::Duration;

use time::OffsetDateTime;

use super::{
    Style, Tone, clean, count, cutover, doubt, failure, findings, kept, labelled, pace, push_line, rate, rehearsal,
    rows, size, span, table, unfence, verification, whole,
};
use crate::pace::{Pace, Speed};
use crate::view::{
    Build, CUTOVER_STEP, CutoverPhase, Figures, Finding, Migration, MigrationState, Part, Progress, Severity, Step,
    StepState, Unit, WayBack,
};

/// Most tables that are shown while they are copied; the rest is a number.
pub(crate) const SHOWN_TABLES: usize = 5;

const BAR_CELLS: i64 = 20;

/// Everything about one migration. `so_far` has looked at it as it is now.
pub fn status(migration: &Migration, so_far: &Pace, now: OffsetDateTime, style: Style) -> String {
    let mut out = String::new();
    push_line(
        &mut out,
        &format!(
            "migration {}: {}",
            style.paint(Tone::Strong, &clean(&migration.name)),
            style.paint(state_tone(migration), state_word(migration))
        ),
    );
    push_line(
        &mut out,
        &format!(
            "database {} from {} to {}{}{}{}{}",
            clean(&migration.database),
            clean(&migration.source_agent),
            clean(&migration.destination_agent),
            migration.way.clause(),
            if migration.relayed { ", relayed by the coordinator" } else { "" },
            migration.max_rate_bytes.map(|rate| format!(", at most {}/s", size(rate))).unwrap_or_default(),
            match migration.way_back {
                WayBack::None if !over(migration) => ", without a way back",
                WayBack::None | WayBack::Planned | WayBack::Proved | WayBack::Running | WayBack::Unrecognised => "",
            },
        ),
    );
    out.push('\n');
    out.push_str(&steps(migration, so_far, now, style));
    if let Some(figures) = migration.figures.as_ref().filter(|_| replicates(migration)) {
        out.push('\n');
        out.push_str(&self::figures(figures, migration.way_back, style));
    }
    let obstacles = obstacles(migration, style);
    if !obstacles.is_empty() {
        out.push('\n');
        out.push_str(&obstacles);
    }
    if let Some(report) = &migration.verification {
        out.push('\n');
        out.push_str(&verification(report, style));
    }
    if let Some(report) = &migration.cutover {
        out.push('\n');
        out.push_str(&cutover(report, style));
    }
    if let Some(report) = migration.rehearsal.as_ref().filter(|_| !over(migration)) {
        out.push('\n');
        out.push_str(&rehearsal(report, style));
    }
    let doubt = doubt(migration, style);
    if !doubt.is_empty() {
        out.push('\n');
        out.push_str(&doubt);
    }
    if !migration.unfence_statements.is_empty() {
        out.push('\n');
        out.push_str(&unfence(&migration.unfence_statements, &migration.database, &migration.source_agent, style));
    }
    out.push('\n');
    out.push_str(&answers(migration, style));
    out
}

/// What a verb that waited ends with: what is in the way, and the three answers.
pub fn conclusion(migration: &Migration, style: Style) -> String {
    let mut out = obstacles(migration, style);
    if !out.is_empty() {
        out.push('\n');
    }
    if let Some(figures) = migration.figures.as_ref().filter(|_| migration.ready_for_cutover) {
        out.push_str(&self::figures(figures, migration.way_back, style));
        out.push('\n');
    }
    out.push_str(&answers(migration, style));
    out
}

/// Whether the lag still means something: not once the destination is open and
/// nothing flows back, or the migration is over.
fn replicates(migration: &Migration) -> bool {
    let open =
        migration.cutover.as_ref().is_some_and(|cutover| cutover.phase == CutoverPhase::Open && !cutover.rollback);
    !over(migration) && (!open || migration.way_back == WayBack::Running)
}

/// Whether nothing will happen to it any more.
pub(crate) fn over(migration: &Migration) -> bool {
    match migration.state {
        MigrationState::Aborted | MigrationState::Succeeded => true,
        MigrationState::Pending
        | MigrationState::Running
        | MigrationState::Waiting
        | MigrationState::Aborting
        | MigrationState::Unrecognised => false,
    }
}

/// Failures and findings that the operator should read.
fn obstacles(migration: &Migration, style: Style) -> String {
    let mut blocks: Vec<String> =
        failures(migration).filter_map(|step| step.failure.as_ref()).map(|it| failure(it, style)).collect();
    blocks.extend(migration.held_by.as_ref().map(|it| failure(it, style)));
    let shown: Vec<Finding> = migration.findings().filter(|finding| in_the_way(finding, migration)).cloned().collect();
    if !shown.is_empty() {
        blocks.push(format!("{}\n{}", style.paint(Tone::Strong, "findings"), findings(&shown, style)));
    }
    blocks.join("\n")
}

/// What is happening, what it waits for, what to type next.
pub(super) fn answers(migration: &Migration, style: Style) -> String {
    let waits = match migration.waiting_for.as_str() {
        "" => "nothing from you".to_owned(),
        text => clean(text).into_owned(),
    };
    // Once all is agreed to, there is nothing to agree to.
    let pointless =
        |command: &str| command.starts_with("pgportage consent ") && migration.open_consents().next().is_none();
    let mut next: Vec<_> = migration
        .next_commands
        .iter()
        .filter(|command| !pointless(command))
        .map(|command| style.paint(Tone::Strong, &clean(command)))
        .collect();
    if next.is_empty() {
        next.push(match migration.state {
            MigrationState::Aborted | MigrationState::Succeeded => "nothing: it is over".to_owned(),
            MigrationState::Pending
            | MigrationState::Running
            | MigrationState::Waiting
            | MigrationState::Aborting
            | MigrationState::Unrecognised => {
                style.paint(Tone::Strong, &format!("pgportage status {} --watch", clean(&migration.name)))
            }
        });
    }
    labelled(style, 0, &[("happening", happening(migration)), ("waits for", waits), ("type next", next.join("\n"))])
}

/// What is happening, as one clause.
pub(crate) fn happening(migration: &Migration) -> String {
    let step = migration.current_step();
    let named = |step: &Step| clean(&step.name).into_owned();
    match (migration.state, step) {
        (MigrationState::Running | MigrationState::Waiting, _) if in_doubt(migration) => {
            let rollback = migration.cutover.as_ref().is_some_and(|cutover| cutover.rollback);
            let (left, entered) = if rollback { ("destination", "source") } else { ("source", "destination") };
            format!(
                "in doubt: the {left} agent does not know whether the {entered} has opened: the {left} stays closed"
            )
        }
        (MigrationState::Pending, _) => "nothing yet: it was created and not started".to_owned(),
        (MigrationState::Running, Some(step)) if step.state == StepState::Running => {
            match step.progress.as_ref().map(progress).filter(|text| !text.is_empty()) {
                Some(text) => format!("step {} runs: {text}", named(step)),
                None => format!("step {} runs", named(step)),
            }
        }
        (MigrationState::Running, _) => "it runs".to_owned(),
        (MigrationState::Waiting, _) if migration.ready_for_cutover => {
            "ready for cutover: both sides are level and stay so".to_owned()
        }
        (MigrationState::Waiting, _) if migration.ready_for_finish && migration.way_back == WayBack::Running => {
            "cut over: applications belong on the destination, and what they write flows back to the source".to_owned()
        }
        (MigrationState::Waiting, _) if migration.ready_for_finish => {
            "cut over: applications belong on the destination".to_owned()
        }
        (MigrationState::Waiting, Some(step)) if step.state == StepState::Held && migration.held_by.is_some() => {
            format!("nothing: step {} is held until both sides are level", named(step))
        }
        (MigrationState::Waiting, Some(step)) if step.state == StepState::Failed => {
            let attempts = count(step.attempt_count, "attempt");
            format!("nothing: step {} did not succeed ({attempts})", named(step))
        }
        (MigrationState::Waiting, Some(step)) => format!("nothing: step {} waits for your word", named(step)),
        (MigrationState::Waiting, None) => "nothing: it waits for your word".to_owned(),
        (MigrationState::Aborting, Some(step)) => format!("it is being taken back: step {}", named(step)),
        (MigrationState::Aborting, None) => "it is being taken back".to_owned(),
        (MigrationState::Aborted, _) => "nothing: it was taken back".to_owned(),
        (MigrationState::Succeeded, _) => "nothing: it is done".to_owned(),
        (MigrationState::Unrecognised, _) => "something that this release does not know".to_owned(),
    }
}

fn in_doubt(migration: &Migration) -> bool {
    migration.cutover.as_ref().is_some_and(|cutover| cutover.phase == CutoverPhase::InDoubt)
}

fn steps(migration: &Migration, so_far: &Pace, now: OffsetDateTime, style: Style) -> String {
    let rows: Vec<Vec<String>> = migration
        .steps
        .iter()
        .enumerate()
        .map(|(number, step)| {
            vec![
                format!("{:2}", number + 1),
                clean(&step.name).into_owned(),
                step_word(step.state).to_owned(),
                took(step, now),
                remark(step, so_far, migration),
            ]
        })
        .collect();
    let lines = table(style, 0, &[], &rows, |row, column| match column {
        2 => migration.steps.get(row).map(|step| step_tone(step.state)),
        _ => None,
    });
    let mut out = String::new();
    for (line, step) in lines.lines().zip(&migration.steps) {
        push_line(&mut out, line);
        if let (StepState::Running, Some(progress)) = (step.state, &step.progress) {
            out.push_str(&tables(progress, so_far));
            for build in &progress.builds {
                push_line(&mut out, &format!("      {}", self::build(build)));
            }
        }
        if step.point_of_no_return && matches!(migration.way_back, WayBack::None | WayBack::Unrecognised) {
            push_line(&mut out, &style.paint(Tone::Careful, "   -- nothing after this can be taken back --"));
        }
    }
    out
}

fn took(step: &Step, now: OffsetDateTime) -> String {
    let end = match step.state {
        StepState::Running => Some(now),
        StepState::Pending
        | StepState::Held
        | StepState::Failed
        | StepState::Succeeded
        | StepState::Undone
        | StepState::Unrecognised => step.end_time,
    };
    match (step.start_time, end) {
        (Some(start), Some(end)) => Duration::try_from(end - start).map(span).unwrap_or_default(),
        (None, _) | (_, None) => String::new(),
    }
}

fn remark(step: &Step, so_far: &Pace, migration: &Migration) -> String {
    let mut remarks = Vec::new();
    if step.attempt_count > 1 {
        remarks.push(format!("attempt {}", step.attempt_count));
    }
    match step.state {
        StepState::Running => {
            remarks.extend(step.progress.as_ref().map(|work| paced(work, so_far)).filter(|text| !text.is_empty()));
        }
        StepState::Pending | StepState::Held if step.held => {
            remarks.push(format!("waits for `pgportage {} {}`", clean(&step.name), clean(&migration.name)));
        }
        StepState::Pending
        | StepState::Held
        | StepState::Failed
        | StepState::Succeeded
        | StepState::Undone
        | StepState::Unrecognised => {}
    }
    remarks.join(", ")
}

/// How far a step has come, as one clause.
pub(crate) fn progress(progress: &Progress) -> String {
    let completed = progress.completed;
    let share = rate(completed, progress.total).map(|percent| format!(" ({percent} %)")).unwrap_or_default();
    let figure = match (progress.unit, whole(completed, progress.total)) {
        (Unit::Bytes, Some(total)) => format!("{} of {}{share}{}", size(completed), size(total), all_rows(progress)),
        (Unit::Bytes, None) => format!("{}{}", size(completed), all_rows(progress)),
        (Unit::Rows, Some(total)) => format!("{completed} of {}{share}", count(total, "row")),
        (Unit::Rows, None) => count(completed, "row"),
        (Unit::Tables, Some(total)) => format!("{completed} of {}{share}", count(total, "table")),
        (Unit::Tables, None) => count(completed, "table"),
        (Unit::Milliseconds, _) => span(Duration::from_millis(u64::try_from(completed).unwrap_or(0))),
        (Unit::None, _) => String::new(),
    };
    match (clean(&progress.subject), figure.is_empty()) {
        (subject, true) => subject.into_owned(),
        (subject, false) if subject.is_empty() => figure,
        (subject, false) => format!("{subject}, {figure}"),
    }
}

/// The rows of all parts. Their total is known where that of every part is.
fn all_rows(progress: &Progress) -> String {
    let parts = &progress.parts;
    let known = parts.iter().all(|part| part.total_rows > 0 || part.ready);
    let sum = |of: fn(&Part) -> i64| parts.iter().map(of).fold(0, i64::saturating_add);
    rows(sum(|part| part.row_count), if known { sum(|part| part.total_rows) } else { 0 })
}

/// The same, and how fast it goes.
pub(crate) fn paced(work: &Progress, so_far: &Pace) -> String {
    format!("{}{}", progress(work), pace(so_far.step(work)))
}

fn tables(progress: &Progress, so_far: &Pace) -> String {
    let running: Vec<&Part> = running_tables(progress).collect();
    let names: Vec<_> = running.iter().take(SHOWN_TABLES).map(|part| clean(&part.table)).collect();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    let mut out = String::new();
    for (part, name) in running.iter().zip(names) {
        push_line(&mut out, &format!("      {name:width$}  {}", table_bar(part, so_far.table(part))));
    }
    if let Some(more) = running.len().checked_sub(SHOWN_TABLES).filter(|more| *more > 0) {
        push_line(&mut out, &format!("      and {} more", count(more as i64, "table")));
    }
    out
}

/// `index of public.orders: building index: scanning table, 45 %`.
pub(crate) fn build(build: &Build) -> String {
    let share = build.percent.map(|percent| format!(", {percent} %")).unwrap_or_default();
    format!("index of {}: {}{share}", clean(&build.table), clean(&build.phase))
}

/// The tables being copied at this moment: begun, and not ready.
pub(crate) fn running_tables(progress: &Progress) -> impl Iterator<Item = &Part> {
    progress.parts.iter().filter(|part| !part.ready && (part.size_bytes > 0 || part.row_count > 0))
}

/// `[##########..........]  52 %  1.2 GB of 2.3 GB, 68.6 MB/s, 16 s left`.
fn table_bar(part: &Part, speed: Option<Speed>) -> String {
    let pace = pace(speed);
    match rate(part.size_bytes, part.total_bytes) {
        Some(percent) => {
            let filled = usize::try_from(percent * BAR_CELLS / 100).unwrap_or(0);
            let empty = usize::try_from(BAR_CELLS).unwrap_or(0).saturating_sub(filled);
            format!(
                "[{}{}] {percent:3} %  {} of {}{}{pace}",
                "#".repeat(filled),
                ".".repeat(empty),
                size(part.size_bytes),
                size(part.total_bytes),
                rows(part.row_count, part.total_rows)
            )
        }
        None => format!("{}{}{pace}", size(part.size_bytes), rows(part.row_count, part.total_rows)),
    }
}

/// What the coordinator waits for before it takes the request for a cutover or rollback.
pub(crate) fn behind(lag: Duration, limit: Duration) -> String {
    format!("waiting for the lag to fall under {}: it is {}\n", span(limit), span(lag))
}

fn figures(figures: &Figures, way_back: WayBack, style: Style) -> String {
    // Of the side that takes the writes.
    let place = match way_back {
        WayBack::Running => " on the destination",
        WayBack::None | WayBack::Planned | WayBack::Proved | WayBack::Unrecognised => " on the source",
    };
    let lag = match (figures.lag, figures.lag_bytes) {
        (Some(lag), Some(bytes)) => format!("{} ({})", span(lag), size(bytes)),
        (Some(lag), None) => span(lag),
        (None, Some(bytes)) => size(bytes),
        (None, None) => "not known yet".to_owned(),
    };
    let warning = match figures.warning.as_str() {
        "" => String::new(),
        text => style.paint(Tone::Careful, &clean(text)),
    };
    let held_back = figures.reader_limit.map(|limit| {
        let text = format!("to {} at a time: {}", count(limit, "reader"), clean(&figures.held_back_by));
        style.paint(Tone::Careful, &text)
    });
    let pairs = [
        ("lag", lag),
        ("WAL kept", kept(figures, place)),
        ("held back", held_back.unwrap_or_default()),
        ("warning", warning),
    ];
    labelled(style, 0, &pairs)
}

/// Steps whose failure the operator should read. A failed attempt of a step
/// that runs again is no news.
fn failures(migration: &Migration) -> impl Iterator<Item = &Step> {
    migration.steps.iter().filter(|step| match step.state {
        StepState::Failed | StepState::Held | StepState::Unrecognised => step.failure.is_some(),
        StepState::Pending | StepState::Running | StepState::Succeeded | StepState::Undone => false,
    })
}

/// Whether a finding is worth a place in `status`: notes and what was agreed
/// to are not, and nothing is once the inspection is behind us.
fn in_the_way(finding: &Finding, migration: &Migration) -> bool {
    let open = match migration.state {
        MigrationState::Pending | MigrationState::Running | MigrationState::Waiting => true,
        MigrationState::Aborting
        | MigrationState::Aborted
        | MigrationState::Succeeded
        | MigrationState::Unrecognised => false,
    };
    let behind = migration.step(CUTOVER_STEP).is_some_and(|step| step.state == StepState::Succeeded);
    let weighty = match finding.severity {
        Severity::Refuse => true,
        Severity::Consent => !finding.agreed,
        Severity::Note => false,
    };
    open && !behind && weighty
}

pub(super) fn state_word(migration: &Migration) -> &'static str {
    match migration.state {
        MigrationState::Pending => "not started",
        MigrationState::Running => "running",
        MigrationState::Waiting if migration.ready_for_cutover => "ready for cutover",
        MigrationState::Waiting if migration.ready_for_finish => "cut over",
        MigrationState::Waiting => "waiting for you",
        MigrationState::Aborting => "being taken back",
        MigrationState::Aborted => "aborted",
        MigrationState::Succeeded => "done",
        MigrationState::Unrecognised => "unrecognised",
    }
}

pub(super) fn state_tone(migration: &Migration) -> Tone {
    match migration.state {
        MigrationState::Succeeded => Tone::Good,
        MigrationState::Waiting if migration.ready_for_cutover || migration.ready_for_finish => Tone::Good,
        MigrationState::Pending | MigrationState::Running => Tone::Strong,
        MigrationState::Waiting | MigrationState::Aborting | MigrationState::Unrecognised => Tone::Careful,
        MigrationState::Aborted => Tone::Quiet,
    }
}

pub(crate) fn step_word(state: StepState) -> &'static str {
    match state {
        StepState::Pending => "to do",
        StepState::Running => "running",
        StepState::Held => "held",
        StepState::Failed => "failed",
        StepState::Succeeded => "done",
        StepState::Undone => "undone",
        StepState::Unrecognised => "unrecognised",
    }
}

fn step_tone(state: StepState) -> Tone {
    match state {
        StepState::Pending | StepState::Undone => Tone::Quiet,
        StepState::Running => Tone::Strong,
        StepState::Held | StepState::Unrecognised => Tone::Careful,
        StepState::Failed => Tone::Bad,
        StepState::Succeeded => Tone::Good,
    }
}
