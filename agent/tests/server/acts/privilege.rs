//! The same acts without any superuser, with what `docs/permissions.md` lists.

use std::time::Duration;

use pgportage_agent::act::catch_up::{AwaitCopy, AwaitLag};
use pgportage_agent::act::close::CloseDatabase;
use pgportage_agent::act::connect::CreateReplicationRole;
use pgportage_agent::act::identity::SetReplicaIdentity;
use pgportage_agent::act::publication::CreatePublication;
use pgportage_agent::act::schema::RestoreSchema;
use pgportage_agent::act::subscribe::{CreateSlot, CreateSubscription};
use pgportage_agent::act::verify::CountRows;
use pgportage_postgres::RelationName;
use pgportage_proto::{ConnectionPath, CopyMethod, Side};
use pgportage_tests::postgres_versions::PostgresVersion;

use super::catalogs::{assert_same, read};
use super::contract::{perform, prove, undo};
use crate::world::{Options, World};

/// The schema at once: the subscription copies the rows.
const RESTORE: RestoreSchema = RestoreSchema { copy_method: CopyMethod::Native };
/// A slot whose snapshot no reader needs.
const SLOT: CreateSlot = CreateSlot { copy_method: CopyMethod::Native };

const SUBSCRIBE: CreateSubscription =
    CreateSubscription { path: ConnectionPath::Tunnel, copy_method: CopyMethod::Native };
const PASSWORD: &str = "porter-password";
const GRANTS: &str =
    "GRANT pg_monitor, pg_signal_backend TO porter; GRANT app TO porter; ALTER DATABASE shop OWNER TO app;";

const SCHEMA: &str = "\
SET ROLE app;
CREATE TABLE public.orders (id int PRIMARY KEY, v text);
CREATE TABLE public.keyless (v text);
INSERT INTO orders SELECT i, 'v' FROM generate_series(1, 100) i;
INSERT INTO keyless VALUES ('a');";

fn options(source: PostgresVersion, destination: PostgresVersion, source_role: &str) -> Options {
    let destination_role = "CREATE ROLE app LOGIN; CREATE ROLE porter LOGIN PASSWORD 'porter-password';
                            GRANT pg_create_subscription TO porter;";
    Options {
        source,
        destination,
        source_user: Some(("porter".to_owned(), PASSWORD.to_owned())),
        destination_user: Some(("porter".to_owned(), PASSWORD.to_owned())),
        prepare: (format!("CREATE ROLE app LOGIN; {source_role} {GRANTS}"), format!("{destination_role} {GRANTS}")),
        ..Options::default()
    }
}

async fn there_and_back(options: Options) {
    let world = World::start_with(options).await;
    let database = world.options.database.clone();
    world.source.execute(&database, &format!("GRANT CREATE ON SCHEMA public TO app; {SCHEMA}")).await.unwrap();
    let (source, destination) = (read(&world.source, &database).await, read(&world.destination, &database).await);
    let keyless = SetReplicaIdentity { tables: vec![RelationName::new("public", "keyless")] };

    prove(&world, Side::Source, &CreateReplicationRole, async || {}).await;
    perform(&world, Side::Source, &keyless).await;
    perform(&world, Side::Source, &CreatePublication).await;
    perform(&world, Side::Destination, &CloseDatabase).await;
    perform(&world, Side::Destination, &RESTORE).await;
    prove(&world, Side::Source, &SLOT, async || {}).await;
    perform(&world, Side::Destination, &SUBSCRIBE).await;
    assert_eq!(perform(&world, Side::Destination, &AwaitCopy).await.table_count, 4);
    let low = AwaitLag { max_lag: Duration::from_secs(5), stable_window: Duration::from_secs(1) };
    perform(&world, Side::Source, &low).await;
    let there = perform(&world, Side::Source, &CountRows::default()).await;
    let here = perform(&world, Side::Destination, &CountRows::default()).await;
    assert_eq!(there.objects, here.objects);
    assert_eq!(here.tables.iter().map(|count| count.row_count).sum::<i64>(), 101);

    undo(&world, Side::Destination, &SUBSCRIBE).await;
    undo(&world, Side::Source, &SLOT).await;
    undo(&world, Side::Destination, &RESTORE).await;
    undo(&world, Side::Destination, &CloseDatabase).await;
    undo(&world, Side::Source, &CreatePublication).await;
    undo(&world, Side::Source, &keyless).await;
    undo(&world, Side::Source, &CreateReplicationRole).await;
    assert_same(&source, &read(&world.source, &database).await, "source after the abort");
    assert_same(&destination, &read(&world.destination, &database).await, "destination after the abort");
}

#[tokio::test]
async fn a_role_that_may_make_roles() {
    let role = "CREATE ROLE porter LOGIN REPLICATION CREATEROLE PASSWORD 'porter-password';";
    there_and_back(options(PostgresVersion::V16, PostgresVersion::V18, role)).await;
}

#[tokio::test]
async fn roles_made_beforehand() {
    let role = "CREATE ROLE porter LOGIN PASSWORD 'porter-password';
                CREATE ROLE mover LOGIN REPLICATION PASSWORD 'mover-password';
                CREATE ROLE mover_canary LOGIN PASSWORD 'mover-password';";
    let mut options = options(PostgresVersion::V15, PostgresVersion::V18, role);
    options.premade = Some(("mover".to_owned(), "mover_canary".to_owned(), "mover-password".to_owned()));
    there_and_back(options).await;
}
