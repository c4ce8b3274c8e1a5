//! Verbs that change nothing and only show.

use std::cell::Cell;

use super::Hand;
use crate::arguments::{PlanArguments, Status};
use crate::exit::{Exit, Stop};
use crate::pace::Pace;
use crate::render;
use crate::view::Migration;

pub(super) async fn agents(hand: &Hand) -> Result<Exit, Stop> {
    let agents = hand.coordinator.agents().await?;
    let text = render::agents(&agents, hand.now(), hand.terminal.out);
    hand.terminal.result(&text, &agents);
    Ok(Exit::Done)
}

pub(super) async fn plan(hand: &Hand, arguments: &PlanArguments) -> Result<Exit, Stop> {
    let plan = hand.coordinator.plan(&arguments.name, arguments.refresh).await?;
    hand.terminal.result(&render::plan(&plan, hand.terminal.out), &plan);
    Ok(Exit::Done)
}

pub(super) async fn explain(hand: &Hand, name: &str) -> Result<Exit, Stop> {
    let explained = hand.coordinator.explain(name).await?;
    hand.terminal.result(&render::explained(&explained, hand.terminal.out), &explained);
    Ok(Exit::Done)
}

pub(super) async fn status(hand: &Hand, arguments: &Status) -> Result<Exit, Stop> {
    match &arguments.name {
        None => {
            let migrations = hand.coordinator.migrations().await?;
            let text = render::migrations(&migrations, hand.now(), hand.terminal.out);
            hand.terminal.result(&text, &migrations);
        }
        Some(name) if !arguments.watch => {
            let migration = hand.coordinator.migration(name).await?;
            let now = hand.now();
            let text = render::status(&migration, &Pace::since_start(&migration, now), now, hand.terminal.out);
            hand.terminal.result(&text, &migration);
        }
        Some(name) => watch(hand, name).await?,
    }
    Ok(Exit::Done)
}

/// Every change, until the migration is over: redrawn on a terminal, one after
/// the other elsewhere, one JSON value on a line under `--json`. Ends early when
/// the reader of standard output has gone.
async fn watch(hand: &Hand, name: &str) -> Result<(), Stop> {
    let mut interrupt = Hand::interrupt()?;
    let follow = hand.follow();
    let redraws = hand.terminal.redraws();
    let read = Cell::new(true);
    let mut so_far = Pace::default();
    let show = |migration: &Migration, now| {
        so_far.look(migration, now);
        let text = render::status(migration, &so_far, now, hand.terminal.out);
        let text = if redraws { format!("\x1b[H\x1b[2J{text}") } else { format!("{text}\n") };
        read.set(hand.terminal.result(&text, migration));
    };
    match follow.until(name, &mut interrupt, show, |migration| render::over(migration) || !read.get()).await {
        // Ctrl-C is how one stops looking.
        Ok(_) | Err(Stop::Detached(_)) => Ok(()),
        Err(stop) => Err(stop),
    }
}
