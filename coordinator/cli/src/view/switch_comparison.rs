//! What was compared in a cutover or rollback before the other side opened.

use std::time::Duration;

use serde::Serialize;

use super::milliseconds;

/// Rows that were written from the preconditions to the barrier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SwitchComparison {
    /// Tables that were written to and compared.
    pub table_count: i32,
    /// Rows of them that were written.
    pub row_count: i64,
    /// Tables that were written to and not compared.
    pub left_out: Vec<String>,
    /// How long applications waited for it.
    #[serde(rename = "elapsed_milliseconds", serialize_with = "milliseconds")]
    pub elapsed: Option<Duration>,
}
