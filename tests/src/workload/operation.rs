//! The kinds of write.

use rand::Rng;
use rand::seq::SliceRandom;
use tokio_postgres::{Client, Error, Statement, Transaction};

use crate::ledger::{Effect, End};

/// Returns the id that the server handed out.
pub(super) const INSERT_EVENT: &str =
    "INSERT INTO events (token, written_on, note) VALUES ($1, $2, md5($1::bigint::text)) RETURNING id";

/// One write with all its inputs, so that its effects are known without the
/// database.
#[derive(Clone, Debug)]
pub(super) struct Operation {
    token: i64,
    writer: i32,
    end: End,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    /// A row whose id the server chooses.
    Event,
    /// An entry at the end of a list that everybody appends to.
    Append { list: i32 },
    /// Money from one account to another, and a row that says so.
    Transfer { debtor: i32, creditor: i32, amount: i64 },
    /// Rows in three tables, visited in an order that differs each time.
    Order { lines: Vec<(i32, i64)>, tables: [Table; 3] },
    /// A long value stored out of line.
    Document { length: i32 },
    /// A change beside an out-of-line value that stays.
    Title,
    /// A value over the last one.
    Register,
    /// A row deleted, or made again under the same key.
    Slot { present: bool },
    /// Many rows in one transaction.
    Bulk { rows: i32 },
    /// A row of a partitioned table.
    Reading { sensor: i32 },
}

#[derive(Clone, Copy, Debug)]
enum Table {
    Orders,
    Items,
    Products,
}

impl Operation {
    pub(super) fn choose(random: &mut impl Rng, writer: u32, token: i64, end: End) -> Self {
        let kind = match random.random_range(0..1000) {
            0..250 => Kind::Event,
            250..350 => Kind::Append { list: random.random_range(0..10) },
            350..500 => {
                let debtor = random.random_range(0..50);
                let creditor = (debtor + random.random_range(1..50)) % 50;
                Kind::Transfer { debtor, creditor, amount: random.random_range(1..100) }
            }
            500..650 => {
                let count = random.random_range(1..5);
                // Rows of one table in one order, so that writers do not wait for
                // each other in circles; tables in any order, so that they do
                // with whoever locks tables.
                let mut lines: Vec<_> =
                    (0..count).map(|_| (random.random_range(0..10), random.random_range(1..9))).collect();
                lines.sort_unstable();
                let mut tables = [Table::Orders, Table::Items, Table::Products];
                tables.shuffle(random);
                Kind::Order { lines, tables }
            }
            650..690 => Kind::Document { length: random.random_range(100..2000) },
            690..750 => Kind::Title,
            750..840 => Kind::Register,
            840..920 => Kind::Slot { present: random.random() },
            920..923 => Kind::Bulk { rows: random.random_range(1000..5000) },
            _ => Kind::Reading { sensor: random.random_range(0..100) },
        };
        Self { token, writer: i32::try_from(writer).unwrap_or(i32::MAX), end, kind }
    }

    /// A row whose id the server chooses.
    pub(super) fn event(writer: u32, token: i64, end: End) -> Self {
        Self { token, writer: i32::try_from(writer).unwrap_or(i32::MAX), end, kind: Kind::Event }
    }

    /// Runs an event in a transaction of its own. Returns its id.
    pub(super) async fn run_event(&self, client: &Client, insert: &Statement) -> Result<i64, Error> {
        client.query_one(insert, &[&self.token, &self.end.as_str()]).await?.try_get(0)
    }

    /// Runs the statements. Returns the id that the server handed out, if any.
    pub(super) async fn run(&self, transaction: &Transaction<'_>) -> Result<Option<i64>, Error> {
        let (token, writer, end) = (&self.token, &self.writer, &self.end.as_str());
        match &self.kind {
            Kind::Event => {
                return Ok(Some(transaction.query_one(INSERT_EVENT, &[token, end]).await?.try_get(0)?));
            }
            Kind::Append { list } => {
                const APPEND: &str = "UPDATE lists SET entries = entries || $1::bigint WHERE id = $2";
                transaction.execute(APPEND, &[token, list]).await?;
            }
            Kind::Transfer { debtor, creditor, amount } => {
                const MOVE: &str = "UPDATE accounts SET balance = balance + $1 WHERE id = $2";
                const NOTE: &str = "INSERT INTO transfers (token, written_on, debtor, creditor, amount)
                    VALUES ($1, $2, $3, $4, $5)";
                let mut moves = [(*debtor, -amount), (*creditor, *amount)];
                moves.sort_unstable();
                for (account, amount) in moves {
                    transaction.execute(MOVE, &[&amount, &account]).await?;
                }
                transaction.execute(NOTE, &[token, end, debtor, creditor, amount]).await?;
            }
            Kind::Order { lines, tables } => return self.order(transaction, lines, tables).await.map(Some),
            Kind::Document { length } => {
                const INSERT: &str = "INSERT INTO documents (token, written_on, digest, body)
                    SELECT $1::bigint, $2, md5(body), body FROM repeat(md5($1::bigint::text), $3) body";
                transaction.execute(INSERT, &[token, end, length]).await?;
            }
            Kind::Title => {
                const UPSERT: &str = "INSERT INTO titles (writer, title, digest, body)
                    SELECT $1::integer, $2::bigint, md5(body), body FROM repeat(md5($1::integer::text), 500) body
                    ON CONFLICT (writer) DO UPDATE SET title = excluded.title";
                transaction.execute(UPSERT, &[writer, token]).await?;
            }
            Kind::Register => {
                const UPSERT: &str = "INSERT INTO registers (writer, value) VALUES ($1, $2)
                    ON CONFLICT (writer) DO UPDATE SET value = excluded.value";
                transaction.execute(UPSERT, &[writer, token]).await?;
            }
            Kind::Slot { present } => {
                const DELETE: &str = "DELETE FROM slots WHERE writer = $1";
                const INSERT: &str = "INSERT INTO slots (writer, value) VALUES ($1, $2)";
                transaction.execute(DELETE, &[writer]).await?;
                if *present {
                    transaction.execute(INSERT, &[writer, token]).await?;
                }
            }
            Kind::Bulk { rows } => {
                const INSERT: &str = "INSERT INTO bulk (token, line, written_on, filler)
                    SELECT $1::bigint, line, $2, md5(line::text) FROM generate_series(1, $3) line";
                transaction.execute(INSERT, &[token, end, rows]).await?;
            }
            Kind::Reading { sensor } => {
                const INSERT: &str = "INSERT INTO readings (token, sensor, written_on, value)
                    VALUES ($1, $2, $3, sqrt($1::bigint::double precision))";
                transaction.execute(INSERT, &[token, sensor, end]).await?;
            }
        }
        Ok(None)
    }

    async fn order(
        &self,
        transaction: &Transaction<'_>,
        lines: &[(i32, i64)],
        tables: &[Table; 3],
    ) -> Result<i64, Error> {
        const ORDER: &str = "INSERT INTO orders (token, written_on) VALUES ($1, $2) RETURNING id";
        const ITEM: &str = "INSERT INTO items (token, line, written_on, product, quantity) VALUES ($1, $2, $3, $4, $5)";
        const SELL: &str = "UPDATE products SET sold = sold + $1 WHERE id = $2";
        let end = self.end.as_str();
        let mut id = 0;
        for table in tables {
            match table {
                Table::Orders => id = transaction.query_one(ORDER, &[&self.token, &end]).await?.try_get(0)?,
                Table::Items => {
                    for (line, (product, quantity)) in (0_i32..).zip(lines) {
                        transaction.execute(ITEM, &[&self.token, &line, &end, product, quantity]).await?;
                    }
                }
                Table::Products => {
                    for (product, quantity) in lines {
                        transaction.execute(SELL, &[quantity, product]).await?;
                    }
                }
            }
        }
        Ok(id)
    }

    /// What the write leaves, if it commits.
    pub(super) fn effects(&self, id: Option<i64>) -> Vec<Effect> {
        let token = self.token;
        let member = |set: &str, copies| Effect::Member { set: set.to_owned(), token, copies };
        let assign = |register: &str, value| Effect::Assign { register: format!("{register} {}", self.writer), value };
        let mut effects = match &self.kind {
            Kind::Event => vec![member("events", 1)],
            Kind::Append { list } => vec![member(&format!("list {list}"), 1)],
            Kind::Transfer { .. } => vec![member("transfers", 1)],
            Kind::Order { lines, .. } => {
                vec![member("orders", 1), member("items", i64::try_from(lines.len()).unwrap_or(i64::MAX))]
            }
            Kind::Document { .. } => vec![member("documents", 1)],
            Kind::Title => vec![assign("title", Some(token))],
            Kind::Register => vec![assign("register", Some(token))],
            Kind::Slot { present } => vec![assign("slot", present.then_some(token))],
            Kind::Bulk { rows } => vec![member("bulk", i64::from(*rows))],
            Kind::Reading { .. } => vec![member("readings", 1)],
        };
        let numbered = match &self.kind {
            Kind::Event => Some("events"),
            Kind::Order { .. } => Some("orders"),
            Kind::Append { .. }
            | Kind::Transfer { .. }
            | Kind::Document { .. }
            | Kind::Title
            | Kind::Register
            | Kind::Slot { .. }
            | Kind::Bulk { .. }
            | Kind::Reading { .. } => None,
        };
        if let (Some(set), Some(id)) = (numbered, id) {
            effects.push(Effect::Identity { set: set.to_owned(), token, id });
        }
        effects
    }
}
