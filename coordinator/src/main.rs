//! `pgportage-coordinator`: one for a fleet of agents.

use std::process::ExitCode;

use clap::Parser;
use pgportage_coordinator::arguments::{Arguments, Verb};
use pgportage_coordinator::daemon;
use pgportage_coordinator::settings::Settings;
use pgportage_link::{Failure, settings};
use pgportage_proto::Reason;

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            complain(&failure);
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    let loaded = Settings::load(&arguments.config)?;
    if arguments.print_config {
        say(&settings::print(&loaded)?);
        return Ok(());
    }
    match arguments.verb {
        None | Some(Verb::Run) => runtime()?.block_on(daemon::run(loaded)),
        Some(Verb::CheckConfig) => {
            daemon::check(&loaded)?;
            say("the configuration and the certificate are in order\n");
            Ok(())
        }
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

#[expect(clippy::print_stderr, reason = "the log may not have been started")]
fn complain(failure: &Failure) {
    eprintln!("pgportage-coordinator: {failure} ({})", failure.reason);
    for (label, text) in [("detail", &failure.detail), ("hint", &failure.hint)] {
        for line in text.lines() {
            eprintln!("  {label}: {line}");
        }
    }
    for cause in &failure.causes {
        eprintln!("  because: {cause}");
    }
}
