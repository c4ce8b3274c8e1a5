//! Everything that knows PostgreSQL: the one door to the database, quoting,
//! LSNs, versions, catalog queries.

mod door;

pub use door::{Door, Purpose, Session};
