//! The destination's server is failed over while it follows. What the new primary lacks the stream
//! never brings again, so no cutover begins until every row was compared.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use pgportage_agent::act::cutover::PrepareCutover;
use pgportage_agent::act::verify::CompareRows;
use pgportage_proto::{Reason, Side};
use pgportage_report::comparison::RowComparison;

use super::contract::{perform, perform_with, prepare_cutover};
use super::way::{arrive, copy, follow, lead_to_the_copy};
use crate::world::{Options, PATIENCE, World};

const SCHEMA: &str = "CREATE ROLE app; CREATE TABLE public.t (id int PRIMARY KEY, v text);
    INSERT INTO t SELECT i, 'v' FROM generate_series(1, 1000) i;";

async fn following() -> World {
    let world = World::start_with(Options::default()).await;
    world.source.execute(&world.options.database, SCHEMA).await.unwrap();
    world.destination.execute("postgres", "CREATE ROLE app").await.unwrap();
    lead_to_the_copy(&world).await;
    copy(&world).await;
    follow(&world).await;
    world
}

/// The destination's data as they are now, in a directory beside.
async fn copy_aside(world: &mut World) -> PathBuf {
    world.destination.stop().await.unwrap();
    let data = world.destination.data_directory();
    let aside = data.with_extension("aside");
    cp(&data, &aside);
    world.destination.start_again().await.unwrap();
    aside
}

fn cp(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
}

/// A standby takes the destination's place, at the same address. It has what `data` has: no more.
async fn promote(world: &mut World, data: Option<PathBuf>) {
    world.destination.stop().await.unwrap();
    let directory = world.destination.data_directory();
    if let Some(data) = data {
        fs::remove_dir_all(&directory).unwrap();
        cp(&data, &directory);
    }
    fs::write(directory.join("standby.signal"), "").unwrap();
    world.destination.start_again().await.unwrap();
    world.destination.execute("postgres", "SELECT pg_promote()").await.unwrap();
    world.destination.wait_until("postgres", "SELECT NOT pg_is_in_recovery()", PATIENCE).await.unwrap();
}

async fn prepare(world: &World) -> Result<(), Reason> {
    let prepare: PrepareCutover = prepare_cutover(Duration::from_secs(30));
    let prepared = perform_with(&world.context(Side::Destination), &prepare).await;
    prepared.map(|_| ()).map_err(|failure| failure.reason)
}

async fn compare(world: &World, comparison_id: i64) -> RowComparison {
    perform(world, Side::Destination, &CompareRows { comparison_id, time_limit: None, repair: false }).await
}

#[tokio::test]
async fn a_promoted_standby_that_has_everything_is_taken_up_by_a_comparison() {
    let mut world = following().await;
    prepare(&world).await.unwrap();
    promote(&mut world, None).await;
    assert_eq!(prepare(&world).await, Err(Reason::ResyncRequired));
    arrive(&world, PATIENCE).await;
    let compared = compare(&world, 1).await;
    assert!(compared.complete && compared.tables.iter().all(|table| table.missing_count == 0), "{compared:?}");
    prepare(&world).await.unwrap();
}

#[tokio::test]
async fn a_promoted_standby_that_was_behind_holds_every_cutover() {
    let mut world = following().await;
    let behind = copy_aside(&mut world).await;
    let database = world.options.database.clone();
    world.source.execute(&database, "INSERT INTO t SELECT i, 'late' FROM generate_series(2001, 2100) i").await.unwrap();
    arrive(&world, PATIENCE).await;
    promote(&mut world, Some(behind)).await;
    world.source.execute(&database, "INSERT INTO t VALUES (3000, 'later')").await.unwrap();
    let later = "SELECT EXISTS (SELECT FROM t WHERE id = 3000)";
    world.destination.wait_until(&database, later, PATIENCE).await.unwrap();
    assert_eq!(prepare(&world).await, Err(Reason::ResyncRequired));
    let compared = compare(&world, 1).await;
    let missing: i64 = compared.tables.iter().map(|table| table.missing_count).sum();
    assert_eq!(missing, 100, "the stream does not bring them again: {compared:?}");
    assert_eq!(prepare(&world).await, Err(Reason::ResyncRequired), "the comparison found the hole");
}
