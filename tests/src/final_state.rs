//! Reads what is in a database after a migration.

use anyhow::{Result, ensure};
use tokio_postgres::Client;

use crate::checker::{FinalState, Sum};

/// Set, token, copies. A document whose body does not match its digest does not
/// count, so that a mangled value is seen as a loss.
const MEMBERS: &str = "
SELECT 'events', token, count(*) FROM events WHERE token > 0 GROUP BY token
UNION ALL SELECT 'list ' || id, entry, count(*) FROM lists, unnest(entries) entry GROUP BY id, entry
UNION ALL SELECT 'transfers', token, 1 FROM transfers
UNION ALL SELECT 'orders', token, 1 FROM orders
UNION ALL SELECT 'items', token, count(*) FROM items GROUP BY token
UNION ALL SELECT 'documents', token, 1 FROM documents WHERE token > 0 AND md5(body) = digest
UNION ALL SELECT 'bulk', token, count(*) FROM bulk GROUP BY token
UNION ALL SELECT CASE WHEN kept THEN 'nested' ELSE 'rolled back' END, token, count(*) FROM nested GROUP BY kept, token
UNION ALL SELECT 'readings', token, count(*) FROM readings GROUP BY token";

/// Set, token, id.
const IDENTITIES: &str = "
SELECT 'events', token, id FROM events WHERE token > 0
UNION ALL SELECT 'orders', token, id FROM orders";

/// List, entries in order.
const LISTS: &str = "SELECT 'list ' || id, entries FROM lists";

/// Register, value.
const REGISTERS: &str = "
SELECT 'title ' || writer, title FROM titles WHERE md5(body) = digest
UNION ALL SELECT 'register ' || writer, value FROM registers
UNION ALL SELECT 'slot ' || writer, value FROM slots";

/// Name, found, expected.
const SUMS: &str = "
SELECT 'money in the bank', (SELECT sum(balance)::bigint FROM accounts), 50000::bigint
UNION ALL SELECT 'balances against transfers',
    (SELECT sum(abs(balance - 1000 - moved))::bigint FROM (
        SELECT balance,
            coalesce((SELECT sum(amount) FROM transfers WHERE creditor = accounts.id), 0)
            - coalesce((SELECT sum(amount) FROM transfers WHERE debtor = accounts.id), 0) AS moved
        FROM accounts) per_account), 0
UNION ALL SELECT 'products sold', (SELECT sum(sold)::bigint FROM products),
    (SELECT coalesce(sum(quantity), 0)::bigint FROM items)";

/// Reads everything that the checker asks about.
pub async fn read(client: &Client) -> Result<FinalState> {
    let mut state = FinalState::default();
    for row in client.query(MEMBERS, &[]).await? {
        state.members.entry(row.try_get(0)?).or_default().insert(row.try_get(1)?, row.try_get(2)?);
    }
    for row in client.query(IDENTITIES, &[]).await? {
        state.identities.entry(row.try_get(0)?).or_default().insert(row.try_get(1)?, row.try_get(2)?);
    }
    for row in client.query(LISTS, &[]).await? {
        state.lists.insert(row.try_get(0)?, row.try_get(1)?);
    }
    for row in client.query(REGISTERS, &[]).await? {
        state.registers.insert(row.try_get(0)?, row.try_get(1)?);
    }
    for row in client.query(SUMS, &[]).await? {
        state.sums.push(Sum { name: row.try_get(0)?, found: row.try_get(1)?, expected: row.try_get(2)? });
    }
    Ok(state)
}

/// Reads the tables that writers spread their rows over, and nothing else.
pub async fn read_spread(client: &Client, tables: u32) -> Result<FinalState> {
    let mut state = FinalState::default();
    for table in 0..tables {
        let query = format!("SELECT token, count(*) FROM spread_{table} GROUP BY token");
        let members = state.members.entry(format!("spread {table}")).or_default();
        for row in client.query(&query, &[]).await? {
            members.insert(row.try_get(0)?, row.try_get(1)?);
        }
    }
    Ok(state)
}

/// Tables whose rows are never changed once written, with the condition that
/// picks the rows the source wrote.
const COMPARED: &[(&str, &str)] = &[
    ("events", "written_on <> 'destination'"),
    ("transfers", "written_on <> 'destination'"),
    ("orders", "written_on <> 'destination'"),
    ("items", "written_on <> 'destination'"),
    ("documents", "written_on <> 'destination'"),
    ("bulk", "written_on <> 'destination'"),
    ("nested", "written_on <> 'destination'"),
    ("readings", "written_on <> 'destination'"),
    ("oddities", "true"),
];

/// Count and order-independent checksum of a table on one side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableDigest {
    /// The table.
    pub table: String,
    /// Its rows.
    pub rows: i64,
    /// Sum over a hash of each row.
    pub checksum: String,
}

/// So that equal values read the same on both sides.
const SAME_TEXT: &str = "
SET extra_float_digits = 3; SET TimeZone = 'UTC'; SET DateStyle = 'ISO, MDY';
SET IntervalStyle = 'postgres'; SET bytea_output = 'hex'";

/// Digests of every compared table: what the source wrote, on either side.
pub async fn digests(client: &Client) -> Result<Vec<TableDigest>> {
    client.batch_execute(SAME_TEXT).await?;
    let mut digests = Vec::new();
    for (table, condition) in COMPARED {
        let query = format!(
            "SELECT count(*), coalesce(sum(('x' || left(md5(t::text), 15))::bit(60)::bigint), 0)::text
             FROM {table} t WHERE {condition}"
        );
        let row = client.query_one(&query, &[]).await?;
        digests.push(TableDigest { table: (*table).to_owned(), rows: row.try_get(0)?, checksum: row.try_get(1)? });
    }
    Ok(digests)
}

/// Compares what the source wrote on both sides and returns the rows compared.
///
/// # Errors
///
/// When a table differs; the error names every one.
pub async fn compare(source: &Client, destination: &Client) -> Result<i64> {
    let (source, destination) = (digests(source).await?, digests(destination).await?);
    let differing: Vec<_> = source.iter().zip(&destination).filter(|(left, right)| left != right).collect();
    ensure!(differing.is_empty(), "tables differ (source, destination): {differing:#?}");
    Ok(source.iter().map(|digest| digest.rows).sum())
}

/// Every table of the workload, with a checksum over all of its rows.
const WHOLE: &str = "
SELECT c.relname::text FROM pg_class c
WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace
ORDER BY 1";

/// Compares every table whole and returns the rows compared.
///
/// # Errors
///
/// When a table differs; the error names every one.
pub async fn compare_whole(source: &Client, destination: &Client) -> Result<i64> {
    let (source, destination) = (whole(source).await?, whole(destination).await?);
    let differing: Vec<_> = source.iter().zip(&destination).filter(|(left, right)| left != right).collect();
    ensure!(differing.is_empty(), "tables differ (source, destination): {differing:#?}");
    ensure!(!source.is_empty() && source.len() == destination.len(), "the sides have different tables");
    Ok(source.iter().map(|digest| digest.rows).sum())
}

async fn whole(client: &Client) -> Result<Vec<TableDigest>> {
    client.batch_execute(SAME_TEXT).await?;
    let mut digests = Vec::new();
    for table in client.query(WHOLE, &[]).await? {
        let table: String = table.try_get(0)?;
        let query = format!(
            "SELECT count(*), coalesce(sum(('x' || left(md5(t::text), 15))::bit(60)::bigint), 0)::text
             FROM ONLY public.\"{table}\" t"
        );
        let row = client.query_one(&query, &[]).await?;
        digests.push(TableDigest { table, rows: row.try_get(0)?, checksum: row.try_get(1)? });
    }
    Ok(digests)
}
