//! Comparing rows by their hashes.
//!
//! The subscriber's agent asks, the publisher's agent answers over the link, and each server hashes its own
//! rows. What travels is a sum for each part of a table, and, for parts whose sums differ, the keys and
//! hashes of their rows.
//!
//! A row's hash is made from the texts of its columns, by name, in sessions whose settings are the same
//! everywhere. The digest of a part is the sum of the hashes of its rows. So it does not depend on their
//! order, and a row that is there twice counts twice.
//!
//! **Invariant:** a difference is reported only when no write explains it ([`Suspect`]). Rows differ all
//! the time while applications write: the stream is always a little behind.

mod message;
mod part;
mod question;
mod reader;
mod statement;
mod suspect;
mod table;

pub use message::{MOST_BUCKETS, decode_part, encode_content, encode_digest, encode_row, encode_table, encode_written};
pub use part::{Digest, Hashing, Part, PartDigest, RowContent, RowHash, RowKey, Which, differing};
pub use question::Questions;
pub use reader::Reader;
pub use suspect::{Difference, Suspect, Verdict};
pub use table::{Column, ComparedTable, Form, replicated_tables};
