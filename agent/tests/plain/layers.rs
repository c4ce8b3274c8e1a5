//! Which module may import which.
//!
//! Between crates Cargo says it. Inside a crate this test does: no circle of imports is
//! larger than the modules of one noun, in the coordinator neither. The rooms of the
//! agent's top crate know only those that the table below allows.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Most files that may import each other in a circle.
const LARGEST_CIRCLE: usize = 8;

/// The agent's crates, from the top, what they share with others, and the coordinator's.
const CRATES: [&str; 6] = [
    "agent/src",
    "agent/data-plane/src",
    "agent/migration/src",
    "agent/postgres/src",
    "proto/report/src",
    "coordinator/src",
];

/// The floors of the top crate, lowest first: their rooms, and the floors that these may
/// know besides their own. A room is what stands under a name in `agent/src`.
const FLOORS: &[(&str, &[&str], &[&str])] = &[
    ("ground", &["arguments", "message", "policy", "program", "reports", "settings"], &[]),
    ("switch", &["hook", "pooler", "switchover"], &["ground"]),
    ("guard", &["protection", "watch"], &["ground"]),
    ("act", &["act"], &["ground", "switch"]),
    (
        "control",
        &["command", "daemon", "link_service", "local", "metrics", "runner", "session", "situation", "wire"],
        &["ground", "switch", "guard", "act"],
    ),
];

/// Acts that know another act's room. Every pair is one too many: what two acts share
/// belongs below both.
const NEIGHBOURS: &[(&str, &str)] = &[
    ("certify", "cutover"),
    ("certify", "way_back"),
    ("copy", "schema"),
    ("cutover", "verify"),
    ("cutover", "way_back"),
    ("finish", "connect"),
    ("finish", "identity"),
    ("finish", "publication"),
    ("finish", "subscribe"),
    ("finish", "way_back"),
    ("verify", "inspect"),
    ("way_back", "subscribe"),
];

/// What all acts share.
const SHARED: &[&str] = &["any", "baseline", "context", "contract", "fail_points", "history", "patience"];

/// A path of modules below the crate's root.
type Module = Vec<String>;

/// One crate's sources, without comments, texts and tests.
struct Sources {
    modules: BTreeMap<Module, Source>,
}

#[derive(Default)]
struct Source {
    /// Every `use`, whether it is public, as one path each.
    uses: Vec<(bool, Vec<String>)>,
    /// Other paths that begin with `crate` or `super`, or with a module below.
    paths: Vec<Vec<String>>,
    /// Every word of the code: what a façade re-exports it may use itself.
    words: BTreeSet<String>,
}

impl Sources {
    fn read(root: &Path) -> Self {
        let mut modules = BTreeMap::new();
        let mut waiting = vec![root.to_owned()];
        while let Some(directory) = waiting.pop() {
            for entry in fs::read_dir(&directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    waiting.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let module: Module = path
                        .strip_prefix(root)
                        .unwrap()
                        .with_extension("")
                        .iter()
                        .map(|part| part.to_str().unwrap().to_owned())
                        .collect();
                    if module != ["main"] && !module.last().unwrap().ends_with("tests") {
                        let module = if module == ["lib"] { Module::new() } else { module };
                        modules.insert(module, Source::parse(&fs::read_to_string(&path).unwrap()));
                    }
                }
            }
        }
        Self { modules }
    }

    /// The module that a path names, and what of the path is left behind it.
    fn resolve(&self, from: &Module, path: &[String]) -> Option<(Module, Vec<String>)> {
        let mut rest = path.iter().peekable();
        let mut module = match path.first()?.as_str() {
            "crate" => {
                rest.next();
                Module::new()
            }
            "self" => {
                rest.next();
                from.clone()
            }
            "super" => {
                let mut module = from.clone();
                while rest.next_if(|part| *part == "super").is_some() {
                    module.pop();
                }
                module
            }
            child => {
                let mut below = from.clone();
                below.push(child.to_owned());
                self.modules.contains_key(&below).then(|| from.clone())?
            }
        };
        while let Some(part) = rest.peek() {
            module.push((*part).clone());
            if !self.modules.contains_key(&module) {
                module.pop();
                break;
            }
            rest.next();
        }
        Some((module, rest.cloned().collect()))
    }

    /// Where what a path names is written down: façades are followed.
    fn definition(&self, module: Module, rest: &[String], depth: usize) -> Module {
        let Some(name) = rest.first().filter(|_| depth < 8) else { return module };
        let facade = self.modules.get(&module).into_iter().flat_map(|source| &source.uses);
        for (public, path) in facade {
            if *public
                && path.last() == Some(name)
                && let Some((behind, rest)) = self.resolve(&module, path)
                && behind != module
            {
                return self.definition(behind, &rest, depth + 1);
            }
        }
        module
    }

    /// Which module imports which. The root only lists what there is.
    fn imports(&self) -> BTreeMap<Module, BTreeSet<Module>> {
        let mut imports = BTreeMap::new();
        for (module, source) in &self.modules {
            let used = |path: &[String]| path.last().is_some_and(|name| source.words.contains(name));
            let private = source.uses.iter().filter(|(public, path)| !public || used(path)).map(|(_, path)| path);
            let found: BTreeSet<Module> = private
                .chain(&source.paths)
                .filter_map(|path| self.resolve(module, path))
                .map(|(found, rest)| self.definition(found, &rest, 0))
                .filter(|found| found != module && !found.is_empty())
                .collect();
            imports.insert(module.clone(), found);
        }
        imports
    }
}

impl Source {
    fn parse(text: &str) -> Self {
        let text = stripped(text);
        let mut source = Self::default();
        let mut other = String::new();
        let mut rest = text.as_str();
        while let Some(at) = keyword(rest, "use") {
            let (before, from_use) = rest.split_at(at);
            let line = before.rsplit('\n').next().unwrap_or_default().trim();
            let public = line.starts_with("pub");
            if !public && !line.is_empty() {
                // A word of a text.
                other.push_str(&rest[..at + 3]);
                rest = &rest[at + 3..];
                continue;
            }
            let end = from_use.find(';').unwrap_or(from_use.len());
            let tree = &from_use[3..end];
            for path in expanded(tree) {
                let path = path.split(" as ").next().unwrap_or_default().trim();
                source.uses.push((public, path.split("::").map(str::to_owned).collect()));
            }
            other.push_str(before);
            rest = &from_use[end..];
        }
        other.push_str(rest);
        source.words = other.split(|c: char| !(c.is_alphanumeric() || c == '_')).map(str::to_owned).collect();
        let word = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
        for path in other.split(|c| !word(c)).filter(|path| path.contains("::") && !path.starts_with(':')) {
            source.paths.push(path.split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect());
        }
        source
    }
}

/// Circles of imports, the largest first.
fn circles(imports: &BTreeMap<Module, BTreeSet<Module>>) -> Vec<BTreeSet<Module>> {
    let reached: BTreeMap<&Module, BTreeSet<&Module>> = imports
        .keys()
        .map(|module| {
            let (mut seen, mut waiting) = (BTreeSet::new(), vec![module]);
            while let Some(next) = waiting.pop() {
                waiting.extend(imports.get(next).into_iter().flatten().filter(|found| seen.insert(*found)));
            }
            (module, seen)
        })
        .collect();
    let mut circles: Vec<BTreeSet<Module>> = Vec::new();
    for (module, seen) in &reached {
        if circles.iter().any(|circle| circle.contains(*module)) {
            continue;
        }
        let back = seen.iter().filter(|found| reached.get(**found).is_some_and(|seen| seen.contains(*module)));
        circles.push(back.map(|found| (*found).clone()).chain([(*module).clone()]).collect());
    }
    circles.sort_by_key(|circle| std::cmp::Reverse(circle.len()));
    circles
}

fn sources(of: &str) -> Sources {
    Sources::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(of))
}

fn named(module: &Module) -> String {
    module.join("/")
}

#[test]
fn no_circle_of_imports_is_larger_than_the_modules_of_one_noun() {
    for root in CRATES {
        let imports = sources(root).imports();
        assert!(imports.len() > 4, "{root}: nothing was read");
        let largest = circles(&imports).swap_remove(0);
        println!("{root}: {} files, {} in the largest circle", imports.len(), largest.len());
        let files: Vec<_> = largest.iter().map(named).collect();
        assert!(files.len() <= LARGEST_CIRCLE, "{root}: {} files import each other: {files:#?}", files.len());
    }
}

#[test]
fn every_room_knows_only_what_is_below_it() {
    let floor_of = |module: &Module| {
        let room = module.first().unwrap();
        let found = FLOORS.iter().find(|(_, rooms, _)| rooms.contains(&room.as_str()));
        *found.unwrap_or_else(|| panic!("room {room} stands on no floor: give it a line in this test"))
    };
    let mut wrong = Vec::new();
    for (module, imports) in sources("agent/src").imports() {
        if module.is_empty() {
            continue;
        }
        let (floor, _, below) = floor_of(&module);
        for import in imports {
            let (other, ..) = floor_of(&import);
            if other != floor && !below.contains(&other) {
                wrong.push(format!("{} ({floor}) imports {} ({other})", named(&module), named(&import)));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn acts_know_no_other_act_but_these() {
    let mut found = BTreeSet::new();
    for (module, imports) in sources("agent/src").imports() {
        let room = |module: &Module| match module.as_slice() {
            [act, room, ..] if act == "act" => Some(room.clone()),
            _ => None,
        };
        for import in imports {
            if let (Some(one), Some(other)) = (room(&module), room(&import))
                && one != other
                && !SHARED.contains(&other.as_str())
                && !SHARED.contains(&one.as_str())
            {
                found.insert((one, other));
            }
        }
    }
    let known: BTreeSet<_> = NEIGHBOURS.iter().map(|(one, other)| ((*one).to_owned(), (*other).to_owned())).collect();
    assert_eq!(found, known, "left: what is; right: what this test knows");
}

/// Where a word stands by itself.
fn keyword(text: &str, word: &str) -> Option<usize> {
    text.match_indices(word).map(|(at, _)| at).find(|at| {
        let part = |c: char| c.is_alphanumeric() || c == '_';
        !text[..*at].ends_with(part) && text[at + word.len()..].starts_with(char::is_whitespace)
    })
}

/// The paths of a tree of imports.
fn expanded(tree: &str) -> Vec<String> {
    let tree = tree.trim();
    let Some((prefix, inside)) = tree.split_once('{') else { return vec![tree.to_owned()] };
    let inside = inside.strip_suffix('}').unwrap_or(inside);
    let (mut depth, mut begin, mut parts) = (0_usize, 0, Vec::new());
    for (at, c) in inside.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&inside[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&inside[begin..]);
    let parts = parts.into_iter().map(str::trim).filter(|part| !part.is_empty());
    parts.flat_map(expanded).map(|part| format!("{}{part}", prefix.trim())).collect()
}

/// The code alone: no comments, no texts, no tests at its end, and no `pub(in crate::…)`,
/// which says who may look in and imports nothing.
fn stripped(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let mut code = String::new();
    for line in text.lines() {
        let line = line.split("//").next().unwrap_or_default();
        match line.split_once("pub(in ").and_then(|(before, rest)| Some((before, rest.split_once(')')?.1))) {
            Some((before, behind)) => code.extend([before, "pub", behind]),
            None => code.push_str(line),
        }
        code.push('\n');
    }
    code
}
