//! Finding PostgreSQL's own programs, and choosing among several.
//!
//! A machine often has more than one `pg_dump`, and neither the newest nor the
//! one in `PATH` is always right:
//!
//! - one of an older branch than the server refuses to work;
//! - one of a newer branch but an *older release date* can meet catalog content
//!   that it does not know. Seen with servers of November 2026, which keep a
//!   private column option `pg_attver` that older programs write out as if a
//!   user had set it (the destination agent takes it out of the archive);
//! - one of a branch before 15 leaves out the privileges that `public` had by
//!   default up to 14, so that a restore into 15 and later loses them;
//! - one of a newer branch than the `pg_restore` at the other end writes an
//!   archive that cannot be read there.

use std::collections::BTreeSet;
use std::env;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use pgportage_link::{Clock, Effect, Failure};
use pgportage_proto::Reason;
use tokio::process::Command;

use crate::ServerVersion;

const VERSION_TIMEOUT: Duration = Duration::from_secs(10);

/// One of PostgreSQL's programs that the agent runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// Writes the archive of a schema.
    Dump,
    /// Restores it.
    Restore,
}

impl Tool {
    /// Its file name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dump => "pg_dump",
            Self::Restore => "pg_restore",
        }
    }
}

/// A program that was found and has reported its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// The path of its file.
    pub path: PathBuf,
    /// Its version, as a server of that release would report it.
    pub version: ServerVersion,
}

/// Finds every copy of a program: the configured one alone if there is one,
/// otherwise those in `PATH` and in the directories where distributions keep
/// one for each branch. Copies that do not run are left out.
///
/// # Errors
///
/// [`Reason::PgDumpMissing`] when there is none.
pub async fn find(tool: Tool, configured: Option<&Path>, clock: Clock) -> Result<Vec<Program>, Failure> {
    let candidates = match configured {
        Some(path) => vec![path.to_path_buf()],
        None => usual_places(tool),
    };
    let mut found = Vec::new();
    let mut problems = Vec::new();
    for path in candidates {
        match version(tool, &path, clock).await {
            Ok(version) => found.push(Program { path, version }),
            Err(problem) => problems.push(format!("{}: {problem}.", path.display())),
        }
    }
    if found.is_empty() {
        let name = tool.as_str();
        return Err(Failure::new(Reason::PgDumpMissing, format!("no usable {name} on this machine"))
            .detail(if problems.is_empty() {
                "Looked in PATH, /usr/lib/postgresql/*/bin and /usr/pgsql-*/bin.".to_owned()
            } else {
                problems.join("\n")
            })
            .hint(format!(
                "Install PostgreSQL's client programs (Debian: apt-get install postgresql-client), \
                 or name the program as `programs.{name}` in agent.toml."
            ))
            .effect(Effect::None)
            .with("program", name));
    }
    Ok(found)
}

/// Chooses the `pg_dump` for a server, given the branch of the `pg_restore`
/// that will read its archive (zero when it is not known).
///
/// # Errors
///
/// [`Reason::PgDumpTooOld`] when each is older than the server or too new for
/// the `pg_restore`.
pub fn choose_dump(programs: &[Program], server: ServerVersion, restore_major: i32) -> Result<Program, Failure> {
    programs
        .iter()
        .filter(|program| program.version.major() >= server.major())
        .filter(|program| restore_major == 0 || program.version.major() <= restore_major)
        .max_by_key(|program| {
            let keeps_public = server.major() >= 15 || program.version.major() >= 15;
            (keeps_public, at_least_as_recent(program.version, server), program.version)
        })
        .cloned()
        .ok_or_else(|| {
            let found = listing(programs);
            if programs.iter().any(|program| program.version.major() >= server.major()) {
                Failure::new(
                    Reason::PgDumpTooOld,
                    format!("pg_restore {restore_major} cannot read any pg_dump's archive"),
                )
                .detail(format!("The source server is {server}. Found on its machine: {found}."))
                .hint(format!(
                    "Install the client programs of PostgreSQL {} on the destination agent's machine.",
                    server.major().max(restore_major)
                ))
            } else {
                Failure::new(Reason::PgDumpTooOld, format!("pg_dump is older than the server, which is {server}"))
                    .detail(format!("Found: {found}."))
                    .hint(format!("Install the client programs of PostgreSQL {} or later.", server.major()))
            }
            .effect(Effect::None)
            .with("server_version", server)
        })
}

/// Chooses the `pg_restore` for a server: of the server's own branch if there is
/// one (a newer one sets parameters that an older server does not know),
/// otherwise the oldest newer one.
///
/// # Errors
///
/// [`Reason::PgDumpTooOld`] when each is older than the server.
pub fn choose_restore(programs: &[Program], server: ServerVersion) -> Result<Program, Failure> {
    programs
        .iter()
        .filter(|program| program.version.major() >= server.major())
        .min_by_key(|program| (program.version.major(), -program.version.minor()))
        .cloned()
        .ok_or_else(|| {
            Failure::new(Reason::PgDumpTooOld, format!("pg_restore is older than the server, which is {server}"))
                .detail(format!("Found: {}.", listing(programs)))
                .hint(format!("Install the client programs of PostgreSQL {}.", server.major()))
                .effect(Effect::None)
                .with("server_version", server)
        })
}

/// Whether a program knows everything that a server may keep in its catalogs:
/// its release date is not before the server's, as far as dates are known.
pub fn at_least_as_recent(program: ServerVersion, server: ServerVersion) -> bool {
    if program.major() == server.major() {
        return program.minor() >= server.minor();
    }
    match (release_at_least(program), release_at_most(server)) {
        (Some(program), Some(server)) => program >= server,
        (None, _) | (_, None) => false,
    }
}

type Day = (u16, u8, u8);

const BRANCHES: [i32; 6] = [13, 14, 15, 16, 17, 18];

/// Which minor release of each branch came out on which day. One row a day, one column a branch; zero: none
/// that day, or not known.
#[rustfmt::skip]
const RELEASES: &[(Day, [i32; 6])] = &[
    ((2024,  2,  8), [14, 11,  6,  2,  0,  0]),
    ((2024,  5,  9), [15, 12,  7,  3,  0,  0]),
    ((2024,  8,  8), [16, 13,  8,  4,  0,  0]),
    ((2024, 11, 14), [17, 14,  9,  5,  1,  0]),
    ((2024, 11, 21), [18, 15, 10,  6,  2,  0]),
    ((2025,  5,  8), [21, 18, 13,  9,  5,  0]),
    ((2025,  8, 14), [22, 19, 14, 10,  6,  0]),
    ((2025, 11, 13), [23, 20, 15, 11,  7,  1]),
    ((2026,  2, 12), [ 0, 21, 16, 12,  8,  2]),
    ((2026,  2, 26), [ 0, 22, 17, 13,  9,  3]),
    ((2026,  5, 14), [ 0, 23, 18, 14, 10,  4]),
    ((2026,  8, 13), [ 0,  0, 19,  0,  0,  6]),
    ((2026, 11, 12), [ 0,  0, 20,  0,  0,  0]),
];

fn minors(major: i32) -> Option<impl DoubleEndedIterator<Item = (Day, i32)>> {
    let column = BRANCHES.iter().position(|branch| *branch == major)?;
    Some(
        RELEASES
            .iter()
            .map(move |(day, minors)| (*day, minors.get(column).copied().unwrap_or(0)))
            .filter(|(_, minor)| *minor > 0),
    )
}

/// A day before which this version did not come out.
fn release_at_least(version: ServerVersion) -> Option<Day> {
    minors(version.major())?.rev().find(|(_, minor)| *minor <= version.minor()).map(|(day, _)| day)
}

/// A day after which this version did not come out. None: not known.
fn release_at_most(version: ServerVersion) -> Option<Day> {
    minors(version.major())?.find(|(_, minor)| *minor >= version.minor()).map(|(day, _)| day)
}

fn listing(programs: &[Program]) -> String {
    let texts: Vec<String> =
        programs.iter().map(|program| format!("{} ({})", program.path.display(), program.version)).collect();
    texts.join(", ")
}

/// `PATH` first, then the directories of Debian and of the PostgreSQL project's
/// own packages, one for each branch. Debian's wrapper in `/usr/bin` is left
/// out: it chooses a branch by its arguments, so what it answers to `--version`
/// says nothing about what it would run.
fn usual_places(tool: Tool) -> Vec<PathBuf> {
    let mut directories: Vec<PathBuf> =
        env::var_os("PATH").map(|path| env::split_paths(&path).collect()).unwrap_or_default();
    for (parent, prefix, below) in [("/usr/lib/postgresql", "", "bin"), ("/usr", "pgsql-", "bin")] {
        let Ok(entries) = std::fs::read_dir(parent) else { continue };
        directories.extend(
            entries
                .flatten()
                .filter(|entry| {
                    entry
                        .file_name()
                        .to_str()
                        .and_then(|name| name.strip_prefix(prefix))
                        .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()))
                })
                .map(|entry| entry.path().join(below)),
        );
    }
    let mut seen = BTreeSet::new();
    directories
        .into_iter()
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(tool.as_str()))
        .filter(|path| {
            path.canonicalize().is_ok_and(|real| {
                real.is_file() && real.file_name().is_some_and(|name| name != "pg_wrapper") && seen.insert(real)
            })
        })
        .collect()
}

async fn version(tool: Tool, path: &Path, clock: Clock) -> Result<ServerVersion, String> {
    let output =
        Command::new(path).arg("--version").env("LC_ALL", "C").stdin(Stdio::null()).kill_on_drop(true).output();
    let output = clock
        .timeout(VERSION_TIMEOUT, output)
        .await
        .map_err(|_| "did not answer in time".to_owned())?
        .map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(format!("ended with {}", output.status));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    parse_version(tool, &text).ok_or_else(|| "is another program or a version not known here".to_owned())
}

/// Reads `pg_dump (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)`; a beta or
/// development version counts as minor 0 of its branch.
fn parse_version(tool: Tool, text: &str) -> Option<ServerVersion> {
    let rest = text.trim_start().strip_prefix(tool.as_str())?.trim_start().strip_prefix("(PostgreSQL)")?.trim_start();
    let number = rest.split_whitespace().next()?;
    let digits = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>();
    let major: i32 = digits(number).parse().ok()?;
    let minor: i32 = match number.split_once('.') {
        Some((_, minor)) => digits(minor).parse().ok()?,
        None => 0,
    };
    ((10..=99).contains(&major) && (0..10_000).contains(&minor))
        .then(|| ServerVersion::from_num(major * 10_000 + minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(num: i32) -> Program {
        Program { path: PathBuf::from(format!("/p/{num}/pg_dump")), version: ServerVersion::from_num(num) }
    }

    fn chosen(programs: &[i32], server: i32, restore: i32) -> Result<i32, Reason> {
        let programs: Vec<Program> = programs.iter().map(|num| program(*num)).collect();
        choose_dump(&programs, ServerVersion::from_num(server), restore)
            .map(|program| program.version.num())
            .map_err(|failure| failure.reason)
    }

    #[test]
    fn versions_are_read() {
        let parse = |text| parse_version(Tool::Dump, text).map(ServerVersion::num);
        assert_eq!(parse("pg_dump (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)\n"), Some(150_020));
        assert_eq!(parse("pg_dump (PostgreSQL) 18.6"), Some(180_006));
        assert_eq!(parse("pg_dump (PostgreSQL) 19beta2"), Some(190_000));
        assert_eq!(parse("pg_dump (PostgreSQL) 20devel"), Some(200_000));
        assert_eq!(parse("pg_restore (PostgreSQL) 18.6"), None);
        assert_eq!(parse("pg_dump (PostgreSQL) 9.6.24"), None);
        assert_eq!(parse("bash: pg_dump: not found"), None);
    }

    #[test]
    fn the_dump_is_never_older_than_the_server() {
        assert_eq!(chosen(&[150_018], 160_014, 18), Err(Reason::PgDumpTooOld));
        assert_eq!(chosen(&[150_018, 160_002], 160_014, 18), Ok(160_002));
    }

    #[test]
    fn the_dump_can_be_read_at_the_other_end() {
        assert_eq!(chosen(&[160_014, 180_006], 150_018, 16), Ok(160_014));
        assert_eq!(chosen(&[180_006], 150_018, 16), Err(Reason::PgDumpTooOld));
        assert_eq!(chosen(&[180_006], 150_018, 0), Ok(180_006));
    }

    #[test]
    fn the_dump_has_the_date_of_the_server_where_one_is_at_hand() {
        // 18.6 came out in August 2026, 15.20 in November.
        assert_eq!(chosen(&[150_020, 180_006], 150_020, 18), Ok(150_020));
        assert_eq!(chosen(&[150_018, 180_006], 150_020, 18), Ok(180_006));
        assert_eq!(chosen(&[150_018, 180_006], 150_018, 18), Ok(180_006));
        // A minor that the table does not know counts as newer than all.
        assert_eq!(chosen(&[170_012, 180_006], 170_012, 18), Ok(170_012));
    }

    #[test]
    fn the_privileges_of_public_matter_more_than_the_date() {
        assert_eq!(chosen(&[140_024, 180_006], 140_024, 18), Ok(180_006));
    }

    #[test]
    fn dates_are_compared_across_branches() {
        let recent =
            |program, server| at_least_as_recent(ServerVersion::from_num(program), ServerVersion::from_num(server));
        assert!(recent(180_006, 150_018));
        assert!(recent(180_006, 150_019));
        assert!(!recent(180_006, 150_020));
        assert!(recent(180_004, 170_010));
        assert!(!recent(180_003, 170_010));
        assert!(!recent(190_000, 180_006), "a branch without dates is not known to be recent");
        assert!(recent(150_021, 150_020));
        assert!(recent(180_007, 150_019));
    }

    #[test]
    fn the_restore_has_the_branch_of_the_server() {
        let programs = [program(150_018), program(160_014), program(160_013), program(180_006)];
        let choose = |server| choose_restore(&programs, ServerVersion::from_num(server)).map(|p| p.version.num());
        assert_eq!(choose(160_002), Ok(160_014));
        assert_eq!(choose(170_010), Ok(180_006));
        assert_eq!(choose(190_000).unwrap_err().reason, Reason::PgDumpTooOld);
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_missing() {
        let failure = find(Tool::Dump, Some(Path::new("/nowhere/pg_dump")), Clock).await.unwrap_err();
        assert_eq!(failure.reason, Reason::PgDumpMissing);
        assert!(failure.detail.contains("/nowhere/pg_dump"), "{}", failure.detail);
    }
}
