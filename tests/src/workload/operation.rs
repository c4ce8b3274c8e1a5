//! The kinds of write.

use rand::Rng;
use rand::seq::SliceRandom;
use tokio_postgres::{Client, Error, Statement, Transaction};

use crate::ledger::{Effect, End, Read};

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
    /// An entry at the end of a list that every writer appends to.
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
    /// Rows below savepoints, each kept or rolled back.
    Nested { kept: Vec<bool> },
    /// Numbers that nothing stores, and a register, so that the commit waits for
    /// the disk.
    Ticket,
    /// A row in each of a few tables, in this order.
    Spread { tables: Vec<u32> },
    /// A look at what this writer has left, and at a sum that never changes.
    Recall { tokens: Vec<i64> },
}

/// What the server said while an operation ran.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    /// The id of the row.
    id: Option<i64>,
    /// Numbers of sequences.
    numbers: Vec<(&'static str, i64)>,
    /// What was seen.
    pub(super) reads: Vec<Read>,
}

impl Told {
    fn id(id: i64) -> Self {
        Self { id: Some(id), ..Self::default() }
    }
}

const SET_REGISTER: &str = "INSERT INTO registers (writer, value) VALUES ($1, $2)
    ON CONFLICT (writer) DO UPDATE SET value = excluded.value";

/// What is in the bank at any moment.
const MONEY: i64 = 50_000;

#[derive(Clone, Copy, Debug)]
enum Table {
    Orders,
    Items,
    Products,
}

impl Operation {
    /// One of any kind. `recent`: tokens of events that this writer knows of.
    pub(super) fn choose(random: &mut impl Rng, writer: u32, token: i64, end: End, recent: &[i64]) -> Self {
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
                // with sessions that lock tables.
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
            923..935 => Kind::Nested { kept: (0..random.random_range(2..8)).map(|_| random.random()).collect() },
            935..960 => Kind::Ticket,
            960..980 => Kind::Recall { tokens: recent.to_vec() },
            _ => Kind::Reading { sensor: random.random_range(0..100) },
        };
        Self { token, writer: i32::try_from(writer).unwrap_or(i32::MAX), end, kind }
    }

    /// A row whose id the server chooses.
    pub(super) fn event(writer: u32, token: i64, end: End) -> Self {
        Self { token, writer: i32::try_from(writer).unwrap_or(i32::MAX), end, kind: Kind::Event }
    }

    /// Rows in three of so many tables, in any order.
    pub(super) fn spread(random: &mut impl Rng, writer: u32, token: i64, end: End, tables: u32) -> Self {
        let mut all: Vec<u32> = (0..tables).collect();
        let (chosen, _) = all.partial_shuffle(random, 3);
        let kind = Kind::Spread { tables: chosen.to_vec() };
        Self { token, writer: i32::try_from(writer).unwrap_or(i32::MAX), end, kind }
    }

    /// Whose event it is, if it is one.
    pub(super) fn event_token(&self) -> Option<i64> {
        matches!(self.kind, Kind::Event).then_some(self.token)
    }

    /// Runs an event in a transaction of its own.
    pub(super) async fn run_event(&self, client: &Client, insert: &Statement) -> Result<Told, Error> {
        Ok(Told::id(client.query_one(insert, &[&self.token, &self.end.as_str()]).await?.try_get(0)?))
    }

    pub(super) async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Told, Error> {
        let (token, writer, end) = (&self.token, &self.writer, &self.end.as_str());
        match &self.kind {
            Kind::Event => {
                return Ok(Told::id(transaction.query_one(INSERT_EVENT, &[token, end]).await?.try_get(0)?));
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
            Kind::Order { lines, tables } => return self.order(transaction, lines, tables).await.map(Told::id),
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
                transaction.execute(SET_REGISTER, &[writer, token]).await?;
            }
            Kind::Ticket => {
                const TAKE: &str = "SELECT nextval('tickets'), nextval('countdown')";
                let row = transaction.query_one(TAKE, &[]).await?;
                transaction.execute(SET_REGISTER, &[writer, token]).await?;
                let numbers = vec![("tickets", row.try_get(0)?), ("countdown", row.try_get(1)?)];
                return Ok(Told { numbers, ..Told::default() });
            }
            Kind::Nested { kept } => {
                const INSERT: &str = "INSERT INTO nested (token, line, written_on, kept) VALUES ($1, $2, $3, $4)";
                for (line, kept) in (0_i32..).zip(kept) {
                    let savepoint = transaction.transaction().await?;
                    savepoint.execute(INSERT, &[token, &line, end, kept]).await?;
                    if *kept { savepoint.commit().await? } else { savepoint.rollback().await? }
                }
            }
            Kind::Spread { tables } => {
                let row = format!("(token, written_on) VALUES ({token}, '{end}')");
                let inserts: Vec<_> = tables.iter().map(|table| format!("INSERT INTO spread_{table} {row}")).collect();
                transaction.batch_execute(&inserts.join("; ")).await?;
            }
            Kind::Recall { tokens } => return self.recall(transaction, tokens).await,
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
        Ok(Told::default())
    }

    async fn recall(&self, transaction: &Transaction<'_>, tokens: &[i64]) -> Result<Told, Error> {
        const EVENTS: &str = "SELECT token, EXISTS (SELECT FROM events WHERE events.token = sought.token)
            FROM unnest($1::bigint[]) AS sought (token)";
        const BANK: &str = "SELECT sum(balance)::bigint FROM accounts";
        const REGISTERS: [(&str, &str); 3] = [
            ("title", "SELECT title FROM titles WHERE writer = $1 AND md5(body) = digest"),
            ("register", "SELECT value FROM registers WHERE writer = $1"),
            ("slot", "SELECT value FROM slots WHERE writer = $1"),
        ];
        let mut reads = Vec::new();
        for row in transaction.query(EVENTS, &[&tokens]).await? {
            reads.push(Read::Member { set: "events".to_owned(), token: row.try_get(0)?, found: row.try_get(1)? });
        }
        for (name, query) in REGISTERS {
            let row = transaction.query_opt(query, &[&self.writer]).await?;
            let value = row.map(|row| row.try_get(0)).transpose()?;
            reads.push(Read::Register { register: format!("{name} {}", self.writer), value });
        }
        let found = transaction.query_one(BANK, &[]).await?.try_get(0)?;
        reads.push(Read::Sum { name: "money in the bank".to_owned(), found, expected: MONEY });
        Ok(Told { reads, ..Told::default() })
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
    pub(super) fn effects(&self, told: &Told) -> Vec<Effect> {
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
            Kind::Register | Kind::Ticket => vec![assign("register", Some(token))],
            Kind::Slot { present } => vec![assign("slot", present.then_some(token))],
            Kind::Bulk { rows } => vec![member("bulk", i64::from(*rows))],
            Kind::Reading { .. } => vec![member("readings", 1)],
            Kind::Nested { kept } => match kept.iter().filter(|kept| **kept).count() {
                0 => Vec::new(),
                count => vec![member("nested", i64::try_from(count).unwrap_or(i64::MAX))],
            },
            Kind::Spread { tables } => tables.iter().map(|table| member(&format!("spread {table}"), 1)).collect(),
            Kind::Recall { .. } => Vec::new(),
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
            | Kind::Reading { .. }
            | Kind::Nested { .. }
            | Kind::Ticket
            | Kind::Spread { .. }
            | Kind::Recall { .. } => None,
        };
        if let (Some(set), Some(id)) = (numbered, told.id) {
            effects.push(Effect::Identity { set: set.to_owned(), token, id });
        }
        let number =
            |(sequence, value): &(&str, i64)| Effect::Number { sequence: (*sequence).to_owned(), value: *value };
        effects.extend(told.numbers.iter().map(number));
        effects
    }
}
