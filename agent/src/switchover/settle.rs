//! P6a: how a switchover in doubt is settled, with or without the coordinator.
//!
//! The decision row of the side that is entered is the only truth. Asked about an epoch, the agent of that
//! side answers that it has opened, or raises the lowest epoch that may still open and so promises that
//! this one never will. Only that promise lifts the fence on the side that was left. Without an answer,
//! that side stays fenced.

use pgportage_link::{Effect, Failure, Remedy};
use pgportage_proto::{MigrationId, Reason, Side};
use tokio_postgres::{Client, GenericClient};

use super::carry_out::tell_failure;
use super::sessions::Switchovers;
use pgportage_data_plane::peer::Resolution;
use pgportage_migration::Participation;
use pgportage_migration::switchover::{Due, Event, Fence, InHand};
use pgportage_postgres::access::Access;
use pgportage_postgres::{Purpose, sql_failure};

impl Switchovers {
    /// On the side that is entered: settles the switchover `epoch`. The agent of the side that is left
    /// calls it over the link.
    ///
    /// # Errors
    ///
    /// What the server reports; nothing is promised then.
    pub async fn resolve(&self, participation: &Participation, epoch: i64) -> Result<Resolution, Failure> {
        let doing = "settle the switchover";
        // A pending decision ends with its session; this waits for one that is being committed.
        self.sessions.drop_entering(&participation.migration);
        let mut client = self.door.open(&participation.database, Purpose::Cutover).await?;
        let transaction = client.transaction().await.map_err(|error| sql_failure(error, doing))?;
        transaction
            .batch_execute("SET LOCAL synchronous_commit = on; SET LOCAL lock_timeout = 0")
            .await
            .map_err(|error| sql_failure(error, doing))?;
        // Waits for a decision that is being committed.
        let row = transaction
            .query_one("SELECT state FROM pgportage.decision WHERE id = 1 FOR UPDATE", &[])
            .await
            .map_err(|error| sql_failure(error, doing))?;
        if row.get::<_, &str>(0) == "opened" {
            return Ok(Resolution::Opened);
        }
        transaction
            .execute(
                "UPDATE pgportage.decision SET floor_epoch = greatest(floor_epoch, $1::int8 + 1), \
                 record_time = pg_catalog.clock_timestamp() WHERE id = 1",
                &[&epoch],
            )
            .await
            .map_err(|error| sql_failure(error, doing))?;
        transaction.commit().await.map_err(|error| sql_failure(error, doing))?;
        tracing::warn!(migration.id = %participation.migration, cutover_epoch = epoch, "promised not to open");
        Ok(Resolution::WillNotOpen)
    }

    /// On the side that is left: lifts the fence if the other agent promises that its side never opens,
    /// drops the barrier, and carries out what follows. Succeeds when there is no fence.
    ///
    /// # Errors
    ///
    /// [`Reason::DestinationOpened`] when the other side has opened: the switchover goes forward.
    /// [`Reason::CutoverInDoubt`] when its agent does not answer.
    pub(crate) async fn settle_fence(&self, participation: &Participation) -> Result<(), Failure> {
        let migration = &participation.migration;
        let mut client = self.door.open(&participation.database, Purpose::Cutover).await?;
        let seen = fenced_epoch(&client).await?.map_or(Event::NoFenceStands, Event::FenceStands);
        self.journal.happened(migration, seen)?;
        // First the question, then what follows from its answer.
        for _step in 0..2 {
            match self.journal.switchover(migration)?.due(InHand::CLIENTS, self.tasks.clock.now()).first() {
                Some(Due::AskOther(epoch)) => {
                    let heard = match self.ask(participation, *epoch).await? {
                        Resolution::Opened => Event::OtherOpened(*epoch),
                        Resolution::WillNotOpen => Event::Promised(*epoch),
                    };
                    self.journal.happened(migration, heard)?;
                }
                Some(Due::LiftFence(epoch)) => {
                    lift(&mut client, &participation.database, *epoch).await?;
                    self.journal.happened(migration, Event::NoFenceStands)?;
                    tracing::warn!(migration.id = %migration, cutover_epoch = epoch, side = %participation.side, "the fence is lifted: this side takes writes");
                }
                Some(_) | None => {}
            }
        }
        self.sessions.drop_leaving(migration);
        let fence = self.journal.switchover(migration)?.fence;
        let carried_out = self.carry_out(participation).await;
        match fence {
            Fence::Down | Fence::MayStand(_) | Fence::Liftable(_) => carried_out,
            Fence::Kept(_) => {
                tell_failure(participation, carried_out);
                let opened =
                    Failure::new(Reason::DestinationOpened, format!("the {} has opened", participation.side.other()));
                let hint = match participation.side {
                    Side::Source => "The cutover is done; go on with `pgportage finish` or `pgportage rollback`.",
                    Side::Destination => "The rollback is done: applications belong on the source.",
                };
                Err(opened.hint(hint).remedy(Remedy::Operator).effect(Effect::None))
            }
        }
    }

    async fn ask(&self, participation: &Participation, epoch: i64) -> Result<Resolution, Failure> {
        let (left, entered) = (participation.side, participation.side.other());
        let in_doubt = |failure: Failure| {
            Failure::new(Reason::CutoverInDoubt, format!("it is not known whether the {entered} has opened"))
                .detail(format!("The {entered}'s agent gave no answer: {}. {}", failure.message, failure.detail))
                .hint(format!(
                    "The {left} stays fenced. Bring the {entered}'s agent and server back; it is asked again by itself."
                ))
                .because(&failure)
                .remedy(Remedy::Wait)
                .effect(Effect::Unknown)
        };
        let peer = self.peers.call(participation).await.map_err(in_doubt)?;
        peer.resolve_cutover(epoch).await.map_err(in_doubt)
    }

    /// `pgportage-agent unfence`: lifts the fence on this machine, without the coordinator. Refuses unless
    /// the agent of the side that is entered promises that it never opens, or the operator states that it
    /// is `destroyed`. Audited in the log.
    ///
    /// # Errors
    ///
    /// [`Reason::DestinationOpened`], [`Reason::CutoverInDoubt`], [`Reason::RequestInvalid`] when the
    /// operator calls this side itself destroyed, or what the server reports.
    pub(crate) async fn unfence_locally(
        &self,
        migration: &MigrationId,
        destroyed: Option<Side>,
    ) -> Result<(), Failure> {
        let Some(participation) = self.journal.participation(migration)? else {
            return Err(Failure::new(
                Reason::MigrationMissing,
                format!("this agent has no part in migration {migration}"),
            )
            .effect(Effect::None));
        };
        let side = participation.side;
        if destroyed == Some(side) {
            let message = format!("this agent is beside the {side} of migration {migration}, which is to be opened");
            return Err(Failure::new(Reason::RequestInvalid, message)
                .hint(format!("If the {0} is destroyed, say --{0}-destroyed.", side.other()))
                .effect(Effect::None));
        }
        let mut client = self.door.open(&participation.database, Purpose::Cutover).await?;
        let Some(epoch) = fenced_epoch(&client).await? else { return Ok(()) };
        if let Some(destroyed) = destroyed {
            tracing::warn!(
                migration.id = %migration,
                cutover_epoch = epoch,
                "lifting the fence on the operator's statement that the {destroyed} is destroyed"
            );
            lift(&mut client, &participation.database, epoch).await?;
            self.journal.happened(migration, Event::UnfencedByOperator)?;
            return self.carry_out(&participation).await;
        }
        self.settle_fence(&participation).await
    }
}

pub(crate) async fn fence_table_exists(client: &impl GenericClient) -> Result<bool, Failure> {
    let row = client
        .query_typed_one("SELECT to_regclass('pgportage.fence') IS NOT NULL", &[])
        .await
        .map_err(|error| sql_failure(error, "look for a fence"))?;
    Ok(row.get(0))
}

/// The epoch of the switchover whose fence stands on this side, if one does.
async fn fenced_epoch(client: &Client) -> Result<Option<i64>, Failure> {
    if !fence_table_exists(client).await? {
        return Ok(None);
    }
    // Waits for a fence that is being committed by a session whose agent died.
    client
        .batch_execute("BEGIN; LOCK TABLE pgportage.fence IN SHARE MODE; COMMIT")
        .await
        .map_err(|error| sql_failure(error, "look for a fence"))?;
    Ok(client
        .query_opt("SELECT cutover_epoch FROM pgportage.fence WHERE id = 1", &[])
        .await
        .map_err(|error| sql_failure(error, "look for a fence"))?
        .map(|row| row.get(0)))
}

/// In one transaction: restores access, and deletes the row of that switchover's fence.
async fn lift(client: &mut Client, database: &str, epoch: i64) -> Result<(), Failure> {
    let doing = "lift the fence";
    let transaction = client.transaction().await.map_err(|error| sql_failure(error, doing))?;
    let row = transaction
        .query_opt("DELETE FROM pgportage.fence WHERE id = 1 AND cutover_epoch = $1 RETURNING saved_access", &[&epoch])
        .await
        .map_err(|error| sql_failure(error, doing))?;
    let Some(row) = row else { return Ok(()) };
    let saved = Access::from_json(row.get(0))?;
    let statements = saved.restore_statements(database, &Access::read(&transaction).await?);
    transaction.batch_execute(&statements.join("; ")).await.map_err(|error| sql_failure(error, doing))?;
    transaction.commit().await.map_err(|error| sql_failure(error, doing))
}
