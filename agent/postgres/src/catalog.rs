//! What the catalogs say, in the same words for every version from 14 on.

mod definition;
mod fingerprint;
mod object;
mod queries;
mod sequence;
mod table;

pub use fingerprint::fingerprint;
pub use object::{SchemaObject, catalog_digest, digest_of, schema_objects};
pub use sequence::{SequencePosition, SequenceState, Sequences, sequences};
pub use table::{published_tables, user_tables};

/// A relation (`c` in `pg_class`, `n` its schema) is the user's: not of the system, not temporary, not
/// ours, not a member of an extension. `concat!`-ed into the queries, so that all of them mean the same.
#[macro_export]
macro_rules! user_relation {
    () => {
        "n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'pgportage')
         AND n.nspname !~ '^pg_(toast_)?temp_'
         AND c.relpersistence <> 't'
         AND NOT EXISTS (SELECT FROM pg_depend AS member
                          WHERE member.classid = 'pg_class'::regclass AND member.objid = c.oid
                            AND member.deptype = 'e')"
    };
}
pub use crate::user_relation;
