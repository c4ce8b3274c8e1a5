//! Schema drift as agents tell it: shown at once, in the way of a switch, and gone
//! by itself.

use std::time::Duration;

use pgportage_proto::{Reason, v1};

use crate::house::{House, NAME, Operator, step};
use crate::migration::attached;
use crate::simulated::World;

const BUDGET: Duration = Duration::from_secs(20);

fn drift(follower: v1::Side, objects: &[&str]) -> v1::SchemaDrift {
    let object = |identity: &&str| v1::DriftedObject {
        identity: (*identity).to_owned(),
        change: v1::drifted_object::Change::Different.into(),
        ..v1::DriftedObject::default()
    };
    v1::SchemaDrift {
        follower: follower.into(),
        object_count: i32::try_from(objects.len()).unwrap(),
        objects: objects.iter().map(object).collect(),
        ..v1::SchemaDrift::default()
    }
}

async fn held(operator: &mut Operator) -> v1::Migration {
    operator.until("held by a drift", |migration| migration.held_by.is_some()).await
}

async fn level(operator: &mut Operator) -> v1::Migration {
    let level = |migration: &v1::Migration| {
        migration.held_by.is_none() && migration.schema_drift.as_ref().is_some_and(|drift| drift.object_count == 0)
    };
    operator.until("level", level).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drift_holds_every_switch_until_both_sides_are_level() {
    let house = House::new();
    let world = World::quiet();
    let (_run, mut operator) = attached(&house, &world).await;
    operator.create().await.unwrap();
    operator.start().await.unwrap();
    let ready = operator.until_waiting().await;
    assert_eq!((ready.schema_drift, ready.held_by), (None, None), "nobody has compared yet");

    // The source follows nobody: its word is none.
    world.drifts("berlin", drift(v1::Side::Source, &["table public.x"]));
    world.drifts("oslo", drift(v1::Side::Destination, &["table public.orders"]));
    let seen = held(&mut operator).await;
    let words = seen.held_by.clone().unwrap();
    assert_eq!(words.reason, Reason::SchemaDiffers.as_str());
    assert_eq!(words.detail, "table public.orders is defined otherwise on the destination.");
    assert!(seen.waiting_for.starts_with("the schemas of both sides to be level: 1 schema object differs"), "{seen:?}");
    assert_eq!(seen.next_commands[0], "pgportage explain shop");
    assert_eq!(seen.schema_drift.unwrap().objects[0].identity, "table public.orders");
    let refused = operator.cut_over(BUDGET).await.unwrap_err();
    assert_eq!(
        (refused.reason, &refused.message, &refused.detail),
        (Reason::SchemaDiffers, &words.message, &words.detail)
    );
    assert!(world.source_takes_writes(), "nothing has begun");

    world.drifts("oslo", drift(v1::Side::Destination, &[]));
    let seen = level(&mut operator).await;
    assert_eq!(seen.next_commands[0], "pgportage cutover shop");
    operator.cut_over(BUDGET).await.unwrap();
    operator.until("before finish", |migration| step(migration, "finish").state() == v1::step::State::Held).await;

    // From here on the source follows, and what the destination said is over.
    world.drifts("oslo", drift(v1::Side::Destination, &["table public.y"]));
    let seen = held(&mut operator).await;
    assert!(seen.held_by.unwrap().detail.contains("table public.x is defined otherwise on the source"));
    assert_eq!(seen.next_commands, ["pgportage finish shop", "pgportage verify shop"]);
    assert_eq!(operator.roll_back(BUDGET).await.unwrap_err().reason, Reason::SchemaDiffers);
    world.drifts("berlin", drift(v1::Side::Source, &[]));
    level(&mut operator).await;
    operator.roll_back(BUDGET).await.unwrap();
}

/// The operator mends the schema, and types nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_verification_that_a_drift_has_stopped_goes_on_when_both_sides_are_level() {
    let house = House::new();
    let world = World::quiet();
    let (run, mut operator) = attached(&house, &world).await;
    world.drifts("oslo", drift(v1::Side::Destination, &["table public.orders"]));
    operator.create().await.unwrap();
    operator.start().await.unwrap();
    let stopped = operator.until_waiting().await;
    let failure = step(&stopped, "verify").failure.clone().unwrap();
    assert_eq!(failure.reason, Reason::SchemaDiffers.as_str());
    assert!(failure.hint.contains("by itself"), "{failure:?}");
    held(&mut operator).await;
    world.drifts("oslo", drift(v1::Side::Destination, &[]));
    let ready = |migration: &v1::Migration| step(migration, "cutover").state() == v1::step::State::Held;
    operator.until("ready for cutover", ready).await;

    // Asked for anew and stopped again; mended while no coordinator was there.
    world.drifts("oslo", drift(v1::Side::Destination, &["table public.orders"]));
    held(&mut operator).await;
    let etag = operator.get().await.etag;
    let again = v1::VerifyMigrationRequest { migration_id: NAME.to_owned(), etag, ..Default::default() };
    operator.migrations.verify_migration(again).await.unwrap();
    operator.until("stopped again", |migration| step(migration, "verify").state() == v1::step::State::Failed).await;
    run.stop().await;
    world.drifts("oslo", drift(v1::Side::Destination, &[]));
    let run = house.start().await;
    world.move_to(run.address);
    house.operator(run.address).await.until("ready for cutover", ready).await;
}
