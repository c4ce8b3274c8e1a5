//! What the documents name exists: verbs and flags in the programs, files and
//! headings where they are said to be.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use pgportage_tests::postgres_versions::workspace_directory;
use pgportage_tests::site::program;

/// Flags of other people's programs.
const OF_OTHERS: [&str; 2] = ["--ulimit", "--blobs"];

/// Flags that the programs still take in place of newer ones. `--help` is silent about them.
const OF_BEFORE: [&str; 2] = ["--connection", "--copy-method"];

/// Sessions of ours, by the names that the servers show.
const SESSIONS: [&str; 1] = ["pgportage keeper"];

/// Everything that is read by people.
fn documents() -> Vec<PathBuf> {
    let root = workspace_directory();
    let mut found: Vec<PathBuf> =
        ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "agent/README.md"].map(|name| root.join(name)).into();
    for directory in ["docs", "docs/errors", "docs/decisions"] {
        let entries = fs::read_dir(root.join(directory)).unwrap();
        found.extend(
            entries.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|e| e == "md")),
        );
    }
    found
}

/// The text between backticks, and the lines of code blocks.
fn code(text: &str) -> Vec<String> {
    let (mut pieces, mut prose, mut in_block) = (Vec::new(), String::new(), false);
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        } else if in_block {
            // What follows a `#` is for people.
            pieces.push(line.split(" #").next().unwrap_or_default().to_owned());
        } else {
            prose.push_str(line);
            prose.push('\n');
        }
    }
    pieces.extend(prose.split('`').skip(1).step_by(2).map(|piece| piece.replace('\n', " ")));
    pieces
}

/// What each verb of a program takes, by the words that lead to it.
struct Verbs(BTreeMap<Vec<String>, BTreeSet<String>>);

impl Verbs {
    fn of(name: &str) -> Self {
        let mut verbs = Self(BTreeMap::new());
        verbs.ask(&program(name).unwrap(), Vec::new());
        verbs
    }

    fn ask(&mut self, program: &Path, verb: Vec<String>) {
        let output = Command::new(program).args(&verb).arg("--help").output().unwrap();
        assert!(output.status.success(), "{} {verb:?} --help", program.display());
        let help = String::from_utf8(output.stdout).unwrap();
        let flags = help.split(|c: char| c != '-' && !c.is_ascii_alphanumeric());
        self.0.insert(verb.clone(), flags.filter(|word| word.starts_with("--")).map(str::to_owned).collect());
        let commands = help.split("Commands:\n").nth(1).unwrap_or_default();
        for line in commands.lines().take_while(|line| line.starts_with("  ")) {
            let Some(name) = line.strip_prefix("  ").and_then(|line| line.split(' ').next()) else { continue };
            let below = [verb.clone(), vec![name.to_owned()]].concat();
            match name {
                "" => {}
                // Ours takes a code, the one of groups a verb.
                "help" => drop(self.0.insert(below, BTreeSet::new())),
                _ => self.ask(program, below),
            }
        }
    }

    /// The longest verb that `words` begin with, and how many of them it is.
    fn verb(&self, words: &[&str]) -> Vec<String> {
        let mut verb = Vec::new();
        for word in words {
            verb.push((*word).to_owned());
            if !self.0.contains_key(&verb) {
                verb.pop();
                break;
            }
        }
        verb
    }

    fn knows(&self, verb: &[String], flag: &str) -> bool {
        (0..=verb.len()).any(|length| self.0[&verb[..length]].contains(flag))
    }
}

/// What is wrong with a piece of code, if it is a command of ours.
fn wrong(piece: &str, programs: &BTreeMap<&str, Verbs>) -> Option<String> {
    if SESSIONS.contains(&piece) {
        return None;
    }
    let words: Vec<&str> = piece.split_whitespace().collect();
    let flags = || {
        let flag = |word: &&str| word.starts_with("--") && word.len() > 2;
        words.iter().copied().filter(flag).map(|word| word.split(['=', ',', '`']).next().unwrap_or(word))
    };
    let cli = &programs["pgportage"];
    let (verbs, verb) = match words.first()? {
        name if programs.contains_key(name) => {
            let verbs = &programs[name];
            let next = words.get(1).copied().unwrap_or_default();
            // `pgportage VERB`, `pgportage …`: no verb at all.
            let is_word = !next.is_empty() && next.chars().all(|c| c.is_ascii_lowercase() || c == '-');
            let verb = verbs.verb(&words[1..]);
            if is_word && !next.starts_with('-') && verb.is_empty() {
                return Some(format!("{name} has no verb {next:?}"));
            }
            (verbs, verb)
        }
        name if cli.0.contains_key(&vec![(*name).to_owned()][..]) => (cli, cli.verb(&words)),
        // A flag by itself belongs to one of the verbs.
        name if name.starts_with("--") => {
            let known = |flag: &str| programs.values().any(|verbs| verbs.0.values().any(|flags| flags.contains(flag)));
            let unknown =
                flags().find(|flag| !known(flag) && !OF_OTHERS.contains(flag) && !OF_BEFORE.contains(flag))?;
            return Some(format!("no program has {unknown}"));
        }
        _ => return None,
    };
    let unknown = flags().find(|flag| !verbs.knows(&verb, flag))?;
    Some(format!("{verb:?} has no {unknown}"))
}

#[test]
fn every_command_of_the_documents_exists() {
    let programs: BTreeMap<&str, Verbs> = ["pgportage", "pgportage-agent", "pgportage-coordinator"]
        .into_iter()
        .map(|name| (name, Verbs::of(name)))
        .collect();
    let (mut seen, mut problems) = (0, Vec::new());
    for document in documents() {
        for piece in code(&fs::read_to_string(&document).unwrap()) {
            seen += usize::from(piece.starts_with("pgportage"));
            problems.extend(wrong(&piece, &programs).map(|what| format!("{}: `{piece}`: {what}", document.display())));
        }
    }
    assert!(seen > 100, "{seen} commands: the documents are read wrongly");
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    // It sees what does not exist.
    for piece in ["pgportage hover shop", "pgportage create shop --hover", "cutover --hover", "--hover"] {
        assert!(wrong(piece, &programs).is_some(), "{piece}");
    }
}

/// The name that a heading has in links.
fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().to_lowercase();
    kept.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).collect::<String>().replace(' ', "-")
}

#[test]
fn every_link_leads_somewhere() {
    let mut problems = Vec::new();
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.contains("://") {
                continue;
            }
            let (path, heading) = target.split_once('#').unwrap_or((target, ""));
            let there = if path.is_empty() { document.clone() } else { document.parent().unwrap().join(path) };
            let leads = there.exists()
                && (heading.is_empty()
                    || fs::read_to_string(&there)
                        .is_ok_and(|text| text.lines().any(|line| line.starts_with('#') && anchor(line) == heading)));
            if !leads {
                problems.push(format!("{}: {target}", document.display()));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// A newcomer opens what ARCHITECTURE and CONTRIBUTING name.
#[test]
fn every_path_of_the_documents_exists() {
    let root = workspace_directory();
    let (mut seen, mut problems) = (0, Vec::new());
    for (document, near) in [("ARCHITECTURE.md", ""), ("CONTRIBUTING.md", ""), ("agent/README.md", "agent")] {
        let text = fs::read_to_string(root.join(document)).unwrap();
        let mut above = String::new();
        for piece in code(&text) {
            // The map's lines begin with a path, below the last one that stands at the
            // margin; elsewhere a piece is one.
            let path = piece.trim_start().split("  ").next().unwrap_or_default();
            let path = &if piece.starts_with("  ") { format!("{above}{path}") } else { path.to_owned() };
            if !piece.starts_with("  ") {
                above.clone_from(path);
            }
            let is_path = ["/", ".rs", ".proto", ".md", ".toml"].iter().any(|end| path.ends_with(end))
                || path.contains("/src/")
                || path.starts_with(".ci/");
            // A file's name alone is said of one that was named before.
            let is_of_ours = path.contains('/') && !path.starts_with(['/', '~']) && !path.starts_with("target/");
            if !is_path || !is_of_ours || path.contains([' ', '*', '…', '<']) {
                continue;
            }
            seen += 1;
            if !root.join(path).exists() && !root.join(near).join(path).exists() {
                problems.push(format!("{document}: {path}"));
            }
        }
    }
    assert!(seen > 40, "{seen} paths: the documents are read wrongly");
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn architecture_fits_on_a_few_pages() {
    let lines = fs::read_to_string(workspace_directory().join("ARCHITECTURE.md")).unwrap().lines().count();
    assert!(lines <= 250, "{lines} lines: what a newcomer need not know first belongs in docs/decisions/");
}
