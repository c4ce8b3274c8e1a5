//! *verify*: both sides compared while writes go on.
//!
//! Either by what can be counted, or row by row by their hashes; schema objects
//! in both cases. Behind a cutover the sides have changed their parts, and
//! sequences are looked at as well: those in use must not be behind those that
//! were.

mod checkpoint;
mod compare;
mod count;
mod queue;
mod repair;
mod scan;
mod settle;

#[cfg(test)]
use pgportage_data_plane::comparison::{Column, Form};

pub use compare::CompareRows;
pub(in crate::act) use compare::{Plan, open};
pub use count::{CountRows, CountRowsResult, SequencePlace, TableCount};

/// Columns of their own text, and generated ones.
#[cfg(test)]
pub(in crate::act) fn columns(own: &[&str], generated: &[&str]) -> Vec<Column> {
    let column = |form| move |name: &&str| Column { name: (*name).to_owned(), form };
    own.iter().map(column(Form::Text)).chain(generated.iter().map(column(Form::Generated))).collect()
}
