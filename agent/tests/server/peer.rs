//! The link's two ends: two agents in this process, each beside a real server,
//! talking over real mutual TLS.

mod access;
mod schema;
mod tunnel;
