//! What the operator chose when the migration was created.

use clap::ValueEnum;
use serde::Serialize;

/// How the destination server reaches the source server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Connection {
    /// Through the agents' link: no database port has to be reachable
    #[default]
    Tunnel,
    /// At the address in the destination agent's policy
    Direct,
}

/// How the rows that are there already get to the destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum CopyMethod {
    /// By the agents: several tables at a time, indexes afterwards
    #[default]
    Snapshot,
    /// By the subscription: one worker a table
    Native,
}
