//! *verify*: both sides compared while writes go on.
//!
//! Either by what can be counted, or row by row by their hashes; schema objects
//! in both cases. Behind a cutover the sides have changed their parts, and
//! sequences are looked at as well: those in use must not be behind those that
//! were.

mod board;
mod compare;
mod count;
mod notebook;
mod repair;
mod scan;
mod settle;

pub use compare::{CompareRows, CompareRowsResult};
pub(in crate::step) use compare::{Plan, open};
pub use count::{CountRows, CountRowsResult, SequencePlace, TableCount};
pub use notebook::TableComparison;
