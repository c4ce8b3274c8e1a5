//! Ctrl-C, a coordinator that goes away, and `status --watch`.

use std::time::Duration;

use pgportage_link::Clock;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;

use crate::script::{LIMIT, Ran, Script, Stage};
use crate::support;

fn press_ctrl_c(child: &Child) {
    let pid = Pid::from_raw(child.id().unwrap().try_into().unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
}

#[tokio::test]
async fn ctrl_c_detaches_and_says_that_the_migration_goes_on() {
    for (verb, now, next) in [
        (&["start", "shop"][..], support::pending(), support::copying()),
        (&["cutover", "shop", "--yes"], support::ready(), support::cutting_over()),
    ] {
        let stage = Stage::set(Script::new(now, [next])).await;
        let child = stage.command(verb).spawn().unwrap();
        stage.script.until_heard("watch").await;
        press_ctrl_c(&child);
        Ran::end(child).await.exits(1).notes("goes on without you").notes("pgportage status shop --watch");
        assert!(!stage.script.heard().iter().any(|call| call.starts_with("abort")));
    }
}

#[tokio::test]
async fn a_coordinator_that_comes_back_is_waited_for() {
    let mut stage = Stage::set(Script::new(support::pending(), [support::copying()])).await;
    let mut child = stage.command(&["start", "shop", "--json"]).spawn().unwrap();
    stage.script.until_heard("watch").await;
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut told = async |text: &str| {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.contains(text) {
                return;
            }
        }
        panic!("{text:?} was not said");
    };
    stage.goes_away().await;
    Clock.timeout(LIMIT, told("the coordinator is away")).await.unwrap();
    stage.comes_back().await;
    stage.script.becomes(support::ready());
    Clock.timeout(LIMIT, told("the coordinator is back")).await.unwrap();
    let ran = Ran::end(child).await.exits(0);
    assert_eq!(ran.json()[0]["ready_for_cutover"], true);
}

#[tokio::test]
async fn a_switch_that_waits_for_the_lag_says_so() {
    let mut behind = support::ready();
    behind.spec.as_mut().unwrap().max_lag = support::milliseconds(1000);
    behind.figures.as_mut().unwrap().lag = support::milliseconds(2400);
    let stage = Stage::set(Script::new(behind, [support::cutting_over(), support::cut_over()])).await;
    stage.script.answers_switches(false);
    let mut child = stage.command(&["cutover", "shop", "--yes"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let first = Clock.timeout(LIMIT, lines.next_line()).await.unwrap().unwrap();
    assert_eq!(first.as_deref(), Some("waiting for the lag to fall under 1.0 s: it is 2.4 s"));
    stage.script.answers_switches(true);
    Ran::end(child).await.exits(0).says("the destination is open");
}

#[tokio::test]
async fn a_coordinator_that_stays_away_is_given_up() {
    let mut stage = Stage::set(Script::new(support::pending(), [support::copying()])).await;
    let child = stage.command(&["start", "shop"]).spawn().unwrap();
    stage.script.until_heard("watch").await;
    stage.goes_away().await;
    Ran::end(child).await.exits(1).notes("does not need this program").notes("PEER_UNREACHABLE");
}

#[tokio::test]
async fn a_watch_that_ends_is_asked_for_again() {
    let stage = Stage::set(Script::new(support::pending(), [support::copying()])).await;
    let child = stage.command(&["start", "shop"]).spawn().unwrap();
    stage.script.until_heard("watch").await;
    stage.script.end_watches();
    stage.script.becomes(support::ready());
    Ran::end(child).await.exits(0);
}

#[tokio::test]
async fn status_watch_shows_every_change_until_it_is_over() {
    let stage = Stage::set(Script::new(support::copying(), [])).await;
    let mut child = stage.command(&["status", "shop", "--watch", "--json"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = async || -> serde_json::Value {
        let line = Clock.timeout(LIMIT, lines.next_line()).await.unwrap().unwrap().unwrap();
        serde_json::from_str(&line).unwrap()
    };
    assert_eq!(next().await["state"], "running");
    stage.script.becomes(support::ready());
    assert_eq!(next().await["ready_for_cutover"], true);
    stage.script.becomes(support::succeeded());
    assert_eq!(next().await["state"], "succeeded");
    let status = Clock.timeout(Duration::from_secs(10), child.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn a_watch_that_nobody_reads_ends() {
    let stage = Stage::set(Script::new(support::copying(), [])).await;
    let mut child = stage.command(&["status", "shop", "--watch", "--json"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    Clock.timeout(LIMIT, lines.next_line()).await.unwrap().unwrap().unwrap();
    drop(lines);
    stage.script.becomes(support::ready());
    let status = Clock.timeout(LIMIT, child.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn ctrl_c_ends_a_look() {
    let stage = Stage::set(Script::new(support::copying(), [])).await;
    let child = stage.command(&["status", "shop", "--watch"]).spawn().unwrap();
    stage.script.until_heard("watch").await;
    press_ctrl_c(&child);
    Ran::end(child).await.exits(0);
}
