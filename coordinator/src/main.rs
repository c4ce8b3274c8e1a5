//! `pgportage-coordinator`: one for a fleet of agents.

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use pgportage_coordinator::arguments::{Arguments, Verb};
use pgportage_coordinator::daemon;
use pgportage_coordinator::settings::Settings;
use pgportage_link::{Failure, program, settings};
use pgportage_proto::Reason;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(Verb::Help { words }) = &arguments.verb {
        return program::print_help(Arguments::command(), words);
    }
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => program::end("pgportage-coordinator", &failure),
    }
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    let loaded = Settings::load(&arguments.config)?;
    if arguments.print_config {
        say(&settings::print(&loaded)?);
        return Ok(());
    }
    match &arguments.verb {
        None | Some(Verb::Run) => runtime()?.block_on(daemon::run(loaded)),
        Some(Verb::CheckConfig) => {
            daemon::check(&loaded)?;
            say("the configuration and the certificate are in order\n");
            Ok(())
        }
        // Answered before the settings are read.
        Some(Verb::Help { .. }) => Ok(()),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Reason::Internal, "the runtime could not be started").because(&error))
}

#[expect(clippy::print_stdout, reason = "what was asked for")]
fn say(text: &str) {
    print!("{text}");
}
