//! What an operator types.

mod rehearsal;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::view::{Chosen, MaxRate};

pub use rehearsal::{Extent, Rehearsal};

/// How long a certificate lives unless the operator says otherwise: long enough
/// for a fleet that is moved once, short enough to be renewed on purpose.
pub(crate) const DEFAULT_DAYS: u32 = 90;

/// Exit codes, as `--help` prints them.
const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  what was asked for could not be met, or you detached before it was
  2  the command line is wrong
  3  waiting for you: the reason and the next command are printed
  4  it was rehearsed, and the outage is not expected within its budget";

/// Moves a live PostgreSQL database from one server to another.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "pgportage",
    version,
    after_help = EXIT_CODES,
    disable_help_subcommand = true,
    arg_required_else_help = true
)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub verb: Option<Verb>,
    /// Print the settings in force and exit
    #[arg(long)]
    pub print_config: bool,
    /// What holds for every verb.
    #[command(flatten)]
    pub global: Global,
}

/// What holds for every verb.
#[derive(Clone, Debug, Default, Args)]
pub struct Global {
    /// Configuration file [default: ~/.config/pgportage/pgportage.toml, then
    /// /etc/pgportage/pgportage.toml]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub config: Option<PathBuf>,
    /// Address of the coordinator, as HOST:PORT
    #[arg(long, global = true, value_name = "ADDRESS", help_heading = "Global options")]
    pub coordinator: Option<String>,
    /// Name in the coordinator's certificate
    #[arg(long, global = true, value_name = "NAME", help_heading = "Global options")]
    pub coordinator_name: Option<String>,
    /// Your certificate
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub certificate: Option<PathBuf>,
    /// The key of your certificate
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub key: Option<PathBuf>,
    /// The authority that signed the certificates
    #[arg(long, alias = "ca", global = true, value_name = "FILE", help_heading = "Global options")]
    pub authority: Option<PathBuf>,
    /// Print the result as JSON on standard output
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// Make a private certificate authority and certificates
    Certs(Certs),
    /// Show who is attached, with which server and release
    Agents,
    /// Read both servers and say what stands in the way; changes nothing
    Preflight(Preflight),
    /// Create a migration without starting it
    Create(Create),
    /// Agree to findings
    Consent(Consent),
    /// Print every step and statement that will run, before it runs
    Plan(PlanArguments),
    /// Start a migration and show its progress until it is ready for cutover
    Start(Watched),
    /// Change how fast a migration copies, also while it does
    Tune(Tune),
    /// Show what is happening, what it waits for and what to type next
    Status(Status),
    /// Ask both sides why a migration does not move; changes nothing
    Explain(Named),
    /// Compare both sides again, row by row, while writes go on
    Verify(Verify),
    /// Let a failed step try again
    Retry(Watched),
    /// Move the applications to the destination
    Cutover(Cutover),
    /// Move the applications back to the source, with everything written since
    Rollback(Rollback),
    /// Remove everything of ours after the cutover, the way back too; the source
    /// stays closed
    Finish(Confirmed),
    /// Take the migration back
    Abort(Confirmed),
    /// Show, keep or check what both agents have signed about a cutover or rollback
    Certificate(Certificate),
    /// Print a completion script for a shell
    Completions(Completions),
    /// Write the manual pages into a directory
    Man(Man),
    /// Explain a verb, or the code of a failure or a finding
    Help(Help),
}

impl Verb {
    /// The verb as it is typed.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Certs(_) => "certs",
            Self::Agents => "agents",
            Self::Preflight(_) => "preflight",
            Self::Create(_) => "create",
            Self::Consent(_) => "consent",
            Self::Plan(_) => "plan",
            Self::Start(_) => "start",
            Self::Tune(_) => "tune",
            Self::Status(_) => "status",
            Self::Explain(_) => "explain",
            Self::Verify(_) => "verify",
            Self::Retry(_) => "retry",
            Self::Cutover(_) => "cutover",
            Self::Rollback(_) => "rollback",
            Self::Finish(_) => "finish",
            Self::Abort(_) => "abort",
            Self::Certificate(_) => "certificate",
            Self::Completions(_) => "completions",
            Self::Man(_) => "man",
            Self::Help(_) => "help",
        }
    }
}

/// Certificates.
#[derive(Clone, Debug, Args)]
pub struct Certs {
    /// What to make.
    #[command(subcommand)]
    pub act: CertsAct,
}

/// What to explain.
#[derive(Clone, Debug, Args)]
pub struct Help {
    /// A verb, or a code such as SLOT_LOST
    #[arg(value_name = "VERB|CODE")]
    pub words: Vec<String>,
}

/// A migration's name.
#[derive(Clone, Debug, Args)]
pub struct Named {
    /// The migration
    pub name: String,
}

/// What `plan` takes.
#[derive(Clone, Debug, Args)]
pub struct PlanArguments {
    /// The migration
    pub name: String,
    /// Before the start: read both servers again
    #[arg(long)]
    pub refresh: bool,
}

/// A verb that shows progress until its end.
#[derive(Clone, Debug, Args)]
pub struct Watched {
    /// The migration
    pub name: String,
    /// Return as soon as the coordinator has accepted it
    #[arg(long)]
    pub detach: bool,
}

/// How closely both sides are compared.
#[derive(Clone, Debug, Args)]
pub struct Verify {
    /// The migration
    pub name: String,
    /// Only count the rows of each table
    #[arg(long, conflicts_with_all = ["time_limit", "resume", "repair"])]
    pub counts: bool,
    /// Stop comparing rows after this, for example 30m; --resume goes on
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub time_limit: Option<Duration>,
    /// Go on where the comparison before left off
    #[arg(long)]
    pub resume: bool,
    /// Let the destination's agent write statements that mend what differs, into
    /// a file on its machine
    #[arg(long)]
    pub repair: bool,
    /// Table data that may be read in a second from now on, for example 50MB; none
    /// for as fast as it goes
    #[arg(long, value_name = "RATE")]
    pub max_rate: Option<MaxRate>,
    /// Return as soon as the coordinator has accepted it
    #[arg(long)]
    pub detach: bool,
}

/// What would be moved.
#[derive(Clone, Debug, Args)]
pub struct Preflight {
    /// The agent beside the server to move from
    #[arg(long, value_name = "AGENT")]
    pub from: String,
    /// The agent beside the server to move to
    #[arg(long, value_name = "AGENT")]
    pub to: String,
    /// The database to move
    #[arg(long, value_name = "DB")]
    pub database: String,
    /// What moves the rows.
    #[command(flatten)]
    pub chosen: Chosen,
    /// Once the applications are on the destination, the source is left behind:
    /// no rollback
    #[arg(long)]
    pub no_way_back: bool,
}

/// A new migration.
#[derive(Clone, Debug, Args)]
pub struct Create {
    /// Its name: 1 to 40 characters of a-z, 0-9 and -
    pub name: String,
    /// A TOML file that describes the migration, instead of the options from --from to
    /// --max-rate; its keys are their names
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["method", "connection", "copy_method"])]
    pub file: Option<PathBuf>,
    /// What to move.
    #[command(flatten)]
    pub options: CreateOptions,
    /// Check everything, create nothing
    #[arg(long)]
    pub validate_only: bool,
}

/// A new migration, as described on the command line.
#[derive(Clone, Debug, Args)]
pub struct CreateOptions {
    /// The agent beside the server to move from
    #[arg(long, value_name = "AGENT", required_unless_present = "file", conflicts_with = "file")]
    pub from: Option<String>,
    /// The agent beside the server to move to
    #[arg(long, value_name = "AGENT", required_unless_present = "file", conflicts_with = "file")]
    pub to: Option<String>,
    /// The database to move
    #[arg(long, value_name = "DB", required_unless_present = "file", conflicts_with = "file")]
    pub database: Option<String>,
    /// What moves the rows.
    #[command(flatten)]
    pub chosen: Chosen,
    /// Once the applications are on the destination, the source is left behind:
    /// no rollback
    #[arg(long, conflicts_with = "file")]
    pub no_way_back: bool,
    /// Lag under which it is ready, for example 500ms [default: 1s]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, conflicts_with = "file")]
    pub max_lag: Option<Duration>,
    /// Table data that the copy may read in a second, for example 50MB [default:
    /// as fast as it goes]
    #[arg(long, value_name = "RATE", conflicts_with = "file")]
    pub max_rate: Option<MaxRate>,
}

/// What is changed about a migration.
#[derive(Clone, Debug, Args)]
pub struct Tune {
    /// The migration
    pub name: String,
    /// Table data that the copy may read in a second, for example 50MB; none for
    /// as fast as it goes
    #[arg(long, value_name = "RATE")]
    pub max_rate: MaxRate,
}

/// Findings to agree to.
#[derive(Clone, Debug, Args)]
pub struct Consent {
    /// The migration
    pub name: String,
    /// A finding's code, with :OBJECT to mean only the one on that object; none
    /// to see what asks for consent
    #[arg(value_name = "CODE[:OBJECT]", conflicts_with = "all")]
    pub findings: Vec<String>,
    /// Agree to every finding that asks for it
    #[arg(long)]
    pub all: bool,
}

/// What to show.
#[derive(Clone, Debug, Args)]
pub struct Status {
    /// The migration; all of them when left out
    #[arg(required_if_eq("watch", "true"))]
    pub name: Option<String>,
    /// Show every change until the migration is over
    #[arg(long)]
    pub watch: bool,
}

/// The move of the applications.
#[derive(Clone, Debug, Args)]
pub struct Cutover {
    /// The migration
    pub name: String,
    /// Take everything back if the outage would exceed this, for example 1s
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub max_outage: Option<Duration>,
    /// Compare what is written during the cutover before the other side may open, and
    /// take everything back if that takes longer than this or anything differs
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub compare: Option<Duration>,
    /// Give the way back up, for example because it was lost: no rollback
    #[arg(long)]
    pub no_way_back: bool,
    /// Whether it is rehearsed.
    #[command(flatten)]
    pub rehearsal: Rehearsal,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// Return as soon as the coordinator has accepted it
    #[arg(long)]
    pub detach: bool,
}

/// The return of the applications.
#[derive(Clone, Debug, Args)]
pub struct Rollback {
    /// The migration
    pub name: String,
    /// Take everything back if the outage would exceed this, for example 1s
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub max_outage: Option<Duration>,
    /// Go on although a pooler does not answer: its clients see errors until it answers
    /// and was led back
    #[arg(long, conflicts_with = "rehearsing")]
    pub without_pooler: bool,
    /// Compare what is written during the rollback before the other side may open, and
    /// take everything back if that takes longer than this or anything differs
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub compare: Option<Duration>,
    /// Whether it is rehearsed.
    #[command(flatten)]
    pub rehearsal: Rehearsal,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// Return as soon as the coordinator has accepted it
    #[arg(long)]
    pub detach: bool,
}

/// An act that asks first.
#[derive(Clone, Debug, Args)]
pub struct Confirmed {
    /// The migration
    pub name: String,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// Return as soon as the coordinator has accepted it
    #[arg(long)]
    pub detach: bool,
}

/// What both agents have signed.
#[derive(Clone, Debug, Args)]
pub struct Certificate {
    /// What to do with it.
    #[command(subcommand)]
    pub act: CertificateAct,
}

/// What to do with a certificate of a cutover or rollback.
#[derive(Clone, Debug, Subcommand)]
pub enum CertificateAct {
    /// Fetch a certificate, check it and show it
    Show(CertificateShow),
    /// Fetch a certificate and write it to a file, to be checked anywhere
    Save(CertificateSave),
    /// Check a certificate in a file; asks no coordinator, needs only --authority
    Verify(CertificateVerify),
}

/// Which certificate to show.
#[derive(Clone, Debug, Args)]
pub struct CertificateShow {
    /// The migration
    pub name: String,
    /// Number of the cutover or rollback [default: the latest]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..))]
    pub switch: Option<i64>,
}

/// Which certificate to keep, and where.
#[derive(Clone, Debug, Args)]
pub struct CertificateSave {
    /// The migration
    pub name: String,
    /// Number of the cutover or rollback [default: the latest]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..))]
    pub switch: Option<i64>,
    /// The file; must not exist yet
    #[arg(long, value_name = "FILE")]
    pub output: PathBuf,
}

/// Which file to check.
#[derive(Clone, Debug, Args)]
pub struct CertificateVerify {
    /// The file
    pub file: PathBuf,
}

/// A shell.
#[derive(Clone, Debug, Args)]
pub struct Completions {
    /// The shell
    pub shell: Shell,
}

/// Where manual pages go.
#[derive(Clone, Debug, Args)]
pub struct Man {
    /// The directory; made if it does not exist
    pub directory: PathBuf,
}

/// What to make.
#[derive(Clone, Debug, Subcommand)]
pub enum CertsAct {
    /// Make a private certificate authority
    Init(CertsInit),
    /// Make a certificate for a program or an operator
    Issue(CertsIssue),
}

/// A new authority.
#[derive(Clone, Debug, Args)]
pub struct CertsInit {
    /// Where its certificate and key go; made if it does not exist
    #[arg(long, value_name = "DIR", default_value = "certs")]
    pub directory: PathBuf,
    /// The fleet under this authority, for example example.com
    #[arg(long, value_name = "NAME", default_value = "pgportage.internal")]
    pub trust_domain: String,
}

/// A new certificate.
#[derive(Clone, Debug, Args)]
pub struct CertsIssue {
    /// What its holder is: coordinator, agent or operator
    pub role: String,
    /// Its holder's name: 1 to 63 characters of a-z, 0-9 and -
    pub name: String,
    /// Where the authority is
    #[arg(long, value_name = "DIR", default_value = "certs")]
    pub directory: PathBuf,
    /// Where the certificate and key go [default: beside the authority]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// How many days it is valid
    #[arg(long, value_name = "N", default_value_t = DEFAULT_DAYS)]
    pub days: u32,
}
