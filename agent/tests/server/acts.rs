//! The acts of replication on two real servers of different versions, with two
//! agents and the link between them in this process.
//!
//! Every act is proved in the same way (`every_act`, by means of `contract`): it runs
//! twice without harm, is resumed after a death at each of its fail points, is taken
//! back, twice, and then the catalogs are as they were.

mod contract;

mod catalogs;
mod cleanup;
mod compare;
mod copy;
mod every_act;
mod failover;
mod journey;
mod lost_snapshot;
mod obstacles;
mod odd;
mod privilege;
mod protection;
mod rewritten;
mod situation;
mod slot_wait;
mod statistics;
mod way;
mod zoo;
