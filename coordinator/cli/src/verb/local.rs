//! Verbs that need no coordinator: completions, manual pages, explanations.

use std::fs;
use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;
use pgportage_link::program::UnknownTopic;
use pgportage_link::{Effect, Failure};
use pgportage_proto::Reason;

use crate::arguments::Arguments;
use crate::exit::{Exit, Stop};
use crate::terminal::Terminal;

pub(crate) fn completions(terminal: &Terminal, shell: Shell) -> Exit {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "pgportage", &mut script);
    terminal.text(&String::from_utf8_lossy(&script));
    Exit::Done
}

pub(crate) fn help(terminal: &Terminal, words: &[String]) -> Result<Exit, Stop> {
    let text = pgportage_link::program::help(Arguments::command(), words)
        .map_err(|UnknownTopic { message, hint }| Stop::Usage { message, hint })?;
    terminal.text(&text);
    Ok(Exit::Done)
}

/// Writes one manual page for the program and one for each verb.
pub(crate) fn man(terminal: &Terminal, directory: &Path) -> Result<Exit, Failure> {
    let unwritable = |error: std::io::Error| {
        Failure::new(Reason::ConfigurationInvalid, format!("cannot write manual pages to {}", directory.display()))
            .hint("Give a directory that you may write to.")
            .effect(Effect::None)
            .because(&error)
    };
    fs::create_dir_all(directory).map_err(unwritable)?;
    clap_mangen::generate_to(Arguments::command(), directory).map_err(unwritable)?;
    terminal.note(&format!("manual pages are in {}\n", directory.display()));
    Ok(Exit::Done)
}
