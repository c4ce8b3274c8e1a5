//! The names of all fail points, read from the source of the programs, so that a
//! new one cannot be forgotten.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::Result;

use crate::ledger::End;
use crate::postgres_versions::workspace_directory;

/// What the runner passes around every action, in order.
const MOMENTS: [&str; 4] = ["accepted", "surveyed", "performed", "recorded"];

/// The actions of subscribe, catch-up, cutover and finish that an end carries out,
/// in the order of the workflow.
#[must_use]
pub fn actions(end: End) -> &'static [&'static str] {
    match end {
        End::Source => &[
            "create_slot",
            "await_lag",
            "create_way_back",
            "prepare_cutover",
            "raise_barrier",
            "fence_source",
            "release_barrier",
            "follow_stream",
            "finish_migration",
        ],
        End::Destination => &[
            "copy_tables",
            "create_subscription",
            "await_copy",
            "prepare_cutover",
            "drain_to_marker",
            "open_destination",
            "keep_stream",
            "finish_migration",
        ],
    }
}

/// Passed only where the subscription copies the rows, which these migrations do
/// not let it do.
const OF_THE_NATIVE_COPY: &str = "create_subscription.perform.refreshed";

/// The order in which the copy passes its points.
const MOMENTS_OF_THE_COPY: [&str; 8] =
    [".level", ".begun", ".copied", ".committed", ".built", ".rows_complete", ".scripted", ".validated"];

/// Every fail point of the agent at one end while it carries out those actions,
/// in the order of the workflow.
///
/// # Errors
///
/// When the source cannot be read.
pub fn of_agent(end: End) -> Result<Vec<String>> {
    let inside = in_source(&workspace_directory().join("agent/src"))?;
    let mut points = Vec::new();
    for action in actions(end) {
        let around = |moment: &str| format!("{action}.perform.{moment}");
        let prefix = format!("{action}.perform.");
        let here = |point: &&String| {
            point.starts_with(&prefix) && !is_of_the_other_end(end, point) && *point != OF_THE_NATIVE_COPY
        };
        points.extend(MOMENTS[..2].iter().map(|moment| around(moment)));
        // In the order of the file, which is the order of the procedure.
        let mut within: Vec<String> = inside.iter().filter(here).cloned().collect();
        if *action == "copy_tables" {
            // Its parts are files of their own.
            within.sort_by_key(|point| MOMENTS_OF_THE_COPY.iter().position(|moment| point.ends_with(moment)));
        }
        points.extend(within);
        points.extend(MOMENTS[2..].iter().map(|moment| around(moment)));
    }
    Ok(points)
}

/// Every fail point that the agent at one end passes in a switchover that leaves the
/// server at `left`, in order: a rollback is a cutover with its sides exchanged.
///
/// # Errors
///
/// When the source cannot be read.
pub fn of_switch(end: End, left: End) -> Result<Vec<String>> {
    const ACTIONS: [&str; 8] = [
        "prepare_cutover",
        "raise_barrier",
        "drain_to_marker",
        "fence_source",
        "open_destination",
        "release_barrier",
        "keep_stream",
        "follow_stream",
    ];
    let mut points = of_agent(if end == left { End::Source } else { End::Destination })?;
    points.retain(|point| ACTIONS.iter().any(|action| point.starts_with(action)));
    Ok(points)
}

/// Whether a point is inside an action that both ends carry out, in the part of
/// the other end. Both clean up at the end, each what is there.
fn is_of_the_other_end(end: End, point: &str) -> bool {
    let of_the_source = ["noted", "way_back", "slot", "schema", "roles"];
    let of_the_destination = ["subscription", "slot_back", "way_back_removed", "destination_schema", "relaxed"];
    let others: &[&str] = match end {
        End::Source => &of_the_destination,
        End::Destination => &of_the_source,
    };
    others.iter().any(|moment| point == format!("finish_migration.perform.{moment}"))
}

/// Whether a point is behind the decision: one migration passes only one of these
/// to its end, because nothing takes the decision back.
#[must_use]
pub fn is_behind_the_decision(point: &str) -> bool {
    ["committed", "performed", "recorded"].iter().any(|moment| point == format!("open_destination.perform.{moment}"))
}

/// Every fail point of the coordinator.
///
/// # Errors
///
/// When the source cannot be read.
pub fn of_coordinator() -> Result<Vec<String>> {
    in_source(&workspace_directory().join("coordinator/src"))
}

/// The points of the coordinator that a migration passes on its way: the coordinator
/// migrates no store that is new, and cancels a command in an abort only.
#[must_use]
pub fn is_on_the_way(point: &str) -> bool {
    !["coordinator.send.cancel", "coordinator.store.migrating"].contains(&point)
}

/// The names given to fail points in a directory, file by file in order.
///
/// # Errors
///
/// When the source cannot be read.
pub fn in_source(directory: &Path) -> Result<Vec<String>> {
    let mut files = Vec::new();
    collect(directory, &mut files)?;
    files.sort();
    let mut seen = BTreeSet::new();
    let mut points = Vec::new();
    for file in files {
        let text = fs::read_to_string(file)?;
        for call in ["fail_point(\"", "fail_point::hit(\""] {
            for rest in text.split(call).skip(1) {
                if let Some((name, _)) = rest.split_once('"')
                    && seen.insert(name.to_owned())
                {
                    points.push(name.to_owned());
                }
            }
        }
    }
    Ok(points)
}

fn collect(directory: &Path, files: &mut Vec<std::path::PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}
