//! The `pgportage` program, which the operator types.
//!
//! It asks the coordinator and shows the answers; it decides nothing. Messages
//! of the contract become views in [`wire`], views become text in [`render`], and
//! [`terminal`] is the only module that writes.

pub mod arguments;
mod coordinator;
mod description;
mod exit;
mod follow;
pub mod news;
mod outcome;
pub mod pace;
mod progress;
pub mod render;
mod settings;
mod terminal;
mod verb;
pub mod view;
pub mod wire;

use pgportage_link::{Clock, Failure, telemetry};
use tracing::Instrument;

use crate::arguments::{Arguments, CertificateAct, Global, Verb};
use crate::coordinator::Coordinator;
use crate::exit::{Exit, Stop};
use crate::terminal::Terminal;
use crate::verb::Hand;

/// Runs one command line to its end and says how the process ends. Everything
/// that is to be said has been said when it returns.
pub async fn run(arguments: Arguments) -> Exit {
    let terminal = Terminal::open(arguments.global.json);
    match carry_out(&terminal, &arguments).await {
        Ok(exit) => exit,
        Err(stop) => told(&terminal, stop),
    }
}

async fn carry_out(terminal: &Terminal, arguments: &Arguments) -> Result<Exit, Stop> {
    if arguments.print_config {
        let settings = settings::load(&arguments.global)?;
        terminal.text(&pgportage_link::settings::print(&settings)?);
        return Ok(Exit::Done);
    }
    let Some(verb) = &arguments.verb else {
        let hint = "Type pgportage --help for the list of verbs.".to_owned();
        return Err(Stop::Usage { message: "there is no verb on the command line".to_owned(), hint });
    };
    match verb {
        Verb::Certs(certs) => verb::certs(terminal, certs).map_err(Stop::from),
        Verb::Completions(completions) => Ok(verb::completions(terminal, completions.shell)),
        Verb::Help(help) => verb::help(terminal, &help.words),
        Verb::Man(man) => verb::man(terminal, &man.directory).map_err(Stop::from),
        Verb::Certificate(certificate) => match &certificate.act {
            CertificateAct::Verify(verify) => {
                verb::verify_certificate(terminal, &verify.file, arguments.global.authority.as_deref(), Clock)
            }
            CertificateAct::Show(_) | CertificateAct::Save(_) => {
                with_coordinator(terminal, &arguments.global, verb).await
            }
        },
        Verb::Agents
        | Verb::Preflight(_)
        | Verb::Create(_)
        | Verb::Tune(_)
        | Verb::Consent(_)
        | Verb::Plan(_)
        | Verb::Start(_)
        | Verb::Status(_)
        | Verb::Explain(_)
        | Verb::Verify(_)
        | Verb::Retry(_)
        | Verb::Cutover(_)
        | Verb::Rollback(_)
        | Verb::Finish(_)
        | Verb::Abort(_) => with_coordinator(terminal, &arguments.global, verb).await,
    }
}

/// One trace begins here: the span of the verb is the parent of what the
/// coordinator and the agents do for it.
async fn with_coordinator(terminal: &Terminal, global: &Global, verb: &Verb) -> Result<Exit, Stop> {
    let settings = settings::load(global)?;
    let guard = telemetry::init("pgportage", &settings.telemetry.for_link())?;
    let clock = Clock;
    let span = tracing::info_span!("pgportage", otel.name = format!("pgportage {}", verb.name()), otel.kind = "client");
    let outcome = async {
        let coordinator = Coordinator::connect(&settings, clock).await?;
        let hand = Hand { terminal: terminal.clone(), settings, coordinator, clock };
        verb::run(&hand, verb).await
    }
    .instrument(span)
    .await;
    guard.shutdown().await;
    outcome
}

/// Says why a verb did not run to its end.
fn told(terminal: &Terminal, stop: Stop) -> Exit {
    match stop {
        Stop::Failed(failure) => {
            let failure = view::Failure::from(*failure);
            if terminal.json {
                terminal.data(&serde_json::json!({ "failure": failure }));
            }
            terminal.note(&render::failure(&failure, terminal.err));
            Exit::NotMet
        }
        Stop::Usage { message, hint } => {
            terminal.note(&format!("error: {message}\n  hint  {hint}\n"));
            Exit::Usage
        }
        Stop::Declined => {
            terminal.note("nothing was done\n");
            Exit::NotMet
        }
        Stop::Detached(words) => {
            terminal.note(&format!("\n{words}\n"));
            Exit::NotMet
        }
    }
}

/// The runtime could not be made.
pub fn no_runtime(error: &std::io::Error) -> Exit {
    let failure = Failure::new(pgportage_proto::Reason::Internal, "the program cannot start").because(error);
    told(&Terminal::open(false), failure.into())
}
