//! *verify*: both sides compared while applications write.
//!
//! Compares row counts, or every row by its hash; schema objects in both cases. After a cutover the sides
//! have exchanged their parts, and sequences are compared as well: the sequences of the side in use must
//! not be behind those of the other.

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

/// Columns hashed by their own text, and generated ones.
#[cfg(test)]
pub(in crate::act) fn columns(own: &[&str], generated: &[&str]) -> Vec<Column> {
    let column = |form| move |name: &&str| Column { name: (*name).to_owned(), form };
    own.iter().map(column(Form::Text)).chain(generated.iter().map(column(Form::Generated))).collect()
}
