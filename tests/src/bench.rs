//! What benches have in common: data from a fixed seed, what users would run
//! instead of us, what a process has used.

pub mod contestant;
pub mod dataset;
pub mod scrape;
pub mod shares;
pub mod switch;
pub mod usage;
