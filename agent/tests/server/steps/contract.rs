//! The contract that every step keeps.

use std::fmt::Debug;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::time::Duration;

use futures_util::FutureExt;
use pgportage_agent::pooler::Unreachable;
use pgportage_agent::step::cutover::{PrepareCutover, Switch};
use pgportage_agent::step::{Act, Context, Survey};
use pgportage_link::{Failure, fail_point};
use pgportage_proto::Side;

use super::catalogs::{assert_same, read};
use crate::world::World;

/// What the runner does: look, then act.
pub(crate) async fn perform_with<A: Act>(cx: &Context, act: &A) -> Result<A::Output, Failure> {
    match act.survey(cx).await? {
        Survey::Done(output) => Ok(output),
        Survey::Ready => act.perform(cx).await,
    }
}

/// Performs a step that has to succeed.
pub(crate) async fn perform<A: Act>(world: &World, side: Side, act: &A) -> A::Output {
    perform_with(&world.context(side), act).await.unwrap_or_else(|failure| panic!("{failure:#?}"))
}

/// Takes a step back; it has to succeed.
pub(crate) async fn undo<A: Act>(world: &World, side: Side, act: &A) {
    act.undo(&world.context(side)).await.unwrap_or_else(|failure| panic!("{failure:#?}"));
}

/// Every fail point of an action and verb, read from the source: a new one cannot
/// be forgotten.
pub(crate) fn points(action: &str, verb: &str) -> Vec<String> {
    let mut found = Vec::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/step");
    let prefix = format!("{action}.{verb}.");
    let mut directories = vec![root];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            for part in text.split("fail_point(\"").skip(1) {
                let name = part.split('"').next().unwrap();
                if name.starts_with(&prefix) {
                    found.push(name.to_owned());
                }
            }
        }
    }
    found.sort();
    found.dedup();
    found
}

/// Performs or undoes until the armed point ends it.
async fn die<T>(point: &str, act: impl Future<Output = Result<T, Failure>>) {
    fail_point::arm(point);
    let died = AssertUnwindSafe(act).catch_unwind().await;
    assert!(!fail_point::disarm(point), "{point} was not passed");
    assert!(died.is_err(), "{point} did not end the step");
}

/// Proves the contract of one step, and leaves it performed. `between` is run
/// before each performance but the first: what the undo of an earlier step would
/// have done.
pub(crate) async fn prove<A: Act>(world: &World, side: Side, act: &A, between: impl AsyncFn())
where
    A::Output: Debug + PartialEq,
{
    let action = A::KIND.as_str();
    let cluster = match side {
        Side::Source => &world.source,
        Side::Destination => &world.destination,
    };
    let database = &world.options.database;
    let before = read(cluster, database).await;

    // Nothing to take back yet.
    undo(world, side, act).await;
    assert_same(&before, &read(cluster, database).await, "undone before it was performed");

    let deaths = points(action, "perform");
    assert!(!deaths.is_empty(), "{action} has no fail points");
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
    for point in points(action, "undo") {
        perform(world, side, act).await;
        die(&point, act.undo(&world.context(side))).await;
        undo(world, side, act).await;
        assert_same(&before, &read(cluster, database).await, &format!("undone again after {point}"));
        between().await;
    }
    let first = perform(world, side, act).await;
    assert_eq!(perform(world, side, act).await, first, "{action} performed twice");
    undo(world, side, act).await;
    undo(world, side, act).await;
    assert_same(&before, &read(cluster, database).await, &format!("{action} undone twice"));
    between().await;
    perform(world, side, act).await;
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
