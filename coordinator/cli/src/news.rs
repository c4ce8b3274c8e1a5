//! What has changed between two looks at a migration, as lines for people, and
//! what is shown while it goes on. Pure.

use time::OffsetDateTime;

use crate::pace::{Pace, Speed};
use crate::render::{
    SHOWN_TABLES, clean, elapsed, kept, pace, paced, progress, rate, running_tables, size, span, step_word, whole,
};
use crate::view::{Build, CUTOVER_STEP, Cutover, CutoverPhase, Migration, Part, Progress, Step, StepState};

/// How much is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grain {
    /// Steps that begin and end; how far they are is shown otherwise.
    Steps,
    /// The same, and every tenth part of a step's work.
    Tenths,
}

/// What to tell a person who last saw `before`.
pub fn news(before: Option<&Migration>, after: &Migration, grain: Grain) -> Vec<String> {
    let mut lines = Vec::new();
    let phase = |migration: &Migration| migration.cutover.as_ref().map(|cutover| (cutover.epoch, cutover.phase));
    let phase_changed = before.is_some_and(|before| phase(before) != phase(after));
    for step in &after.steps {
        let earlier = before.and_then(|migration| migration.step(&step.name));
        let told = step_news(earlier, step, before.is_none(), grain);
        let phase = after.cutover.as_ref().filter(|_| phase_changed && step.name == CUTOVER_STEP).and_then(phase_news);
        // A cutover that runs goes through phases; one that is over has.
        match step.state {
            StepState::Running => lines.extend(told.into_iter().chain(phase)),
            StepState::Pending
            | StepState::Held
            | StepState::Failed
            | StepState::Succeeded
            | StepState::Undone
            | StepState::Unrecognised => lines.extend(phase.into_iter().chain(told)),
        }
    }
    let rounds =
        |migration: &Migration| migration.rehearsal.as_ref().map(|report| (report.epoch, report.completed_count));
    if let Some(report) = &after.rehearsal
        && report.completed_count > 0
        && before.is_some_and(|before| rounds(before) != rounds(after))
    {
        lines.push(format!("rehearsal: {} of {} rounds done", report.completed_count, report.round_count));
    }
    let waiting = |migration: &Migration| match migration.state.settled() {
        true => String::new(),
        false => migration.waiting_for.clone(),
    };
    let waits = waiting(after);
    if !waits.is_empty() && before.map(waiting).as_ref() != Some(&waits) {
        lines.push(format!("waiting for {}", clean(&waits)));
    }
    let drift = |migration: &Migration| migration.held_by.as_ref().map(|failure| failure.detail.clone());
    let (earlier, now) = (before.and_then(drift), drift(after));
    if earlier != now {
        match now {
            Some(detail) => lines.push(format!("schema drift: {}", clean(&detail))),
            None => lines.push("the schemas of both sides are level again".to_owned()),
        }
    }
    let warning =
        |migration: &Migration| migration.figures.as_ref().map(|figures| figures.warning.clone()).unwrap_or_default();
    let told = before.map(warning).unwrap_or_default();
    let warning = warning(after);
    if !warning.is_empty() && warning != told {
        lines.push(format!("warning: {}", clean(&warning)));
    }
    lines
}

fn step_news(before: Option<&Step>, after: &Step, first_look: bool, grain: Grain) -> Option<String> {
    let name = clean(&after.name);
    let changed = before.is_none_or(|step| (step.state, step.attempt_count) != (after.state, after.attempt_count));
    match after.state {
        StepState::Pending | StepState::Unrecognised => None,
        // What was done before the operator looked is no news.
        StepState::Succeeded | StepState::Undone | StepState::Held if first_look => None,
        StepState::Succeeded => changed.then(|| match took(after) {
            Some(took) => format!("{name}: {} ({took})", step_word(after.state)),
            None => format!("{name}: {}", step_word(after.state)),
        }),
        StepState::Held | StepState::Undone => changed.then(|| format!("{name}: {}", step_word(after.state))),
        StepState::Failed => changed.then(|| match &after.failure {
            Some(failure) => format!("{name}: failed: {}", clean(&failure.message)),
            None => format!("{name}: failed"),
        }),
        StepState::Running if changed => Some(match after.attempt_count {
            ..=1 => format!("{name}: running"),
            attempt => format!("{name}: running, attempt {attempt}"),
        }),
        StepState::Running => match grain {
            Grain::Steps => None,
            Grain::Tenths => {
                let now = after.progress.as_ref()?;
                let then = before.and_then(|step| step.progress.as_ref());
                (tenths(now) > then.and_then(tenths)).then(|| format!("{name}: {}", progress(now)))
            }
        },
    }
}

fn tenths(progress: &Progress) -> Option<i64> {
    rate(progress.completed, progress.total).map(|percent| percent / 10)
}

fn took(step: &Step) -> Option<String> {
    let (start, end) = (step.start_time?, step.end_time?);
    std::time::Duration::try_from(end - start).ok().map(span)
}

fn phase_news(cutover: &Cutover) -> Option<String> {
    let told = match cutover.phase {
        CutoverPhase::Preparing => "connections are open, nothing has changed yet",
        CutoverPhase::Fenced => "the source is closed to applications",
        CutoverPhase::InDoubt => "the destination is asked to open",
        CutoverPhase::Open => "the destination is open",
        CutoverPhase::TakenBack => "taken back, the source takes writes as before",
        CutoverPhase::Unrecognised => return None,
    };
    Some(format!("cutover: {told}"))
}

/// What is shown while a migration goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// The step that runs, and how far it is.
    pub headline: String,
    /// The tables being copied and indexes being built, at most [`SHOWN_TABLES`].
    pub tables: Vec<TableFrame>,
    /// Lag and the WAL kept on the source. Empty while unknown.
    pub footer: String,
}

/// One table being copied, or whose index is being built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableFrame {
    /// The table.
    pub table: String,
    /// Bytes copied, or percent of a build's phase.
    pub completed: u64,
    /// Its size, when known.
    pub total: Option<u64>,
    /// Both as people say them, and how fast it goes.
    pub text: String,
}

/// What is shown at this moment. `so_far` has looked at the migration as it is
/// now.
pub fn frame(migration: &Migration, so_far: &Pace, now: OffsetDateTime) -> Frame {
    let running = migration.steps.iter().enumerate().find(|(_, step)| step.state == StepState::Running);
    let Some((number, step)) = running else {
        return Frame { headline: String::new(), tables: Vec::new(), footer: footer(migration) };
    };
    let mut headline = format!("step {} of {}: {}", number + 1, migration.steps.len(), clean(&step.name));
    if let Some(text) = step.progress.as_ref().map(|work| paced(work, so_far)).filter(|text| !text.is_empty()) {
        headline.push_str(", ");
        headline.push_str(&text);
    }
    if let Some(Ok(since)) = step.start_time.map(|start| std::time::Duration::try_from(now - start))
        && since.as_secs() > 0
    {
        headline.push_str(&format!(" ({})", elapsed(since)));
    }
    let work = step.progress.as_ref();
    let copied = work.into_iter().flat_map(running_tables).map(|part| table_frame(part, so_far.table(part)));
    let built = work.into_iter().flat_map(|work| &work.builds).map(build_frame);
    let tables = copied.chain(built).take(SHOWN_TABLES).collect();
    Frame { headline, tables, footer: footer(migration) }
}

fn table_frame(part: &Part, speed: Option<Speed>) -> TableFrame {
    let total = whole(part.size_bytes, part.total_bytes);
    let pace = pace(speed);
    TableFrame {
        table: clean(&part.table).into_owned(),
        completed: u64::try_from(part.size_bytes).unwrap_or(0),
        total: total.and_then(|total| u64::try_from(total).ok()),
        text: match total {
            Some(total) => format!("{} of {}{pace}", size(part.size_bytes), size(total)),
            None => format!("{}{pace}", size(part.size_bytes)),
        },
    }
}

fn build_frame(build: &Build) -> TableFrame {
    let percent = build.percent.map(u64::from);
    TableFrame {
        table: format!("index of {}", clean(&build.table)),
        completed: percent.unwrap_or(0),
        total: percent.map(|_| 100),
        text: clean(&build.phase).into_owned(),
    }
}

fn footer(migration: &Migration) -> String {
    let Some(figures) = &migration.figures else { return String::new() };
    let mut parts = Vec::new();
    match (figures.lag, figures.lag_bytes) {
        (Some(lag), Some(bytes)) => parts.push(format!("lag {} ({})", span(lag), size(bytes))),
        (Some(lag), None) => parts.push(format!("lag {}", span(lag))),
        (None, Some(bytes)) => parts.push(format!("lag {}", size(bytes))),
        (None, None) => {}
    }
    parts.extend(
        Some(kept(figures, "")).filter(|text| !text.is_empty()).map(|text| format!("WAL kept on the source {text}")),
    );
    parts.join(", ")
}
