//! `pgportage-agent`: beside each PostgreSQL server.

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use pgportage_agent::arguments::{Arguments, Verb};
use pgportage_agent::daemon;
use pgportage_agent::local;
use pgportage_link::{Failure, program, settings};
use pgportage_proto::Side;

/// As it is typed.
const NAME: &str = "pgportage-agent";

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(Verb::Help { words }) = &arguments.verb {
        return program::print_help(Arguments::command(), words);
    }
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => program::end(NAME, &failure),
    }
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    let loaded = arguments.settings()?;
    if arguments.print_config {
        return say(&settings::print(&loaded)?);
    }
    match &arguments.verb {
        None | Some(Verb::Run) => daemon::block_on(daemon::run(loaded)),
        Some(Verb::CheckConfig) => {
            daemon::check(&loaded)?;
            say("the configuration and the policy are in order\n")
        }
        Some(Verb::Unfence { migration, destination_destroyed, source_destroyed }) => {
            let destroyed = match (destination_destroyed, source_destroyed) {
                (true, _) => Some(Side::Destination),
                (false, true) => Some(Side::Source),
                (false, false) => None,
            };
            say(&daemon::block_on(local::unfence(loaded, migration, destroyed))?)
        }
        Some(Verb::Cleanup { migration }) => say(&daemon::block_on(local::clean_up(loaded, migration))?),
        // Answered before the settings are read.
        Some(Verb::Help { .. }) => Ok(()),
    }
}

#[expect(clippy::print_stdout, reason = "what was asked for")]
#[expect(clippy::unnecessary_wraps, reason = "reads well in the table of verbs")]
fn say(text: &str) -> Result<(), Failure> {
    print!("{text}");
    Ok(())
}
