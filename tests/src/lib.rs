//! The whole thing, from outside: throwaway PostgreSQL clusters, the programs as
//! real processes, workloads with a ledger of what was acknowledged, faults.
//!
//! Depends on the contract and the link only, never on the agent, the
//! coordinator or the CLI as libraries: those are started as processes.

pub mod ballast;
pub mod before;
pub mod bench;
pub mod checker;
pub mod child;
pub mod cli;
pub mod cluster;
pub mod fail_points;
pub mod figures;
pub mod final_state;
pub mod journey;
pub mod ledger;
pub mod otlp;
pub mod pgbouncer;
pub mod place;
pub mod pooled;
pub mod postgres_versions;
pub mod proxy;
pub mod service;
#[cfg(test)]
mod settings_read;
pub mod site;
pub mod statement_log;
pub mod traces;
pub mod wait;
pub mod wiretap;
pub mod workload;

pub use cluster::{Cluster, ClusterOptions};
pub use ledger::{End, Ledger};
pub use postgres_versions::{Installation, PostgresVersion, Tools, provision, tools_for};
pub use site::{Site, SiteOptions};
