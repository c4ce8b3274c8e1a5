//! Standard output, standard error and the question before an act that cannot
//! be taken back. The only module that writes to either.

use std::io::{self, BufRead, IsTerminal, Write};

use indicatif::{MultiProgress, ProgressDrawTarget};
use serde::Serialize;

use crate::exit::Stop;
use crate::render::Style;

/// Where words go.
#[derive(Clone, Debug)]
pub(crate) struct Terminal {
    /// How standard output is written.
    pub out: Style,
    /// How standard error is written.
    pub err: Style,
    /// Whether the result is printed as JSON.
    pub json: bool,
    /// Bars, when standard error is a terminal. Everything that is written to
    /// standard error while they are shown goes through them.
    bars: Option<MultiProgress>,
}

impl Terminal {
    /// Looks at the process's streams and at `NO_COLOR` (<https://no-color.org>).
    pub(crate) fn open(json: bool) -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let style = |terminal: bool| if terminal && wanted { Style::Coloured } else { Style::Plain };
        let stderr = io::stderr().is_terminal();
        Self {
            out: style(io::stdout().is_terminal()),
            err: style(stderr),
            json,
            bars: stderr.then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr())),
        }
    }

    /// Bars, when there is a terminal to draw them on.
    pub(crate) fn bars(&self) -> Option<&MultiProgress> {
        self.bars.as_ref()
    }

    /// Whether standard output is a terminal that can be redrawn.
    pub(crate) fn redraws(&self) -> bool {
        !self.json && io::stdout().is_terminal()
    }

    /// Prints a result: `text`, or `data` under `--json`. Says whether the reader is
    /// still there.
    pub(crate) fn result(&self, text: &str, data: &impl Serialize) -> bool {
        if self.json { self.data(data) } else { self.text(text) }
    }

    /// Prints text on standard output. Says whether the reader is still there.
    pub(crate) fn text(&self, text: &str) -> bool {
        write(&mut io::stdout().lock(), text)
    }

    /// Prints one JSON value on one line of standard output. Says whether the reader is
    /// still there.
    pub(crate) fn data(&self, data: &impl Serialize) -> bool {
        // Our own types have neither maps with other keys than strings nor
        // serializers that fail.
        serde_json::to_string(data).is_ok_and(|line| self.text(&format!("{line}\n")))
    }

    /// Writes to standard error, above the bars if any are shown.
    pub(crate) fn note(&self, text: &str) {
        match &self.bars {
            Some(bars) => bars.suspend(|| write(&mut io::stderr().lock(), text)),
            None => write(&mut io::stderr().lock(), text),
        };
    }

    /// Says what will be done and asks.
    ///
    /// # Errors
    ///
    /// [`Stop::Declined`] unless the answer is `yes`; [`Stop::Usage`] when standard input
    /// is no terminal.
    pub(crate) fn confirm(&self, what: &str, verb: &str, assumed: bool) -> Result<(), Stop> {
        if assumed {
            return Ok(());
        }
        self.note(what);
        if !io::stdin().is_terminal() {
            return Err(Stop::Usage {
                message: format!("{verb} asks first, and standard input is no terminal"),
                hint: "Add --yes if you mean it.".to_owned(),
            });
        }
        self.note("Type yes to go on: ");
        let mut answer = String::new();
        match io::stdin().lock().read_line(&mut answer) {
            Ok(_) if answer.trim().eq_ignore_ascii_case("yes") => Ok(()),
            Ok(_) | Err(_) => Err(Stop::Declined),
        }
    }
}

/// Says whether it could be written. A reader that went away (`pgportage status |
/// head`) is no error of ours, and nothing better can be done about any other.
fn write(stream: &mut impl Write, text: &str) -> bool {
    stream.write_all(text.as_bytes()).and_then(|()| stream.flush()).is_ok()
}
