//! What the one who starts the coordinator types.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Decides about migrations, keeps their history, commands the agents.
#[derive(Clone, Debug, Parser)]
#[command(name = "pgportage-coordinator", version, disable_help_subcommand = true)]
pub struct Arguments {
    /// Configuration file
    #[arg(long, global = true, value_name = "FILE", default_value = "/etc/pgportage/coordinator.toml")]
    pub config: PathBuf,
    /// Print the settings in force and end
    #[arg(long)]
    pub print_config: bool,
    /// What to do [default: run]
    #[command(subcommand)]
    pub verb: Option<Verb>,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// Serve until told to stop
    Run,
    /// Check the configuration and the certificate, then end
    CheckConfig,
    /// Explain a verb or the code of a failure, for example `help STORE_IN_USE`
    Help {
        /// A verb or a code
        words: Vec<String>,
    },
}
