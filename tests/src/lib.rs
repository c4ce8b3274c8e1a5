//! The whole thing, from outside: throwaway PostgreSQL clusters, the programs as
//! real processes, workloads with a ledger of what was acknowledged, faults.
//!
//! Depends on the contract and the link only, never on the agent, the
//! coordinator or the CLI as libraries: those are started as processes.

pub mod checker;
pub mod child;
pub mod cluster;
pub mod final_state;
pub mod ledger;
pub mod postgres_versions;
pub mod wait;
pub mod workload;

pub use cluster::{Cluster, ClusterOptions};
pub use postgres_versions::{Installation, PostgresVersion, Tools, provision, tools_for};
