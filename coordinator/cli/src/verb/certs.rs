//! `certs init` and `certs issue`: files only, no coordinator.

use pgportage_link::identity::{IdentityError, Role};
use pgportage_link::{Effect, Failure};
use pgportage_proto::Reason;
use time::OffsetDateTime;

use crate::arguments::{Certs, CertsAct, CertsInit, CertsIssue};
use crate::certs::{self, NewAuthority, NewCertificate};
use crate::exit::Exit;
use crate::terminal::Terminal;

pub(crate) fn certs(terminal: &Terminal, arguments: &Certs) -> Result<Exit, Failure> {
    match &arguments.act {
        CertsAct::Init(arguments) => init(terminal, arguments),
        CertsAct::Issue(arguments) => issue(terminal, arguments),
    }?;
    Ok(Exit::Done)
}

fn init(terminal: &Terminal, arguments: &CertsInit) -> Result<(), Failure> {
    let made: NewAuthority = certs::init(&arguments.directory, &arguments.trust_domain)?;
    let text = format!(
        "made the authority of {}: {}\nkeep the key beside it secret: its holder can issue any certificate of the fleet\n",
        made.trust_domain,
        made.certificate.display()
    );
    terminal.result(&text, &made);
    Ok(())
}

fn issue(terminal: &Terminal, arguments: &CertsIssue) -> Result<(), Failure> {
    let role: Role = arguments
        .role
        .parse()
        .map_err(|error: IdentityError| Failure::new(Reason::RequestInvalid, error.to_string()).effect(Effect::None))?;
    let out = arguments.out.as_ref().unwrap_or(&arguments.directory);
    let made: NewCertificate = certs::issue(&arguments.directory, role, &arguments.name, out, arguments.days)?;
    let text = format!(
        "issued {} until {}\n\nfor the configuration of its holder:\n\n[identity]\n{}",
        made.id,
        OffsetDateTime::from(made.not_after).date(),
        pgportage_link::settings::print(&made.files)?
    );
    terminal.result(&text, &made);
    Ok(())
}
