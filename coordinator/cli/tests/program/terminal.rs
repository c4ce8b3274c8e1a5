//! With a person at a terminal: questions and bars.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::Stdio;

use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::script::{Ran, Script, Stage};
use crate::support;

/// The two ends of a terminal: the person's and the program's.
fn terminal() -> (File, OwnedFd) {
    let person = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&person).unwrap();
    unlockpt(&person).unwrap();
    let name = ptsname(&person, Vec::new()).unwrap();
    let program = open(name.as_c_str(), OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
    (person.into(), program)
}

/// Everything that appears on a terminal until the program has gone.
fn screen(mut person: File) -> String {
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    // EIO once no process has the other end open.
    while let Ok(read @ 1..) = person.read(&mut buffer) {
        text.extend_from_slice(&buffer[..read]);
    }
    String::from_utf8_lossy(&text).into_owned()
}

async fn answer(verb: &[&str], text: &str) -> (Ran, Stage) {
    let script = Script::new(support::ready(), [support::cutting_over(), support::cut_over()]);
    let stage = Stage::set(script).await;
    let (mut person, program) = terminal();
    let child = stage.command(verb).stdin(Stdio::from(program)).spawn().unwrap();
    person.write_all(text.as_bytes()).unwrap();
    (Ran::end(child).await, stage)
}

#[tokio::test]
async fn yes_goes_on() {
    let (ran, stage) = answer(&["cutover", "shop", "--max-outage", "1s"], "yes\n").await;
    ran.exits(0).notes("Type yes to go on").notes("longer than 1.0 s");
    assert!(stage.script.heard().iter().any(|call| call.starts_with("cutover")));
}

#[tokio::test]
async fn anything_else_does_nothing() {
    for text in ["no\n", "\n", "y\n"] {
        let (ran, stage) = answer(&["cutover", "shop"], text).await;
        ran.exits(1).notes("nothing was done");
        assert_eq!(stage.script.heard(), ["get"]);
    }
}

#[tokio::test]
async fn bars_are_drawn_on_a_terminal_and_results_stay_clean() {
    let stage = Stage::set(Script::new(support::pending(), [support::copying(), support::ready()])).await;
    let (person, program) = terminal();
    rustix::termios::tcsetwinsize(
        &program,
        rustix::termios::Winsize { ws_row: 40, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 },
    )
    .unwrap();
    let mut command = stage.command(&["start", "shop", "--json"]);
    command.env("TERM", "xterm").stderr(Stdio::from(program));
    let child = command.spawn().unwrap();
    drop(command);
    let shown = tokio::task::spawn_blocking(move || screen(person));
    let ran = Ran::end(child).await.exits(0);
    assert_eq!(ran.json()[0]["ready_for_cutover"], true);
    let shown = shown.await.unwrap();
    for text in ["step 7 of 12: copy", "public.orders", "52 %", "copy: done"] {
        assert!(shown.contains(text), "{text:?} is not in {shown:?}");
    }
}
