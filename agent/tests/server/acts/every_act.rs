//! Every act of the registry keeps the contract.
//!
//! In the order of a migration each act is proved on two real servers: it is carried
//! out twice, ended at each of its fail points and taken up again, taken back, taken
//! back twice. An act whose proof needs another stage names the test that has it, an
//! act with nothing to take back says why. A kind without an arm does not compile, and
//! a fail point that ends no agent in any test fails this one.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pgportage_agent::act::Act;
use pgportage_agent::act::catch_up::AwaitCopy;
use pgportage_agent::act::close::CloseDatabase;
use pgportage_agent::act::connect::{CreateReplicationRole, ReachPeer};
use pgportage_agent::act::copy::CopyTables;
use pgportage_agent::act::inspect::CheckServer;
use pgportage_agent::act::publication::CreatePublication;
use pgportage_agent::act::schema::RestoreSchema;
use pgportage_agent::act::subscribe::{CreateSlot, CreateSubscription};
use pgportage_agent::act::verify::{CompareRows, CountRows, CountRowsResult};
use pgportage_agent::act::way_back::CreateWayBack;
use pgportage_proto::{ActKind, ConnectionPath, CopyMethod, Reason, Side};
use pgportage_tests::fail_points;
use pgportage_tests::ledger::End;

use super::catalogs::{assert_same, read};
use super::contract::{perform, prove, undo};
use super::journey::{LOW_LAG, keyless, start};
use crate::world::World;

const METHOD: CopyMethod = CopyMethod::Native;
const RESTORE: RestoreSchema = RestoreSchema { copy_method: METHOD };
const SLOT: CreateSlot = CreateSlot { copy_method: METHOD };
const SUBSCRIBE: CreateSubscription = CreateSubscription { path: ConnectionPath::Tunnel, copy_method: METHOD };

/// The migration in which the acts are proved.
struct Stage {
    world: World,
    /// Fail points at which an act was ended here.
    died: BTreeSet<String>,
}

impl Stage {
    /// Proves an act that can be taken back, and leaves it performed.
    async fn prove<A: Act>(&mut self, side: Side, act: &A)
    where
        A::Output: Debug + PartialEq,
    {
        self.died.extend(prove(&self.world, side, act, async || {}).await);
    }

    /// Proves an act that changes nothing on the server: whatever is done, and taken
    /// back, twice.
    async fn changes_nothing<A: Act>(&self, side: Side, act: &A) -> A::Output {
        let before = self.read(side).await;
        undo(&self.world, side, act).await;
        let output = perform(&self.world, side, act).await;
        perform(&self.world, side, act).await;
        undo(&self.world, side, act).await;
        undo(&self.world, side, act).await;
        assert_same(&before, &self.read(side).await, A::KIND.as_str());
        output
    }

    async fn read(&self, side: Side) -> Vec<String> {
        let cluster = match side {
            Side::Source => &self.world.source,
            Side::Destination => &self.world.destination,
        };
        read(cluster, &self.world.options.database).await
    }

    /// Takes the copied rows away, as the undo of the schema would.
    async fn empty(world: &World) {
        let tables = "SELECT 'TRUNCATE ' || string_agg(c.oid::regclass::text, ', ')
                        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                       WHERE c.relkind = 'r' AND n.nspname !~ '^(pg_|information_schema)'
                         AND c.oid::regclass::text NOT IN ('pgportage.decision', 'pgportage.migration', 'pgportage.ledger')";
        let client = world.destination.connect(&world.options.database).await.unwrap();
        let statement: String = client.query_one(tables, &[]).await.unwrap().get(0);
        client.batch_execute(&statement).await.unwrap();
    }

    async fn count_rows(&self) {
        let there = self.changes_nothing(Side::Source, &CountRows::default()).await;
        let here = self.changes_nothing(Side::Destination, &CountRows::default()).await;
        let rows = |result: &CountRowsResult| {
            result.tables.iter().map(|count| (count.table.to_string(), count.row_count)).collect::<Vec<_>>()
        };
        assert_eq!(rows(&there), rows(&here));
        assert_eq!(rows(&there).iter().map(|(_, count)| count).sum::<i64>(), 1013);
        assert_eq!(there.objects, here.objects);
        assert!(there.not_replicated.iter().any(|finding| finding.code == Reason::UnloggedNotMoved));
    }

    /// The proof of one kind.
    async fn prove_kind(&mut self, kind: ActKind) {
        const SWITCH: &str = "agent/tests/server/cutover.rs";
        const ROLLBACK: &str = "tests/tests/site/rollback.rs";
        match kind {
            ActKind::CheckServer => {
                let source = self.changes_nothing(Side::Source, &CheckServer::default()).await.inventory;
                let check = CheckServer { source: Some(source), ..CheckServer::default() };
                self.changes_nothing(Side::Destination, &check).await;
            }
            ActKind::CreateReplicationRole => self.prove(Side::Source, &CreateReplicationRole).await,
            ActKind::ReachPeer => {
                for side in [Side::Source, Side::Destination] {
                    let reached = self.changes_nothing(side, &ReachPeer).await;
                    assert!(reached.round_trip < Duration::from_secs(5));
                }
            }
            ActKind::SetReplicaIdentity => self.prove(Side::Source, &keyless()).await,
            ActKind::CreatePublication => self.prove(Side::Source, &CreatePublication).await,
            ActKind::CloseDatabase => self.prove(Side::Destination, &CloseDatabase).await,
            ActKind::RestoreSchema => self.prove(Side::Destination, &RESTORE).await,
            ActKind::CreateSlot => self.prove(Side::Source, &SLOT).await,
            ActKind::CopyTables => {
                self.changes_nothing(Side::Destination, &CopyTables { copy_method: METHOD }).await;
                // By the agents; its rows go with the schema.
                elsewhere("agent/tests/server/acts/copy.rs", "a_death_at_any_point_is_made_good");
            }
            ActKind::CreateSubscription => {
                let (world, died) = (&self.world, &mut self.died);
                died.extend(prove(world, Side::Destination, &SUBSCRIBE, async || Self::empty(world).await).await);
            }
            ActKind::AwaitCopy => {
                let copied = self.changes_nothing(Side::Destination, &AwaitCopy).await;
                assert_eq!(copied.table_count, 5 + 2, "five tables with rows, heartbeat and marker");
            }
            ActKind::AwaitLag => {
                assert!(self.changes_nothing(Side::Source, &LOW_LAG).await.lag <= LOW_LAG.max_lag);
            }
            ActKind::CreateWayBack => {
                perform(&self.world, Side::Destination, &CreateReplicationRole).await;
                perform(&self.world, Side::Destination, &CreatePublication).await;
                perform(&self.world, Side::Destination, &SLOT).await;
                self.prove(Side::Source, &CreateWayBack).await;
            }
            ActKind::CountRows => self.count_rows().await,
            ActKind::CompareRows => {
                let compare = CompareRows { comparison_id: 1, time_limit: None, repair: false };
                assert!(self.changes_nothing(Side::Destination, &compare).await.complete);
            }
            // What an agent holds of a switchover in its memory does not outlive a real
            // death: these are ended as processes, at each of their points.
            ActKind::PrepareCutover => elsewhere(SWITCH, "a_rehearsal_goes_no_further_than_the_drain"),
            ActKind::RaiseBarrier => elsewhere(SWITCH, "a_barrier_goes_without_a_trace"),
            ActKind::DrainToMarker | ActKind::OpenDestination | ActKind::ReleaseBarrier => {
                elsewhere(SWITCH, "the_database_changes_hands");
            }
            ActKind::FenceSource => {
                elsewhere(SWITCH, "a_death_at_any_point_of_the_fence_is_taken_back_by_the_destinations_promise");
            }
            // Their undo does nothing: what made the slot and the subscription takes
            // them back.
            ActKind::KeepStream | ActKind::FollowStream => elsewhere(ROLLBACK, "from_an_old_version_and_back"),
            // Its undo does nothing: what was stated stays true.
            ActKind::CertifySwitch => elsewhere(ROLLBACK, "from_an_old_version_and_back"),
            // Nothing takes it back, and it says so.
            ActKind::FinishMigration => {
                elsewhere("agent/tests/server/acts/journey.rs", "finish_leaves_nothing_but_the_fence");
            }
        }
    }

    /// Everything undone in the opposite order.
    async fn take_back(&self) {
        let world = &self.world;
        undo(world, Side::Source, &CreateWayBack).await;
        undo(world, Side::Destination, &SLOT).await;
        undo(world, Side::Destination, &CreatePublication).await;
        undo(world, Side::Destination, &CreateReplicationRole).await;
        undo(world, Side::Destination, &SUBSCRIBE).await;
        undo(world, Side::Source, &SLOT).await;
        undo(world, Side::Destination, &RESTORE).await;
        undo(world, Side::Destination, &CloseDatabase).await;
        undo(world, Side::Source, &CreatePublication).await;
        undo(world, Side::Source, &keyless()).await;
        undo(world, Side::Source, &CreateReplicationRole).await;
    }
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The proof is the test of this name in this file.
fn elsewhere(file: &str, test: &str) {
    let text = std::fs::read_to_string(workspace().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    assert!(text.contains(&format!("#[tokio::test]\nasync fn {test}()")), "{file} has no test {test}");
}

/// The text of every source file below a directory.
fn sources(directory: &Path) -> String {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let text = |path: PathBuf| match path.extension() {
        _ if path.is_dir() => sources(&path),
        Some(extension) if extension == "rs" => std::fs::read_to_string(path).unwrap(),
        Some(_) | None => String::new(),
    };
    entries.map(text).collect()
}

#[tokio::test]
async fn every_act_keeps_the_contract() {
    let mut stage = Stage { world: start().await, died: BTreeSet::new() };
    let before = (stage.read(Side::Source).await, stage.read(Side::Destination).await);
    for &kind in ActKind::ALL {
        stage.prove_kind(kind).await;
    }
    stage.take_back().await;
    assert_same(&before.0, &stage.read(Side::Source).await, "source after the abort");
    assert_same(&before.1, &stage.read(Side::Destination).await, "destination after the abort");

    // Ended here, or as a process by `crash.rs`, or in a test that names the point.
    let mut died = stage.died;
    for end in [End::Source, End::Destination] {
        died.extend(fail_points::of_agent(end).unwrap());
    }
    let tests: String = ["agent/tests", "tests/tests"].map(|tests| sources(&workspace().join(tests))).concat();
    let points = fail_points::in_source(&workspace().join("agent")).unwrap();
    let missing: Vec<_> =
        points.iter().filter(|point| !died.contains(*point) && !tests.contains(&format!("\"{point}\""))).collect();
    assert!(points.len() > 70 && missing.is_empty(), "no test ends an agent at {missing:?}");
}
