//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use pgportage_link::Failure;

use crate::settings::Settings;

/// The pgportage agent: carries out, beside one PostgreSQL server, what a
/// coordinator asks for and its policy file allows.
#[derive(Debug, Parser)]
#[command(name = "pgportage-agent", version, about, after_help = AFTER_HELP, disable_help_subcommand = true)]
pub struct Arguments {
    /// The configuration file.
    #[arg(
        short,
        long,
        global = true,
        env = "PGPORTAGE_AGENT_CONFIG",
        value_name = "FILE",
        default_value = "/etc/pgportage/agent.toml"
    )]
    pub config: PathBuf,
    /// Print the settings in force, defaults and variables included, and exit.
    #[arg(long, global = true)]
    pub print_config: bool,
    /// What to do. Without a verb: run.
    #[command(subcommand)]
    pub verb: Option<Verb>,
}

const AFTER_HELP: &str = "\
Every key of the file can be overridden by a variable: PGPORTAGE_AGENT_POSTGRES__PORT \
for `port` under [postgres].

Exit status: 0 done, 1 not done (the reason is on standard error), 2 wrong usage.";

/// What can be asked of the program.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Stay attached to the coordinator and work (the default).
    Run,
    /// Read the configuration and the policy, name every problem, and exit.
    CheckConfig,
    /// Let applications back in on the side that a cutover or a rollback has
    /// fenced. Needs no coordinator.
    ///
    /// Asks the other agent to promise that its side never opens, and does nothing
    /// without that promise. May be typed while the agent runs.
    Unfence {
        /// The migration's name.
        migration: String,
        /// In a cutover: state that the destination is destroyed and can never
        /// accept a write, when its agent cannot be asked any more. Recorded in
        /// the log.
        #[arg(long)]
        destination_destroyed: bool,
        /// In a rollback: the same of the source.
        #[arg(long, conflicts_with = "destination_destroyed")]
        source_destroyed: bool,
    },
    /// Remove everything of a migration from this server. Needs no coordinator.
    ///
    /// For a migration that no coordinator will take back any more. A fence stays. May be typed while the agent
    /// runs.
    Cleanup {
        /// The migration's name.
        migration: String,
    },
    /// Explain a verb, or the code of a failure or a finding, for example
    /// `help SLOT_LOST`.
    Help {
        /// A verb or a code.
        words: Vec<String>,
    },
}

impl Arguments {
    /// The settings of the named file.
    pub fn settings(&self) -> Result<Settings, Failure> {
        Settings::load(&self.config)
    }
}
