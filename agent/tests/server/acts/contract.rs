//! The contract that every act keeps.

use std::fmt::Debug;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::time::Duration;

use futures_util::FutureExt;
use pgportage_agent::act::cutover::{PrepareCutover, Switch};
use pgportage_agent::act::{Act, Context, Survey};
use pgportage_agent::pooler::Unreachable;
use pgportage_link::{Failure, fail_point};
use pgportage_proto::{ActKind, Side, Verb};
use pgportage_tests::fail_points;

use super::catalogs::{assert_same, read};
use crate::world::World;

/// What the runner does: look, then act.
pub(crate) async fn perform_with<A: Act>(cx: &Context, act: &A) -> Result<A::Output, Failure> {
    match act.survey(cx).await? {
        Survey::Done(output) => Ok(output),
        Survey::Ready => act.perform(cx).await,
    }
}

/// Performs an act that has to succeed.
pub(crate) async fn perform<A: Act>(world: &World, side: Side, act: &A) -> A::Output {
    perform_with(&world.context(side), act).await.unwrap_or_else(|failure| panic!("{failure:#?}"))
}

/// Takes an act back; it has to succeed.
pub(crate) async fn undo<A: Act>(world: &World, side: Side, act: &A) {
    act.undo(&world.context(side)).await.unwrap_or_else(|failure| panic!("{failure:#?}"));
}

/// Every fail point inside an act, read from the source: a new one cannot be
/// forgotten.
pub(crate) fn points(kind: ActKind, verb: Verb) -> Vec<String> {
    let mut points = fail_points::in_source(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
    let prefix = format!("{kind}.{verb}.");
    points.retain(|point| point.starts_with(&prefix));
    points
}

/// Performs or undoes until the armed point ends it.
async fn die<T>(point: &str, act: impl Future<Output = Result<T, Failure>>) {
    fail_point::arm(point);
    let died = AssertUnwindSafe(act).catch_unwind().await;
    assert!(!fail_point::disarm(point), "{point} was not passed");
    assert!(died.is_err(), "{point} did not end the act");
}

/// Proves the contract of one act that can be taken back, and leaves it performed.
/// `between` is run before each performance but the first: what the undo of an
/// earlier act would have done. Returns the fail points at which it was ended.
pub(crate) async fn prove<A: Act>(world: &World, side: Side, act: &A, between: impl AsyncFn()) -> Vec<String>
where
    A::Output: Debug + PartialEq,
{
    let kind = A::KIND;
    let cluster = match side {
        Side::Source => &world.source,
        Side::Destination => &world.destination,
    };
    let database = &world.options.database;
    let before = read(cluster, database).await;

    // Nothing to take back yet.
    undo(world, side, act).await;
    assert_same(&before, &read(cluster, database).await, "undone before it was performed");

    let mut deaths = points(kind, Verb::Perform);
    assert!(!deaths.is_empty(), "{kind} has no fail points");
    for point in &deaths {
        die(point, perform_with(&world.context(side), act)).await;
        perform(world, side, act).await;
        undo(world, side, act).await;
        assert_same(&before, &read(cluster, database).await, &format!("resumed after {point}, then undone"));
        between().await;
        // A migration may also be given up after the death.
        die(point, perform_with(&world.context(side), act)).await;
        undo(world, side, act).await;
        assert_same(&before, &read(cluster, database).await, &format!("undone after {point}"));
        between().await;
    }
    let undo_deaths = points(kind, Verb::Undo);
    for point in &undo_deaths {
        perform(world, side, act).await;
        die(point, act.undo(&world.context(side))).await;
        undo(world, side, act).await;
        assert_same(&before, &read(cluster, database).await, &format!("undone again after {point}"));
        between().await;
    }
    let first = perform(world, side, act).await;
    assert_eq!(perform(world, side, act).await, first, "{kind} performed twice");
    undo(world, side, act).await;
    undo(world, side, act).await;
    assert_same(&before, &read(cluster, database).await, &format!("{kind} undone twice"));
    between().await;
    perform(world, side, act).await;
    deaths.extend(undo_deaths);
    deaths
}

/// The first act of a cutover and nothing besides.
pub(crate) fn prepare_cutover(max_outage: Duration) -> PrepareCutover {
    PrepareCutover {
        cutover_epoch: 1,
        max_outage,
        switch: Switch::Cutover,
        way_back: false,
        rehearsal: false,
        unreachable: Unreachable::Refuse,
        compare_written: false,
    }
}
