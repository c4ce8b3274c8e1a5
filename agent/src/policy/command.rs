//! Commands of the machine's owner: the only programs that a policy can name.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::file::Problems;

/// A program of the machine's owner, run without a shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalCommand {
    /// Its absolute path.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// How long it may run before it is killed.
    pub timeout: Duration,
}

/// Checks a command while the policy is read. None when it cannot be used at all. What is wrong with it
/// goes into `problems`, also when a user other than the owner could replace the program.
pub(super) fn local_command(
    problems: &mut Problems,
    at: &str,
    words: Vec<String>,
    timeout: Duration,
) -> Option<LocalCommand> {
    let mut words = words.into_iter();
    let Some(program) = words.next().map(PathBuf::from) else {
        problems.add(at, "is empty; write the program and its arguments, like [\"/usr/local/sbin/tell\", \"shop\"]");
        return None;
    };
    if !program.is_absolute() {
        problems.add(at, format_args!("{program:?} is no absolute path"));
        return None;
    }
    match std::fs::metadata(&program) {
        Ok(metadata) if !metadata.is_file() || metadata.mode() & 0o111 == 0 => {
            problems.add(at, format_args!("{} is no program", program.display()));
        }
        Ok(_) => {
            refuse_foreign_hands(problems, at, &program);
            if let Some(directory) = program.parent() {
                refuse_foreign_hands(problems, at, directory);
            }
        }
        Err(error) => problems.add(at, format_args!("{}: {error}", program.display())),
    }
    Some(LocalCommand { program, arguments: words.collect(), timeout })
}

/// A user who can write the program, or its directory, would decide what the agent runs.
fn refuse_foreign_hands(problems: &mut Problems, at: &str, path: &Path) {
    let Ok(metadata) = std::fs::metadata(path) else { return };
    if metadata.mode() & 0o022 != 0 {
        problems.add(at, format_args!("others than its owner can write {0}; run `chmod go-w {0}`", path.display()));
    }
    if ![0, rustix::process::geteuid().as_raw()].contains(&metadata.uid()) {
        problems.add(at, format_args!("{} must belong to root or to the user the agent runs as", path.display()));
    }
}
