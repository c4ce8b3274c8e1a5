//! What both agents have signed about a cutover or rollback: fetched, kept, checked.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::path::Path;

use pgportage_certificate::{Authorities, SwitchCertificate};
use pgportage_link::{Clock, Effect, Failure};
use pgportage_proto::Reason;

use super::Hand;
use crate::arguments::{CertificateAct, CertificateSave, CertificateShow};
use crate::exit::{Exit, Stop};
use crate::render;
use crate::terminal::Terminal;
use crate::view::{self, Certified};

/// A certificate is two statements; one with the longest lists has a few hundred
/// kilobytes.
const MAX_FILE_BYTES: u64 = 16 << 20;

pub(super) async fn run(hand: &Hand, act: &CertificateAct) -> Result<Exit, Stop> {
    match act {
        CertificateAct::Show(arguments) => show(hand, arguments).await,
        CertificateAct::Save(arguments) => save(hand, arguments).await,
        CertificateAct::Verify(arguments) => {
            let authority = &hand.settings.identity.authority;
            verify(&hand.terminal, &arguments.file, Some(authority), hand.clock)
        }
    }
}

/// Fetches it, and believes it no more than a file.
async fn show(hand: &Hand, arguments: &CertificateShow) -> Result<Exit, Stop> {
    let fetched = hand.coordinator.certificate(&arguments.name, arguments.switch).await?;
    let authorities = Authorities::read(&hand.settings.identity.authority)?;
    told_why_incomplete(hand, &fetched);
    Ok(told(&hand.terminal, &fetched.certificate, &authorities, hand.clock))
}

async fn save(hand: &Hand, arguments: &CertificateSave) -> Result<Exit, Stop> {
    let fetched = hand.coordinator.certificate(&arguments.name, arguments.switch).await?;
    told_why_incomplete(hand, &fetched);
    let path = &arguments.output;
    write_new(path, &fetched.certificate.text()).map_err(|error| unwritable(path, &error))?;
    let text = format!(
        "saved what both agents have signed: {}\nto check it, anywhere: pgportage certificate verify {} --authority ca.pem\n",
        path.display(),
        path.display()
    );
    let saved = view::Saved { file: path.clone(), switches: fetched.switches };
    hand.terminal.result(&text, &saved);
    Ok(if fetched.certificate.statements().len() == 2 { Exit::Done } else { Exit::NotMet })
}

/// Checks a certificate in a file. Asks neither the coordinator nor an agent.
pub(crate) fn verify(terminal: &Terminal, file: &Path, authority: Option<&Path>, clock: Clock) -> Result<Exit, Stop> {
    let Some(authority) = authority else {
        return Err(Stop::Usage {
            message: "certificate verify has to know which authority to trust".to_owned(),
            hint: "Add --authority ca.pem, the certificate of the authority that the agents' certificates are from."
                .to_owned(),
        });
    };
    let authorities = Authorities::read(authority)?;
    let text = read(file).map_err(|error| unreadable(file, &error))?;
    Ok(told(terminal, &SwitchCertificate::parse(&text)?, &authorities, clock))
}

/// Shows what is proved, and says so with the exit code.
fn told(terminal: &Terminal, certificate: &SwitchCertificate, authorities: &Authorities, clock: Clock) -> Exit {
    let report = certificate.verify(authorities, clock.wall());
    let text = render::certificate(&report, terminal.out);
    terminal.result(&text, &view::Proof { proved: report.proved(), report: &report });
    let Some(unproved) = report.checks.iter().find(|check| !check.proved) else { return Exit::Done };
    let failure = Failure::new(Reason::CertificateNotProved, format!("not proved: {}", unproved.text))
        .hint("Do not rely on anything in this certificate. Look for another copy, or at both servers.")
        .effect(Effect::None);
    terminal.note(&render::failure(&failure.into(), terminal.err));
    Exit::NotMet
}

/// Why a statement is missing, as far as the coordinator knows.
fn told_why_incomplete(hand: &Hand, fetched: &Certified) {
    for failure in &fetched.failures {
        hand.terminal.note(&render::failure(failure, hand.terminal.err));
    }
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(MAX_FILE_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

/// Does not return before it is on the disk.
fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    Failure::new(Reason::RequestInvalid, format!("\"{}\" cannot be read: {error}", path.display()))
        .hint("Give a file that `pgportage certificate save` has written.")
        .effect(Effect::None)
}

fn unwritable(path: &Path, error: &io::Error) -> Failure {
    Failure::new(Reason::RequestInvalid, format!("\"{}\" cannot be written: {error}", path.display()))
        .hint("Nothing is overwritten. Give the name of a new file in a directory that you may write to.")
        .effect(Effect::None)
}
