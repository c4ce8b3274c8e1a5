//! `certs init` and `certs issue`: files only, no coordinator.

use std::time::Duration;

use pgportage_link::identity::Role;
use pgportage_link::issue::Authority;
use pgportage_link::settings::IdentitySettings;
use pgportage_link::{Clock, Effect, Failure};
use pgportage_proto::Reason;
use serde::Serialize;
use time::format_description::well_known::Rfc3339;

use crate::arguments::{Certs, CertsAct, CertsInit, CertsIssue};
use crate::exit::Exit;
use crate::terminal::Terminal;

/// What `certs init` made.
#[derive(Debug, Serialize)]
struct Made {
    trust_domain: String,
    directory: String,
}

/// What `certs issue` made.
#[derive(Debug, Serialize)]
struct Issued {
    id: String,
    certificate: String,
    key: String,
    authority: String,
    not_after: Option<String>,
}

/// Makes an authority or a certificate.
///
/// # Errors
///
/// When a name breaks its rules, a file exists already, or one cannot be written.
pub fn certs(terminal: &Terminal, arguments: &Certs) -> Result<Exit, Failure> {
    match &arguments.act {
        CertsAct::Init(arguments) => init(terminal, arguments),
        CertsAct::Issue(arguments) => issue(terminal, arguments),
    }?;
    Ok(Exit::Done)
}

fn init(terminal: &Terminal, arguments: &CertsInit) -> Result<(), Failure> {
    let authority = Authority::create(&arguments.directory, &arguments.trust_domain, Clock)?;
    let directory = arguments.directory.display().to_string();
    let text = format!(
        "made the authority of {} in {directory}\n  Keep ca-key.pem there secret: whoever holds it can be anybody.\n",
        authority.trust_domain()
    );
    terminal.result(&text, &Made { trust_domain: authority.trust_domain().to_owned(), directory });
    Ok(())
}

fn issue(terminal: &Terminal, arguments: &CertsIssue) -> Result<(), Failure> {
    let role: Role = arguments.role.parse().map_err(|error: pgportage_link::identity::IdentityError| {
        Failure::new(Reason::RequestInvalid, error.to_string()).effect(Effect::None)
    })?;
    let authority = Authority::load(&arguments.directory, Clock)?;
    let validity = Duration::from_secs(u64::from(arguments.days) * 24 * 60 * 60);
    let issued = authority.issue(role, &arguments.name, validity)?;
    let IdentitySettings { certificate, key, authority } = authority.write(&issued, &arguments.directory)?;
    let made = Issued {
        id: issued.id.to_string(),
        certificate: certificate.display().to_string(),
        key: key.display().to_string(),
        authority: authority.display().to_string(),
        not_after: issued.not_after.format(&Rfc3339).ok(),
    };
    let text = format!(
        "issued {} until {}\n\n[identity]\ncertificate = {:?}\nkey = {:?}\nauthority = {:?}\n",
        made.id,
        made.not_after.as_deref().unwrap_or("its authority ends"),
        made.certificate,
        made.key,
        made.authority
    );
    terminal.result(&text, &made);
    Ok(())
}
