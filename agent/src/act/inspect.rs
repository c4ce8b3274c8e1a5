//! *inspect*: whether a server can take its part in a migration.
//!
//! Reads settings and catalogs, changes nothing. The result is data: findings, each with the statement that
//! corrects it. A question that could not be answered is a finding too, and never a pass.
//!
//! Every question is one small function in one of the tables below.

mod defect;
mod destination;
mod disk;
mod examination;
mod finding;
mod identity;
mod inventory;
mod left_out;
mod leftover;
mod message;
mod plan_material;
mod privilege;
mod program;
mod source;
mod traffic;
mod trigger;
mod way_back;

use pgportage_link::{Effect, Failure};
use pgportage_postgres::{Purpose, quote_ident, quote_literal};
use pgportage_proto::{ActKind, Reason, Side, v1};
use pgportage_report::finding::Severity;
use pgportage_report::inventory::Inventory;
use pgportage_report::progress::Progress;

use crate::act::{Act, Context, Produced, Survey};
use examination::{Check, Examination, answer};
use finding::apply_consents;

pub use finding::{Consent, Finding};
pub use left_out::not_replicated;

/// Asks whether a server can take the given part in a migration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckServer {
    /// Destination: the inventory of the source.
    pub source: Option<Inventory>,
    /// What the operator has agreed to.
    pub consents: Vec<Consent>,
    /// Whether the migration is to have a way back.
    pub way_back: bool,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckServerResult {
    /// What the server and the database are and hold.
    pub inventory: Inventory,
    /// The findings, worst first. Includes those that the operator agreed to.
    pub findings: Vec<Finding>,
}

/// Questions to a publisher: the source's, and for the way back the
/// destination's.
const PUBLISHER: &[Check] = &[
    Check("wal_level", |x| Box::pin(source::wal_level(x))),
    Check("free replication slots", |x| Box::pin(source::slots(x))),
    Check("free WAL senders", |x| Box::pin(source::senders(x))),
    Check("synchronous_standby_names", |x| Box::pin(source::synchronous_standby(x))),
    Check("max_slot_wal_keep_size", |x| Box::pin(source::slot_size(x))),
    Check("idle_replication_slot_timeout", |x| Box::pin(source::slot_idle_timeout(x))),
    Check("output_plugin_libraries", |x| Box::pin(source::output_plugin(x))),
];

/// Questions to a subscriber: the destination's, and for the way back the source's.
const SUBSCRIBER: &[Check] = &[
    Check("replication workers", |x| Box::pin(destination::workers(x))),
    Check("replication origins", |x| Box::pin(destination::origins(x))),
];

/// What only the way back asks of the source.
const SOURCE_WAY_BACK: &[Check] = &[
    Check("policy of the way back", |x| Box::pin(way_back::policy(x))),
    Check("privileges to subscribe", |x| Box::pin(way_back::privileges(x))),
];

/// What only the way back asks of the destination.
const DESTINATION_WAY_BACK: &[Check] = &[
    Check("policy of the way back", |x| Box::pin(way_back::policy(x))),
    Check("privileges to publish", |x| Box::pin(privilege::publisher(x))),
];

/// Questions to the source's server.
const SOURCE_SERVER: &[Check] = &[
    Check("server version", |x| Box::pin(defect::version(x))),
    Check("known defects", |x| Box::pin(defect::known(x))),
    Check("recovery", |x| Box::pin(source::recovery(x))),
    Check("time limits", |x| Box::pin(source::time_limits(x))),
    Check("lock table", |x| Box::pin(source::locks(x))),
    Check("prepared transactions", |x| Box::pin(traffic::prepared(x))),
    Check("long transactions", |x| Box::pin(traffic::long(x))),
    Check("superuser sessions", |x| Box::pin(traffic::superusers(x))),
    Check("slots of others", |x| Box::pin(left_out::slots(x))),
    Check("slots left behind", |x| Box::pin(leftover::slots(x))),
    Check("free disk", |x| Box::pin(disk::of_wal(x))),
    Check("pg_dump", |x| Box::pin(program::dump(x))),
];

/// Questions to the database on the source.
const SOURCE_DATABASE: &[Check] = &[
    Check("subscriptions", |x| Box::pin(source::subscribes(x))),
    Check("privileges", |x| Box::pin(privilege::source(x))),
    Check("replica identities", |x| Box::pin(identity::findings(x))),
    Check("triggers", |x| Box::pin(trigger::firing_on_apply(x))),
    Check("row-level security", |x| Box::pin(privilege::row_security(x))),
    Check("sequences", |x| Box::pin(left_out::sequences(x))),
    Check("large objects", |x| Box::pin(left_out::large_objects(x))),
    Check("unlogged tables", |x| Box::pin(left_out::unlogged(x))),
    Check("foreign tables", |x| Box::pin(left_out::foreign(x))),
    Check("materialized views", |x| Box::pin(left_out::materialized_views(x))),
    Check("tables of extensions", |x| Box::pin(left_out::extension_tables(x))),
    Check("publications", |x| Box::pin(left_out::publications(x))),
    Check("settings of the database", |x| Box::pin(left_out::settings(x))),
    Check("tablespaces", |x| Box::pin(left_out::tablespaces(x))),
    Check("invalid indexes", |x| Box::pin(left_out::invalid_indexes(x))),
    Check("objects left behind", |x| Box::pin(leftover::in_database(x))),
];

/// Questions to the destination's server.
const DESTINATION_SERVER: &[Check] = &[
    Check("server version", |x| Box::pin(defect::version(x))),
    Check("known defects", |x| Box::pin(defect::known(x))),
    Check("recovery", |x| Box::pin(source::recovery(x))),
    Check("system identifier", |x| Box::pin(destination::same_server(x))),
    Check("lock table", |x| Box::pin(destination::locks(x))),
    Check("roles", |x| Box::pin(destination::roles(x))),
    Check("free disk", |x| Box::pin(disk::of_data(x))),
    Check("pg_restore", |x| Box::pin(program::restore(x))),
];

/// Questions to the database on the destination.
const DESTINATION_DATABASE: &[Check] = &[
    Check("privileges", |x| Box::pin(privilege::destination(x))),
    Check("encoding and collation", |x| Box::pin(destination::locale(x))),
    Check("extensions", |x| Box::pin(destination::extensions(x))),
    Check("objects", |x| Box::pin(destination::empty(x))),
    Check("objects left behind", |x| Box::pin(leftover::in_database(x))),
];

impl Act for CheckServer {
    const KIND: ActKind = ActKind::CheckServer;
    const JOINS: bool = false;
    type Message = v1::CheckServer;
    type Output = CheckServerResult;

    fn decode(message: v1::CheckServer) -> Result<Self, Failure> {
        message::decode(message)
    }

    fn encode(output: CheckServerResult) -> Produced {
        Produced::CheckServer(message::encode(output))
    }

    /// Always ready: an earlier look says nothing about the present.
    async fn survey(&self, _cx: &Context) -> Result<Survey<CheckServerResult>, Failure> {
        Ok(Survey::Ready)
    }

    async fn perform(&self, cx: &Context) -> Result<CheckServerResult, Failure> {
        let participation = &cx.participation;
        let side = participation.side;
        let server = cx.door.open(&cx.settings.postgres.maintenance_database, Purpose::Control).await?;
        let session = match cx.door.open(&participation.database, Purpose::Control).await {
            Ok(session) => Some(session),
            Err(failure) if failure.reason == Reason::DatabaseMissing && side == Side::Destination => None,
            Err(failure) => return Err(failure),
        };
        let mut inventory = inventory::take(&server, session.as_ref(), &participation.database).await?;
        inventory.pg_dump_version_num = match side {
            Side::Source => program::dump_version(&cx.settings, cx.tasks.clock, server.version).await,
            Side::Destination => 0,
        };
        let examination = Examination {
            side,
            migration: &participation.migration,
            database: &participation.database,
            server: &server,
            session: session.as_ref(),
            inventory: &inventory,
            source: self.source.as_ref(),
            handles: &cx.handles,
        };
        let (server_checks, role_checks, database_checks, way_back_checks) = match side {
            Side::Source => (SOURCE_SERVER, PUBLISHER, SOURCE_DATABASE, [SOURCE_WAY_BACK, SUBSCRIBER]),
            Side::Destination => {
                (DESTINATION_SERVER, SUBSCRIBER, DESTINATION_DATABASE, [DESTINATION_WAY_BACK, PUBLISHER])
            }
        };
        let mut checks = vec![server_checks, role_checks];
        checks.extend(session.is_some().then_some(database_checks));
        checks.extend(way_back_checks.into_iter().filter(|_| self.way_back));
        let mut findings = Vec::new();
        if side == Side::Destination && self.source.is_none() {
            return Err(Failure::new(Reason::RequestInvalid, "field `source` is missing").effect(Effect::None));
        }
        for check in checks.into_iter().flatten() {
            cx.safe_point()?;
            cx.report(Progress { subject: check.0.to_owned(), ..Progress::default() });
            findings.extend(answer(check, &examination).await?);
        }
        if session.is_none() {
            findings.push(database_missing(&participation.database, self.source.as_ref()));
        }
        let identity_full_tables = identity::agreed_tables(&examination, &findings, &self.consents).await?;
        apply_consents(&mut findings, &self.consents);
        findings.sort_by(|one, other| {
            (one.severity, one.code, &one.object).cmp(&(other.severity, other.code, &other.object))
        });
        inventory.identity_full_tables = identity_full_tables;
        inventory.plan_material = match session.as_ref() {
            Some(session) => Some(Box::new(Box::pin(plan_material::read(cx, session)).await?)),
            None => None,
        };
        Ok(CheckServerResult { inventory, findings })
    }

    /// It changed nothing, so there is nothing to take back.
    async fn undo(&self, _cx: &Context) -> Result<(), Failure> {
        Ok(())
    }
}

/// The finding, with the statement that makes the database like the source's.
fn database_missing(database: &str, source: Option<&Inventory>) -> Finding {
    let encoding = source.map(|source| format!(" ENCODING {}", quote_literal(&source.encoding))).unwrap_or_default();
    Finding::new(
        Reason::DatabaseMissing,
        Severity::Refuse,
        quote_ident(database),
        "the database does not exist on the destination",
    )
    .remedy(format!("CREATE DATABASE {} TEMPLATE template0{encoding}", quote_ident(database)))
}
