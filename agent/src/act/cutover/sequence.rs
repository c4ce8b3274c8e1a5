//! Reading the source's sequences and setting the destination's.

use pgportage_link::Failure;
use pgportage_postgres::catalog::{SequencePosition, SequenceState, Sequences};
use pgportage_postgres::sql_failure;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::seeded::{self, Bug};

/// The position of every sequence of the database.
pub(super) async fn positions(client: &Client, sequences: &Sequences) -> Result<Vec<SequencePosition>, Failure> {
    let position = |state: SequenceState| {
        let SequenceState { name, last_value, called, .. } = state;
        SequencePosition { name, last_value, called }
    };
    Ok(sequences.read(client).await?.into_iter().map(position).collect())
}

/// One call for all sequences. `setval` takes absolute values, so doing it twice does no harm.
const SET_ALL: &str = "\
SELECT count(setval(format('%I.%I', s.schema_name, s.sequence_name)::regclass, s.last_value, s.called))
FROM unnest($1::text[], $2::text[], $3::int8[], $4::bool[])
     AS s (schema_name, sequence_name, last_value, called)";

/// Sets every sequence to the source's position.
///
/// No cushion is added. The last reading is made when no application is left on the source, and a value
/// that a session had cached there lies below its sequence's `last_value`.
pub(super) async fn set_all(client: &Client, sequences: &[SequencePosition]) -> Result<(), Failure> {
    if Bug::SequencesByMax.is_seeded() {
        return seeded::set_by_max(client).await;
    }
    if sequences.is_empty() {
        return Ok(());
    }
    let schemas: Vec<&str> = sequences.iter().map(|state| state.name.schema.as_str()).collect();
    let names: Vec<&str> = sequences.iter().map(|state| state.name.relation.as_str()).collect();
    let values: Vec<i64> = sequences.iter().map(|state| state.last_value).collect();
    let called: Vec<bool> = sequences.iter().map(|state| state.called).collect();
    client
        .query_typed(
            SET_ALL,
            &[
                (&schemas, Type::TEXT_ARRAY),
                (&names, Type::TEXT_ARRAY),
                (&values, Type::INT8_ARRAY),
                (&called, Type::BOOL_ARRAY),
            ],
        )
        .await
        .map_err(|error| sql_failure(error, "set the sequences"))?;
    Ok(())
}
