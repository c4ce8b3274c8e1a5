//! Every key of a settings file does something: its field is read by production code
//! outside the module that parses it. Read from the source of the programs, so that a new
//! key cannot be forgotten.
//!
//! What counts is `section.field`, where `section` is the name that values of that section
//! go by in that file: the section's own, or one that a `let` or a type gives them there.
//! A method of the section counts as its fields, where it is called. Comments, texts,
//! tests, defaults, checks and what writes the field do not count.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

use crate::postgres_versions::workspace_directory;

/// A struct that a file of settings is read into.
struct Section {
    name: &'static str,
    /// One of its fields, by which it is told from others of that name.
    field: &'static str,
    /// What its values are called, or the method that returns them.
    called: &'static str,
    /// The programs that have it.
    programs: &'static [&'static str],
}

const fn section(
    name: &'static str,
    field: &'static str,
    called: &'static str,
    programs: &'static [&'static str],
) -> Section {
    Section { name, field, called, programs }
}

const AGENT: &[&str] = &["agent"];
const COORDINATOR: &[&str] = &["coordinator/src"];
const CLI: &[&str] = &["coordinator/cli"];
const EVERY: &[&str] = &["agent", "coordinator", "proto"];

const SECTIONS: &[Section] = &[
    // The agent's policy.
    section("Limits", "barrier_timeout", "limits", AGENT),
    section("PremadeRoles", "canary", "roles", AGENT),
    // agent.toml
    section("Settings", "tunnel", "settings", AGENT),
    section("CoordinatorSettings", "address", "coordinator", AGENT),
    section("PostgresSettings", "max_sessions", "postgres", AGENT),
    section("ProgramSettings", "pg_dump", "programs", AGENT),
    section("LinkSettings", "compression", "link", AGENT),
    section("TunnelSettings", "first_port", "tunnel", AGENT),
    section("ProtectionSettings", "max_standby_lag", "protection", AGENT),
    // coordinator.toml
    section("Settings", "session", "settings", COORDINATOR),
    section("SessionSettings", "heartbeat_interval", "session", COORDINATOR),
    section("MigrationSettings", "lag_patience", "migration", COORDINATOR),
    section("RelaySettings", "max_relays", "relay", COORDINATOR),
    // pgportage.toml
    section("Settings", "telemetry", "settings", CLI),
    section("CoordinatorSettings", "patience", "coordinator", CLI),
    section("Telemetry", "log_filter", "telemetry", CLI),
    // All of them.
    section("IdentitySettings", "certificate", "identity", EVERY),
    section("TelemetrySettings", "metrics_listen", "telemetry", EVERY),
];

/// One token of production code.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Sign(char),
    Text,
}

impl Token {
    fn is(&self, text: &str) -> bool {
        match self {
            Self::Word(word) => word == text,
            Self::Sign(sign) => text.chars().eq([*sign]),
            Self::Text => false,
        }
    }

    fn word(&self) -> Option<&str> {
        match self {
            Self::Word(word) => Some(word),
            Self::Sign(_) | Self::Text => None,
        }
    }
}

/// The tokens of a file without its comments and its tests.
fn production(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    flatten(text.parse().expect("a file of Rust"), &mut tokens);
    tokens
}

fn flatten(stream: TokenStream, tokens: &mut Vec<Token>) {
    let mut trees = stream.into_iter().peekable();
    while let Some(tree) = trees.next() {
        match tree {
            TokenTree::Ident(ident) => tokens.push(Token::Word(ident.to_string())),
            TokenTree::Literal(_) => tokens.push(Token::Text),
            TokenTree::Punct(punct) if punct.as_char() == '#' => {
                let Some(TokenTree::Group(group)) = trees.peek() else { continue };
                let is_of_tests = group.stream().to_string().replace(' ', "") == "cfg(test)";
                trees.next();
                // The item behind it ends with its braces or a semicolon.
                while is_of_tests
                    && !match trees.next() {
                        None => true,
                        Some(TokenTree::Group(group)) => group.delimiter() == Delimiter::Brace,
                        Some(TokenTree::Punct(punct)) => punct.as_char() == ';',
                        Some(TokenTree::Ident(_) | TokenTree::Literal(_)) => false,
                    }
                {}
            }
            TokenTree::Punct(punct) => tokens.push(Token::Sign(punct.as_char())),
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ('(', ')'),
                    Delimiter::Brace => ('{', '}'),
                    Delimiter::Bracket => ('[', ']'),
                    Delimiter::None => (' ', ' '),
                };
                tokens.push(Token::Sign(open));
                flatten(group.stream(), tokens);
                tokens.push(Token::Sign(close));
            }
        }
    }
}

/// Where the braces that open at or behind `from` close.
fn end_of_braces(tokens: &[Token], from: usize) -> usize {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate().skip(from) {
        if token.is("{") {
            depth += 1;
        } else if token.is("}") {
            depth -= 1;
            if depth == 0 {
                return at;
            }
        }
    }
    tokens.len()
}

/// Where tokens of this form begin.
fn places(tokens: &[Token], form: &[&str]) -> Vec<usize> {
    let fits = |window: &[Token]| window.iter().zip(form).all(|(token, text)| token.is(text));
    tokens.windows(form.len()).enumerate().filter(|(_, window)| fits(window)).map(|(at, _)| at).collect()
}

/// The fields of a struct, if this file defines it.
fn fields(tokens: &[Token], name: &str) -> Option<Vec<String>> {
    let at = *places(tokens, &["struct", name, "{"]).first()?;
    let body = &tokens[at + 2..end_of_braces(tokens, at)];
    // `name: …` at the outermost level, and no `path::name`.
    let (mut depth, mut fields) = (0, Vec::new());
    for (at, token) in body.iter().enumerate() {
        match token {
            Token::Sign('{' | '(' | '<' | '[') => depth += 1,
            Token::Sign('}' | ')' | '>' | ']') => depth -= 1,
            Token::Word(word) if depth == 1 => {
                let colon = |at: usize| body.get(at).is_some_and(|token| token.is(":"));
                if colon(at + 1) && !colon(at + 2) && !colon(at - 1) {
                    fields.push(word.clone());
                }
            }
            Token::Word(_) | Token::Sign(_) | Token::Text => {}
        }
    }
    Some(fields)
}

/// What values of a section are called in a file.
fn names(tokens: &[Token], section: &Section) -> BTreeSet<String> {
    let mut names = BTreeSet::from([section.called.to_owned()]);
    // `name: &Section`, also `name: &'a path::Section`.
    for mut before in places(tokens, &[section.name]) {
        loop {
            match &tokens[..before] {
                [.., module, first, second] if module.word().is_some() && first.is(":") && second.is(":") => {
                    before -= 3
                }
                [.., quote, _lifetime] if quote.is("'") => before -= 2,
                [.., sign] if sign.is("&") || sign.is("mut") => before -= 1,
                _ => break,
            }
        }
        if before > 1 && tokens[before - 1].is(":") && !tokens[before - 2].is(":") {
            names.extend(tokens[before - 2].word().map(str::to_owned));
        }
    }
    // `let name = &….section;`, also with `()`.
    for end in [&[section.called, ";"][..], &[section.called, "(", ")", ";"]] {
        for at in places(tokens, end) {
            let begin = tokens[..at].iter().rposition(|token| token.is(";") || token.is("{") || token.is("}"));
            if let [keyword, name, equals, ..] = &tokens[begin.map_or(0, |begin| begin + 1)..at]
                && keyword.is("let")
                && equals.is("=")
            {
                names.extend(name.word().map(str::to_owned));
            }
        }
    }
    names
}

/// The members of values called so that are read here: what stands behind the dot, and
/// what a `let` takes apart.
fn members(tokens: &[Token], names: &BTreeSet<String>) -> BTreeSet<String> {
    let mut read = BTreeSet::new();
    for (at, token) in tokens.iter().enumerate() {
        if !token.word().is_some_and(|word| names.contains(word)) {
            continue;
        }
        let rest = match &tokens[at + 1..] {
            [open, close, rest @ ..] if open.is("(") && close.is(")") => rest,
            rest => rest,
        };
        if let [dot, member, rest @ ..] = rest
            && dot.is(".")
            && let Some(member) = member.word()
        {
            let is_written = matches!(rest, [equals, then, ..] if equals.is("=") && !then.is("=") && !then.is(">"));
            if !is_written {
                read.insert(member.to_owned());
            }
        }
    }
    read
}

/// What `let Section { a, b: c, .. } = …` takes apart.
fn taken_apart(tokens: &[Token], name: &str) -> BTreeSet<String> {
    let mut read = BTreeSet::new();
    for at in places(tokens, &["let", name, "{"]) {
        let body = &tokens[at + 3..end_of_braces(tokens, at)];
        let begins = |at: usize| at == 0 || body[at - 1].is(",");
        read.extend(
            body.iter()
                .enumerate()
                .filter(|(at, _)| begins(*at))
                .filter_map(|(_, token)| token.word())
                .map(str::to_owned),
        );
    }
    read
}

/// The methods of the section, each with the fields that it reads.
fn methods(tokens: &[Token], section: &Section) -> BTreeMap<String, BTreeSet<String>> {
    let mut methods = BTreeMap::new();
    let of_itself = BTreeSet::from(["self".to_owned()]);
    for at in places(tokens, &["impl", section.name, "{"]) {
        let body = &tokens[at..end_of_braces(tokens, at)];
        for at in places(body, &["fn"]) {
            if let Some(name) = body.get(at + 1).and_then(Token::word) {
                let body = &body[at..end_of_braces(body, at)];
                methods.insert(name.to_owned(), members(body, &of_itself));
            }
        }
    }
    methods
}

/// The fields of a section that nothing but `parser` reads.
fn unread(files: &[(PathBuf, Vec<Token>)], section: &Section) -> Vec<String> {
    let defined = files.iter().find_map(|(path, tokens)| {
        let fields = fields(tokens, section.name)?;
        fields.iter().any(|field| field == section.field).then_some((path, tokens, fields))
    });
    let (parser, definition, fields) =
        defined.unwrap_or_else(|| panic!("no {} with {} is found any more", section.name, section.field));
    let mut read = BTreeSet::new();
    for (_, tokens) in
        files.iter().filter(|(path, _)| !(is_part_of_parsing(path) || path == parser && only_parses(path)))
    {
        read.extend(members(tokens, &names(tokens, section)));
        read.extend(taken_apart(tokens, section.name));
    }
    // What the policy says of a command is asked through it: `policy.allows(…)`.
    let mut through = methods(definition, section);
    if parser.ends_with("policy.rs") {
        let of_the_policy = BTreeSet::from([section.called.to_owned()]);
        let asked = places(definition, &["impl", "Policy", "{"])
            .into_iter()
            .flat_map(|at| members(&definition[at..end_of_braces(definition, at)], &of_the_policy));
        read.extend(asked);
    }
    through.retain(|method, _| read.contains(method));
    read.extend(through.into_values().flatten());
    fields.into_iter().filter(|field| !read.contains(field)).collect()
}

/// Whether a file that defines a section does nothing else with it. Where a part's file
/// defines its own settings, it is the one that reads them.
fn only_parses(path: &Path) -> bool {
    path.file_stem().is_some_and(|name| name == "settings" || name == "policy" || name == "limits")
}

/// Below the policy everything is its format.
fn is_part_of_parsing(path: &Path) -> bool {
    path.parent().is_some_and(|directory| directory.ends_with("policy"))
}

fn sources(program: &str) -> Vec<(PathBuf, Vec<Token>)> {
    let mut open = vec![workspace_directory().join(program)];
    let mut files = Vec::new();
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && name != "tests" && name != "target" {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") && !name.ends_with("tests") {
                let tokens = production(&std::fs::read_to_string(&path).unwrap());
                files.push((path, tokens));
            }
        }
    }
    files
}

#[test]
fn every_setting_is_read() {
    let mut unread_fields = Vec::new();
    for section in SECTIONS {
        let files: Vec<_> = section.programs.iter().flat_map(|program| sources(program)).collect();
        let fields = unread(&files, section);
        unread_fields
            .extend(fields.iter().map(|field| format!("{}.{field} of {}", section.called, section.programs[0])));
    }
    assert!(unread_fields.is_empty(), "keys that a file may have and nothing reads: {unread_fields:?}");
}

/// What the policy may allow is asked for by some act.
#[test]
fn every_destructive_act_is_asked_for() {
    let files = sources("agent");
    let (table, others): (Vec<_>, Vec<_>) = files.iter().partition(|(path, _)| path.ends_with("policy/destructive.rs"));
    let (_, table) = table.first().expect("the table of destructive acts");
    let variants = places(table, &["destructive_acts", "!", "{"]).into_iter().flat_map(|at| {
        let lines = table[at..end_of_braces(table, at)].windows(2);
        lines.filter(|pair| pair[1] == Token::Sign('=')).filter_map(|pair| pair[0].word().map(str::to_owned))
    });
    let variants: Vec<_> = variants.collect();
    assert!(variants.contains(&"DropSlot".to_owned()), "{variants:?}");
    let is_asked =
        |variant: &str| others.iter().any(|(_, code)| !places(code, &["DestructiveAct", ":", ":", variant]).is_empty());
    let unasked: Vec<_> = variants.iter().filter(|variant| !is_asked(variant)).collect();
    assert!(unasked.is_empty(), "keys of [destructive] that no act asks for: {unasked:?}");
}

#[test]
fn what_does_not_read_a_field_is_not_taken_for_it() {
    const DEFINITION: &str = "pub struct Limits { pub size: u64 }
        impl Default for Limits { fn default() -> Self { Self { size: 1 } } }
        impl Validate for Limits { fn validate(&self) { check(self.size) } }
        impl Limits { fn half(&self) -> u64 { self.size / 2 } }";
    let is_read = |user: &str| {
        let file = |path: &str, text: &str| (PathBuf::from(path), production(text));
        let files = [file("limits.rs", DEFINITION), file("user.rs", user)];
        unread(&files, &section("Limits", "size", "limits", AGENT)).is_empty()
    };
    for reads in [
        "fn f() { g(policy.limits().size) }",
        "fn f() { g(policy\n.limits()\n// why\n.size.max(1)) }",
        "fn f() { let own = &policy.limits; g(own.size) }",
        "fn f() { let own = policy.limits(); g(own.size == 1) }",
        "fn f(own: &policy::Limits) { g(own.size) }",
        "struct A<'a> { own: &'a Limits } fn f(a: A) { g(a.own.size) }",
        "fn f() { let Limits { size: own, .. } = *policy.limits(); }",
        "fn f() { g(policy.limits().half()) }",
    ] {
        assert!(is_read(reads), "{reads}");
    }
    for does_not in [
        "",
        "// limits.size\nfn f() {}",
        "fn f() { g(\"limits.size\") }",
        "#[cfg(test)] mod tests { fn f() { g(limits.size) } }",
        "fn f() { limits.size = 1; }",
        "fn f() { other.size + other.half() }",
        "fn f() { let limits = Limits { size: 2 }; }",
        "fn f() { g(limits.sizes, size) }",
        "fn half() { half() }",
    ] {
        assert!(!is_read(does_not), "{does_not}");
    }
}
