//! What is shown, as text. Every function here is pure: a view, a style and,
//! where ages are shown, the present moment go in, a string comes out. The
//! golden files under `tests/golden/` hold what an operator sees in each state.

mod agents;
mod certificate;
mod cutover;
mod doubt;
mod explained;
mod failure;
mod findings;
mod migrations;
mod plan;
mod quantity;
mod question;
mod rehearsal;
mod status;
mod verification;

pub use agents::agents;
pub use certificate::certificate;
pub(crate) use cutover::{cutover, unfence};
pub(crate) use doubt::doubt;
pub use explained::explained;
pub use failure::failure;
pub(crate) use findings::findings;
pub use findings::preflight;
pub use migrations::migrations;
pub use plan::plan;
pub(crate) use quantity::{age, elapsed, kept, pace, rate, rows, size, span, whole};
pub use question::{before_abort, before_cutover, before_finish, before_rehearsal, before_rollback};
pub use rehearsal::rehearsal;
pub(crate) use status::{SHOWN_TABLES, behind, happening, over, paced, progress, running_tables, step_word};
pub use status::{conclusion, status};
pub(crate) use verification::verification;

use std::borrow::Cow;
use std::fmt::Write as _;

/// What a stretch of text means. The words say it too: colour never carries
/// meaning alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// All is well, or done.
    Good,
    /// The operator should look.
    Careful,
    /// Something did not succeed.
    Bad,
    /// Less important than its surroundings.
    Quiet,
    /// A heading, or what to type.
    Strong,
}

/// Whether text is coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Words alone.
    Plain,
    /// Words, and colour on top.
    Coloured,
}

impl Style {
    pub(crate) fn paint(self, tone: Tone, text: &str) -> String {
        let code = match (self, tone) {
            (Self::Plain, _) => return text.to_owned(),
            _ if text.is_empty() => return String::new(),
            (Self::Coloured, Tone::Good) => "32",
            (Self::Coloured, Tone::Careful) => "33",
            (Self::Coloured, Tone::Bad) => "1;31",
            (Self::Coloured, Tone::Quiet) => "2",
            (Self::Coloured, Tone::Strong) => "1",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// `text` with everything a terminal would obey made visible: names and
/// evidence come from servers that this program has no reason to trust.
pub fn clean(text: &str) -> Cow<'_, str> {
    if !text.chars().any(obeyed) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        if obeyed(character) {
            safe.extend(character.escape_default());
        } else {
            safe.push(character);
        }
    }
    Cow::Owned(safe)
}

/// Control characters, and those that turn the direction of writing.
fn obeyed(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Lines of labels and texts, the texts aligned. A text of several lines stays
/// aligned; a pair with an empty text is left out.
fn labelled(style: Style, indent: usize, pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().filter(|(_, text)| !text.is_empty()).map(|(label, _)| label.len()).max().unwrap_or(0);
    let mut out = String::new();
    for (label, text) in pairs {
        if text.is_empty() {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            let label = if number == 0 { *label } else { "" };
            let label = style.paint(Tone::Quiet, &format!("{label:width$}"));
            push_line(&mut out, &format!("{:indent$}{label}  {line}", ""));
        }
    }
    out
}

/// Columns as wide as their widest cell; the last one is not padded.
/// `tone` colours a cell by its row and column, after it was padded.
fn table(
    style: Style,
    indent: usize,
    head: &[&str],
    rows: &[Vec<String>],
    tone: impl Fn(usize, usize) -> Option<Tone>,
) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(head.get(column).map(|cell| cell.chars().count())).max().unwrap_or(0)
    };
    let columns = rows.iter().map(Vec::len).chain([head.len()]).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let pad = |column: usize, cell: &str| {
        if column + 1 == columns { cell.to_owned() } else { format!("{cell:0$}", widths[column]) }
    };
    let mut out = String::new();
    if !head.is_empty() {
        let cells: Vec<_> =
            head.iter().enumerate().map(|(column, cell)| style.paint(Tone::Quiet, &pad(column, cell))).collect();
        push_line(&mut out, &format!("{:indent$}{}", "", cells.join("  ")));
    }
    for (number, row) in rows.iter().enumerate() {
        let cells: Vec<_> = row
            .iter()
            .enumerate()
            .map(|(column, cell)| {
                let padded = pad(column, cell);
                tone(number, column).map_or(padded.clone(), |tone| style.paint(tone, &padded))
            })
            .collect();
        push_line(&mut out, &format!("{:indent$}{}", "", cells.join("  ")));
    }
    out
}

/// Adds a line, without the blanks at its end.
fn push_line(out: &mut String, line: &str) {
    let _ = writeln!(out, "{}", line.trim_end());
}

/// `1 table`, `2 tables`.
fn count(number: impl Into<i64>, noun: &str) -> String {
    let number = number.into();
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_a_terminal_obeys_is_printed() {
        assert_eq!(clean("public.orders"), "public.orders");
        assert_eq!(clean("a\u{1b}[2Jb\nc"), "a\\u{1b}[2Jb\\nc");
        assert_eq!(clean("\u{202e}evil"), "\\u{202e}evil");
        assert_eq!(clean("Größe 表"), "Größe 表");
    }

    #[test]
    fn the_last_column_is_not_padded_and_the_others_are() {
        let rows = [vec!["a".to_owned(), "b".to_owned()], vec!["ccc".to_owned(), "d".to_owned()]];
        assert_eq!(table(Style::Plain, 1, &["x", "y"], &rows, |_, _| None), " x    y\n a    b\n ccc  d\n");
    }
}
