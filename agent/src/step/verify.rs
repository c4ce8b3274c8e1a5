//! *verify*: both sides compared while writes go on.
//!
//! Either by what can be counted, or row by row by their hashes; schema objects
//! in both cases.

mod board;
mod compare;
mod count;
mod notebook;
mod repair;
mod scan;
mod settle;

pub use compare::{CompareRows, CompareRowsResult};
pub use count::{CountRows, CountRowsResult, TableCount};
pub use notebook::TableComparison;
