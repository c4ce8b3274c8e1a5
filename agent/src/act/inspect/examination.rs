//! The material that every question works with, and the finding for a question that fails.

use futures_util::future::BoxFuture;
use pgportage_link::Failure;
use pgportage_postgres::{Session, sql_failure};
use pgportage_proto::{MigrationId, Reason, Side};
use pgportage_report::finding::Severity;
use pgportage_report::inventory::Inventory;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};

use super::Finding;
use crate::act::Handles;

pub(super) struct Examination<'a> {
    pub(super) side: Side,
    pub(super) migration: &'a MigrationId,
    pub(super) database: &'a str,
    /// A session in the maintenance database.
    pub(super) server: &'a Session,
    /// A session in the database that moves. Absent while the destination has none.
    pub(super) session: Option<&'a Session>,
    pub(super) inventory: &'a Inventory,
    /// Destination: the inventory of the source.
    pub(super) source: Option<&'a Inventory>,
    pub(super) handles: &'a Handles,
}

type Question = for<'a> fn(&'a Examination<'a>) -> BoxFuture<'a, Result<Vec<Finding>, Failure>>;

/// One question: its subject, for operators, and the function that answers it.
pub(super) struct Check(pub(super) &'static str, pub(super) Question);

/// Asks one question. A question that cannot be answered becomes a finding.
///
/// # Errors
///
/// Only when the server is gone: then no question can be answered.
pub(super) async fn answer(check: &Check, examination: &Examination<'_>) -> Result<Vec<Finding>, Failure> {
    match check.1(examination).await {
        Ok(findings) => Ok(findings),
        Err(failure) if failure.reason == Reason::ServerUnreachable => Err(failure),
        Err(failure) => Ok(vec![could_not_check(check.0, &failure)]),
    }
}

fn could_not_check(subject: &str, failure: &Failure) -> Finding {
    Finding::new(Reason::CouldNotCheck, Severity::Refuse, subject, format!("could not check: {}", failure.message))
        .evidence([failure.sqlstate.as_deref().unwrap_or_default(), &failure.detail].join(" ").trim().to_owned())
        .remedy(failure.hint.clone())
}

impl<'a> Examination<'a> {
    /// The session in the database that moves.
    pub(super) fn in_database(&self) -> Result<&'a Session, Failure> {
        self.session.ok_or_else(|| Failure::new(Reason::DatabaseMissing, "the database does not exist"))
    }

    pub(super) async fn setting(&self, name: &str) -> Result<Option<String>, Failure> {
        let row = one(self.server, "SELECT current_setting($1, true)", &[&name]).await?;
        Ok(row.get(0))
    }

    /// A setting that is a plain number. Zero when this version does not know it.
    pub(super) async fn number(&self, name: &str) -> Result<i64, Failure> {
        let text = self.setting(name).await?.unwrap_or_else(|| "0".to_owned());
        text.parse().map_err(|_| Failure::new(Reason::CouldNotCheck, format!("{name} is {text:?}, not a number")))
    }

    pub(super) fn major(&self) -> i32 {
        self.server.version.major()
    }
}

type Parameters<'a> = [&'a (dyn ToSql + Sync)];

/// Runs a query that gives one row.
pub(super) async fn one(client: &Client, query: &str, parameters: &Parameters<'_>) -> Result<Row, Failure> {
    client.query_one(query, parameters).await.map_err(|error| sql_failure(error, "read the catalog"))
}

/// Runs a query and makes a finding of each row.
pub(super) async fn each(
    client: &Client,
    query: &str,
    parameters: &Parameters<'_>,
    finding: impl Fn(&Row) -> Finding,
) -> Result<Vec<Finding>, Failure> {
    let rows = client.query(query, parameters).await.map_err(|error| sql_failure(error, "read the catalog"))?;
    Ok(rows.iter().map(finding).collect())
}
