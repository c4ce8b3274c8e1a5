//! Shows how a migration goes on: bars on a terminal, lines elsewhere. Always on
//! standard error; standard output is for results.

use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use time::OffsetDateTime;

use crate::news::{Frame, Grain, TableFrame, frame, news};
use crate::pace::Pace;
use crate::terminal::Terminal;
use crate::view::Migration;

/// The spinner of the headline turns this often.
const TICK: Duration = Duration::from_millis(120);

/// Shows one migration while it is watched.
#[derive(Debug)]
pub(crate) struct Display {
    terminal: Terminal,
    seen: Option<Migration>,
    so_far: Pace,
    bars: Option<Bars>,
}

#[derive(Debug)]
struct Bars {
    multi: MultiProgress,
    headline: ProgressBar,
    tables: Vec<ProgressBar>,
    footer: ProgressBar,
}

impl Display {
    /// Shows nothing yet. `seen` is what the operator has seen already.
    pub(crate) fn new(terminal: &Terminal, seen: Option<Migration>) -> Self {
        Self { terminal: terminal.clone(), seen, so_far: Pace::default(), bars: terminal.bars().map(Bars::new) }
    }

    pub(crate) fn update(&mut self, migration: &Migration, now: OffsetDateTime) {
        let grain = if self.bars.is_some() { Grain::Steps } else { Grain::Tenths };
        for line in news(self.seen.as_ref(), migration, grain) {
            // A running step is what the bars show.
            if self.bars.is_none() || !line.ends_with(": running") {
                self.terminal.note(&format!("{line}\n"));
            }
        }
        self.so_far.look(migration, now);
        if let Some(bars) = &mut self.bars {
            bars.show(&frame(migration, &self.so_far, now));
        }
        self.seen = Some(migration.clone());
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        if let Some(bars) = &self.bars {
            bars.headline.finish_and_clear();
            bars.footer.finish_and_clear();
            for bar in &bars.tables {
                bar.finish_and_clear();
            }
        }
    }
}

impl Bars {
    fn new(multi: &MultiProgress) -> Self {
        let headline = multi.add(ProgressBar::new_spinner());
        headline.set_style(style("{spinner} {wide_msg}"));
        headline.enable_steady_tick(TICK);
        let footer = multi.add(ProgressBar::new_spinner());
        footer.set_style(style("  {wide_msg}"));
        Self { multi: multi.clone(), headline, tables: Vec::new(), footer }
    }

    fn show(&mut self, frame: &Frame) {
        self.headline.set_message(frame.headline.clone());
        self.footer.set_message(frame.footer.clone());
        while self.tables.len() > frame.tables.len() {
            if let Some(bar) = self.tables.pop() {
                self.multi.remove(&bar);
            }
        }
        while self.tables.len() < frame.tables.len() {
            self.tables.push(self.multi.insert_before(&self.footer, ProgressBar::no_length()));
        }
        for (bar, table) in self.tables.iter().zip(&frame.tables) {
            show_table(bar, table);
        }
    }
}

fn show_table(bar: &ProgressBar, table: &TableFrame) {
    match table.total {
        Some(total) => {
            bar.set_style(style("    {prefix:30!} [{bar:20}] {percent:>3} %  {msg}").progress_chars("##."));
            bar.set_length(total);
        }
        None => bar.set_style(style("    {prefix:30!} {msg}")),
    }
    bar.set_prefix(table.table.clone());
    bar.set_message(table.text.clone());
    bar.set_position(table.completed);
}

/// The templates are constants of this module; a wrong one shows as plain text.
fn style(template: &'static str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}
