//! *certify*: this agent states and signs what it did and saw of a switchover.
//!
//! Class: no effect on any server. It runs after the decision and outside the outage; a failure here delays
//! no other act. The statement is made of what the journal holds of the switchover, with the answers as
//! this agent gave them, and of the two durable rows: the fence on the side that was left, the decision on
//! the side that was entered. So an agent that was killed in between states the same.
//!
//! **Invariant:** the agent states nothing only because the coordinator said so. A value that the
//! coordinator sent is stated as what this agent did with it: the marker that it saw, the values that it
//! set sequences to.

mod record;

use std::time::{Duration, SystemTime};

use pgportage_certificate::{
    Account, Comparison, Direction, Entered, FORMAT, Left, Listing, Moment, Phase, Rows, Sequence, Server,
    SignedStatement, Statement, TableSet, Verification, Written, hex,
};
use pgportage_link::identity::Role;
use pgportage_link::{Effect, Failure, Remedy};
use pgportage_postgres::{Purpose, RelationName, sql_failure};
use pgportage_proto::{ActKind, Reason, Side, v1};
use tokio_postgres::Client;
use uuid::Uuid;

use crate::act::cutover::{
    DrainToMarkerResult, FenceSourceResult, PrepareCutoverResult, RaiseBarrierResult, ReleaseBarrierResult, Switch,
    WrittenRows,
};
use crate::act::way_back::beginning;
use crate::act::{Act, Context, Produced, Survey};
use pgportage_postgres::catalog::SequencePosition;

const SERVER: &str = "\
SELECT system_identifier::text, current_setting('server_version_num')::int FROM pg_control_system()";

const FENCED: &str = "SELECT 1 FROM pgportage.fence WHERE cutover_epoch = $1";

/// The moment at which the commit of the decision was asked for, in microseconds since 1970. The decision's
/// own row is written earlier, while the other side is still being fenced. The row in the ledger is written
/// after the proof of the fence, in one packet with COMMIT, and is there if the decision is. The last such
/// row counts, because the decision that stands is the last one.
const DECIDED: &str = "\
SELECT (extract(epoch FROM max(l.record_time)) * 1000000)::int8
FROM pgportage.decision d, pgportage.ledger l
WHERE d.id = 1 AND d.state = 'opened' AND d.opened_epoch = $1
  AND l.action = 'open_destination' AND l.verb = 'perform' AND l.result IS NOT NULL";

/// States what this side saw of a switchover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CertifySwitch {
    /// Epoch of the switchover.
    pub cutover_epoch: i64,
    /// Whether it is a cutover or a rollback.
    pub switch: Switch,
}

/// The statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertifySwitchResult {
    /// Signed with the key of this agent's certificate.
    pub signed: SignedStatement,
}

/// What the journal holds of a switchover, and of the last verification.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SwitchRecord {
    /// P0.
    pub prepared: Option<Done<PrepareCutoverResult>>,
    /// P1 and P2.
    pub raised: Option<Done<RaiseBarrierResult>>,
    /// P3, with the marker that was waited for and seen.
    pub drained: Option<Done<(Uuid, DrainToMarkerResult)>>,
    /// P4.
    pub fenced: Option<Done<FenceSourceResult>>,
    /// P6: the values that the sequences were set to. Where no answer was recorded, its end is its
    /// beginning.
    pub opening: Option<Done<Vec<SequencePosition>>>,
    /// P7.
    pub released: Option<Done<ReleaseBarrierResult>>,
    /// The last count of every table.
    pub counted: Option<Counted>,
    /// The last comparison of rows.
    pub compared: Option<Compared>,
}

/// An act that was carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done<T> {
    /// When this agent began it.
    pub begin: SystemTime,
    /// When it was done.
    pub end: SystemTime,
    /// The answer, or the input where that says more.
    pub what: T,
}

/// A count of rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted {
    /// When it was done.
    pub time: SystemTime,
    /// Each table with its rows.
    pub tables: Vec<(RelationName, i64)>,
}

/// A comparison of rows with those of the other side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compared {
    /// When it was done.
    pub time: SystemTime,
    /// Whether every table was compared to its end.
    pub complete: bool,
    /// Rows that differ.
    pub difference_count: i64,
    /// Rows that changed at every look, so that it is open whether they differ.
    pub unsettled_count: i64,
    /// Each table with its rows and the sum of their hashes.
    pub tables: Vec<(RelationName, i64, Vec<u8>)>,
}

impl Act for CertifySwitch {
    const KIND: ActKind = ActKind::CertifySwitch;
    type Message = v1::CertifySwitch;
    type Output = CertifySwitchResult;

    fn decode(message: v1::CertifySwitch) -> Result<Self, Failure> {
        Ok(Self { cutover_epoch: message.cutover_epoch, switch: Switch::of(message.rollback) })
    }

    fn encode(output: CertifySwitchResult) -> Produced {
        let SignedStatement { statement, scheme, signature, chain } = output.signed;
        let chain = chain.into_iter().map(|certificate| certificate.0).collect();
        let signed = v1::SignedStatement { statement, scheme: u32::from(scheme), signature, chain };
        Produced::CertifySwitch(v1::CertifySwitchResult { signed: Some(signed) })
    }

    /// Stating it again does no harm: both statements are true.
    async fn survey(&self, _cx: &Context) -> Result<Survey<CertifySwitchResult>, Failure> {
        Ok(Survey::Ready)
    }

    async fn perform(&self, cx: &Context) -> Result<CertifySwitchResult, Failure> {
        let history = cx.journal.history(&cx.participation.migration)?;
        let record = record::switch_record(history, &cx.plan_digest, self.cutover_epoch)?;
        let session = cx.door.open(&cx.participation.database, Purpose::Control).await?;
        let told = if cx.participation.side == self.switch.leaves() {
            prove_fenced(&session, self.cutover_epoch).await?;
            told_by_the_left(&record)?
        } else {
            let decision = read_decision(&session, self.cutover_epoch).await?;
            told_by_the_entered(&record, decision)?
        };
        let statement = self.statement(cx, server(&session).await?, told, &record)?;
        cx.fail_point("certify_switch.perform.stated");
        let signed = SignedStatement::sign(&statement, &cx.identity)?;
        Ok(CertifySwitchResult { signed })
    }

    /// A statement stays true, so there is nothing to take back.
    async fn undo(&self, _cx: &Context) -> Result<(), Failure> {
        Ok(())
    }
}

impl CertifySwitch {
    fn statement(&self, cx: &Context, server: Server, told: Told, record: &SwitchRecord) -> Result<Statement, Failure> {
        let participation = &cx.participation;
        let identity = &cx.identity;
        Ok(Statement {
            format: FORMAT,
            migration: participation.migration.to_string(),
            cutover_epoch: self.cutover_epoch,
            direction: match self.switch {
                Switch::Cutover => Direction::Cutover,
                Switch::Rollback => Direction::Rollback,
            },
            database: participation.database.clone(),
            plan_sha256: hex(&cx.plan_digest),
            agent: identity.own().uri,
            peer: identity.id_of(Role::Agent, &participation.peer)?.to_string(),
            server,
            marker_id: told.marker_id.to_string(),
            tables: TableSet {
                count: u64::from(told.prepared.table_count),
                sha256: hex(&told.prepared.table_set_digest),
            },
            catalog_sha256: hex(&told.catalog_digest),
            sequences: listed(&told.sequences),
            phases: told.phases,
            account: told.account,
            verification: verification(record, participation.side),
            statement_time: Moment::from(cx.tasks.clock.wall()),
        })
    }
}

/// The facts of one side for its statement.
#[derive(Debug)]
struct Told {
    marker_id: Uuid,
    prepared: PrepareCutoverResult,
    catalog_digest: Vec<u8>,
    sequences: Vec<SequencePosition>,
    phases: Vec<Phase>,
    account: Account,
}

/// The decision, from its rows on the server.
#[derive(Clone, Debug)]
struct Decision {
    /// When its commit was asked for, on the server's clock.
    time: SystemTime,
    lsn: String,
}

fn told_by_the_left(record: &SwitchRecord) -> Result<Told, Failure> {
    let SwitchRecord { prepared, raised, fenced, released, .. } = record;
    let (Some(prepared), Some(raised), Some(fenced), Some(released)) = (prepared, raised, fenced, released) else {
        return Err(not_recorded());
    };
    Ok(Told {
        marker_id: raised.what.marker_id,
        prepared: prepared.what.clone(),
        catalog_digest: fenced.what.catalog_digest.clone(),
        sequences: fenced.what.sequences.clone(),
        phases: vec![
            phase(ActKind::PrepareCutover, prepared),
            phase(ActKind::RaiseBarrier, raised),
            phase(ActKind::FenceSource, fenced),
            phase(ActKind::ReleaseBarrier, released),
        ],
        account: Account::Left(Left {
            marker_lsn: raised.what.marker_lsn.clone(),
            fence_lsn: fenced.what.fence_lsn.clone(),
            fence_time: Moment::from(fenced.end),
            lock_wait_microseconds: microseconds(raised.what.lock_wait),
            barrier_microseconds: microseconds(released.what.barrier_time),
            cancelled_session_count: raised.what.cancelled_session_count,
            terminated_session_count: fenced.what.terminated_session_count,
        }),
    })
}

fn told_by_the_entered(record: &SwitchRecord, decision: Decision) -> Result<Told, Failure> {
    let SwitchRecord { prepared, drained, opening, .. } = record;
    let (Some(prepared), Some(drained), Some(opening)) = (prepared, drained, opening) else {
        return Err(not_recorded());
    };
    let (marker_id, drain) = &drained.what;
    Ok(Told {
        marker_id: *marker_id,
        prepared: prepared.what.clone(),
        catalog_digest: prepared.what.catalog_digest.clone(),
        sequences: opening.what.clone(),
        phases: vec![
            phase(ActKind::PrepareCutover, prepared),
            phase(ActKind::DrainToMarker, drained),
            phase(ActKind::OpenDestination, opening),
        ],
        account: Account::Entered(Entered {
            flush_lsn: drain.flush_lsn.clone(),
            drain_microseconds: microseconds(drain.drain_time),
            decision_lsn: decision.lsn,
            decision_time: Moment::from(decision.time),
            written: drain.compared.as_ref().map(written),
        }),
    })
}

fn written(compared: &WrittenRows) -> Written {
    Written {
        table_count: compared.table_count,
        row_count: compared.row_count,
        left_out: compared.left_out.iter().map(ToString::to_string).collect(),
        elapsed_microseconds: microseconds(compared.elapsed),
    }
}

/// Rows compared by their hashes say more than their count. Only the destination agent compares them.
fn verification(record: &SwitchRecord, side: Side) -> Option<Verification> {
    let compared = record.compared.as_ref().filter(|_| side == Side::Destination);
    let counted = record.counted.as_ref();
    if let Some(compared) = compared
        && counted.is_none_or(|counted| counted.time <= compared.time)
    {
        let rows = compared.tables.iter().map(|(table, count, digest)| row(table, *count, hex(digest))).collect();
        return Some(Verification {
            time: Moment::from(compared.time),
            row_count: compared.tables.iter().map(|(_, count, _)| count).sum(),
            tables: Listing::of(rows),
            comparison: Some(Comparison {
                complete: compared.complete,
                difference_count: compared.difference_count,
                unsettled_count: compared.unsettled_count,
            }),
        });
    }
    counted.map(|counted| Verification {
        time: Moment::from(counted.time),
        row_count: counted.tables.iter().map(|(_, count)| count).sum(),
        tables: Listing::of(counted.tables.iter().map(|(table, count)| row(table, *count, String::new())).collect()),
        comparison: None,
    })
}

fn row(table: &RelationName, row_count: i64, hash: String) -> Rows {
    Rows { schema: table.schema.clone(), name: table.relation.clone(), row_count, hash }
}

fn listed(sequences: &[SequencePosition]) -> Listing<Sequence> {
    Listing::of(
        sequences
            .iter()
            .map(|position| Sequence {
                schema: position.name.schema.clone(),
                name: position.name.relation.clone(),
                last_value: position.last_value,
                called: position.called,
            })
            .collect(),
    )
}

fn phase<T>(kind: ActKind, done: &Done<T>) -> Phase {
    Phase { name: kind.as_str().to_owned(), begin: Moment::from(done.begin), end: Moment::from(done.end) }
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

async fn server(client: &Client) -> Result<Server, Failure> {
    let row = client.query_one(SERVER, &[]).await.map_err(|error| sql_failure(error, "read what server this is"))?;
    Ok(Server { system_identifier: row.get(0), version_num: row.get(1) })
}

async fn prove_fenced(client: &Client, epoch: i64) -> Result<(), Failure> {
    let fenced = client.query_opt(FENCED, &[&epoch]).await.map_err(|error| sql_failure(error, "read the fence"))?;
    fenced.map(|_| ()).ok_or_else(|| wrong("this side is not fenced by this switchover any more"))
}

async fn read_decision(client: &Client, epoch: i64) -> Result<Decision, Failure> {
    let microseconds: i64 = client
        .query_one(DECIDED, &[&epoch])
        .await
        .map_err(|error| sql_failure(error, "read the decision"))?
        .get::<_, Option<i64>>(0)
        .ok_or_else(|| wrong("this side was not opened by this switchover"))?;
    let time = SystemTime::UNIX_EPOCH + Duration::from_micros(microseconds.unsigned_abs());
    Ok(Decision { time, lsn: beginning(client).await?.to_string() })
}

fn not_recorded() -> Failure {
    wrong("the journal of this agent does not hold all that it did in this switchover")
}

fn wrong(message: &str) -> Failure {
    Failure::new(Reason::WrongState, message)
        .detail("So it states nothing about it.")
        .hint("Nothing is wrong with the switchover itself; its certificate stays incomplete.")
        .remedy(Remedy::Operator)
        .effect(Effect::None)
}

#[cfg(test)]
mod tests;
