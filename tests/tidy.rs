//! The order of the house, checked by reading its text: imports go down only, pure modules ask nobody,
//! ARCHITECTURE.md names what exists, and nothing unfinished hides in the code.

#![expect(clippy::unwrap_used, reason = "a test stops where it is surprised")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The top-level modules from the ground up, each with what it may import of the others. A module may
/// only name modules above it in this list, so there is no way back up.
const LAYERS: [(&str, &[&str]); 24] = [
    ("clock", &[]),
    ("deadlock", &[]),
    ("protocol", &[]),
    ("config", &["log"]),
    ("log", &["config"]),
    ("import", &[]),
    ("auth", &["protocol", "config"]),
    ("session", &["protocol", "pool"]),
    ("control", &["config"]),
    ("catalog", &["control"]),
    ("listening", &["control"]),
    ("prober", &["control"]),
    ("stats", &[]),
    ("view", &["config", "prober", "stats"]),
    ("transport", &[]),
    ("pool", &["clock", "protocol", "config", "auth", "session", "prober", "transport"]),
    ("commit", &["control"]),
    (
        "execute",
        &["clock", "protocol", "config", "session", "catalog", "listening", "stats", "transport", "pool", "commit"],
    ),
    ("admin", &["protocol", "config", "stats", "view"]),
    ("net", &["protocol", "config", "auth", "session", "transport", "execute", "admin"]),
    ("http", &["stats", "view"]),
    (
        "router",
        &[
            "protocol",
            "config",
            "catalog",
            "control",
            "listening",
            "prober",
            "deadlock",
            "stats",
            "view",
            "pool",
            "commit",
            "execute",
            "admin",
            "net",
            "http",
        ],
    ),
    ("demo", &["config"]),
    ("cli", &["protocol", "config", "log", "catalog", "prober", "admin", "router", "demo", "import"]),
];

/// Where the code of today looks up all the same: the file, what it may name there, and why.
const UPWARDS: [(&str, &str, &str); 3] = [
    ("src/config/file.rs", "log::check_level", "the level's grammar is the log's; nothing is logged"),
    ("src/session/statements.rs", "pool::server::StatementId", "a statement's name on servers; pool::server is pure"),
    ("src/protocol/error.rs", "pgsluice_sharding::Refusal", "a refusal becomes an ErrorResponse here"),
];

/// Modules that are told everything, time included. A folder stands for all of its files.
const PURE: [&str; 22] = [
    "src/deadlock.rs",
    "src/deadlock",
    "src/protocol",
    "src/auth",
    "src/import",
    "src/session",
    "src/view.rs",
    "src/catalog/builder.rs",
    "src/catalog/compare.rs",
    "src/catalog/queries.rs",
    "src/pool/balance.rs",
    "src/pool/budget.rs",
    "src/pool/core.rs",
    "src/pool/error.rs",
    "src/pool/health.rs",
    "src/pool/server.rs",
    "src/commit/coordinator.rs",
    "src/commit/name.rs",
    "src/commit/orphans.rs",
    "src/execute/decide.rs",
    "src/admin/command.rs",
    "sharding/src",
];

const IMPURE: [&str; 9] = [
    "tokio",
    "Instant::now",
    "SystemTime::now",
    "std::fs",
    "std::env::var",
    "TcpStream",
    "TcpListener",
    "UnixStream",
    "socket2",
];

const UNFINISHED: [&str; 3] = ["todo!(", "unimplemented!(", ".unwrap()"];

/// Lines of code in one file, without its tests, comments and blank lines.
const LINES_MAX: usize = 800;

/// One file without its tests.
struct Source {
    /// From the root, with `/`.
    path: String,
    text: String,
}

impl Source {
    /// The lines that are code: no comments, no blanks, no tests.
    fn code(&self) -> impl Iterator<Item = &str> {
        let line_of_code = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with("//");
        self.text.lines().filter(line_of_code)
    }

    /// `pool` for `src/pool.rs` and for everything under `src/pool/`.
    fn module(&self) -> &str {
        let rest = self.path.strip_prefix("src/").unwrap_or(&self.path);
        rest.split('/').next().unwrap().trim_end_matches(".rs")
    }

    fn is_under(&self, place: &str) -> bool {
        self.path == place || self.path.strip_prefix(place).is_some_and(|rest| rest.starts_with('/'))
    }

    /// Everything of the crate that is named by its full path: `pool::server::StatementId`.
    fn crate_paths(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let code: Vec<&str> = self.code().collect();
        for piece in code.join("\n").split("crate::").skip(1) {
            let end = piece.find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':').unwrap_or(piece.len());
            let path = piece[..end].trim_end_matches(':');
            assert!(!path.is_empty(), "{}: write one `use crate::module` per line", self.path);
            found.insert(path.to_owned());
        }
        found
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

fn files(folder: &str, extension: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let path = folder.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path.to_str().unwrap().replace('\\', "/"));
            }
        }
    }
    found.sort();
    found
}

/// All code of a crate without tests.
fn sources(folder: &str) -> Vec<Source> {
    let paths = files(folder, "rs").into_iter().filter(|path| !path.ends_with("/tests.rs"));
    paths
        .map(|path| {
            let text = read(&path);
            let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap().to_owned();
            Source { path, text }
        })
        .collect()
}

fn all_sources() -> Vec<Source> {
    let mut all = sources("src");
    all.extend(sources("sharding/src"));
    all
}

/// The top-level modules as lib.rs lists them.
fn modules() -> BTreeSet<String> {
    let lines = read("src/lib.rs");
    lines.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).map(str::to_owned).collect()
}

fn report(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

fn is_excepted(source: &Source, path: &str) -> bool {
    UPWARDS.iter().any(|(file, allowed, _)| *file == source.path && path.starts_with(allowed))
}

#[test]
fn imports_only_go_down() {
    let place = |module: &str| LAYERS.iter().position(|(name, _)| *name == module);
    let mut problems = Vec::new();
    for source in sources("src") {
        let module = source.module();
        let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == module) else { continue };
        for path in source.crate_paths() {
            let other = path.split("::").next().unwrap();
            if other == module || place(other).is_none() || is_excepted(&source, &path) {
                continue;
            }
            if !allowed.contains(&other) {
                problems.push(format!("{}: {module} has no business with {other} (crate::{path})", source.path));
            } else if place(other) > place(module) {
                problems.push(format!("{}: {other} is above {module} (crate::{path})", source.path));
            }
        }
    }
    report(&problems);
}

#[test]
fn the_layers_are_those_of_the_crate() {
    let listed: BTreeSet<String> = LAYERS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(listed, modules(), "LAYERS and lib.rs differ");
    let named: BTreeSet<&str> = LAYERS.iter().flat_map(|(_, allowed)| allowed.iter().copied()).collect();
    assert!(named.iter().all(|name| listed.contains(*name)), "LAYERS allows a module that does not exist");
}

#[test]
fn every_exception_and_permission_is_used() {
    let sources = sources("src");
    let mut problems = Vec::new();
    for (file, path, _) in UPWARDS {
        let used = sources.iter().any(|source| source.path == file && source.text.contains(path));
        if !used {
            problems.push(format!("{file} does not use {path} any more: strike the exception"));
        }
    }
    for (module, allowed) in LAYERS {
        for other in allowed {
            let of_module = sources.iter().filter(|source| source.module() == module);
            let mut paths = of_module.flat_map(Source::crate_paths);
            if !paths.any(|path| path.split("::").next() == Some(*other)) {
                problems.push(format!("{module} does not use {other} any more: strike it"));
            }
        }
    }
    report(&problems);
}

#[test]
fn the_protocol_and_the_sharding_crate_do_not_know_each_other() {
    let mut problems = Vec::new();
    for source in sources("src").iter().filter(|source| source.is_under("src/protocol")) {
        for line in source.code().filter(|line| line.contains("pgsluice_sharding")) {
            if !UPWARDS.iter().any(|(file, allowed, _)| *file == source.path && line.contains(allowed)) {
                problems.push(format!("{}: {}", source.path, line.trim()));
            }
        }
    }
    report(&problems);
}

#[test]
fn pure_modules_ask_nobody() {
    let sources = all_sources();
    let mut problems = Vec::new();
    for place in PURE {
        let mut found = false;
        for source in sources.iter().filter(|source| source.is_under(place)) {
            found = true;
            for line in source.code() {
                if let Some(word) = IMPURE.iter().find(|word| line.contains(**word)) {
                    problems.push(format!("{} is pure, yet it names {word}: {}", source.path, line.trim()));
                }
            }
        }
        if !found {
            problems.push(format!("{place} does not exist"));
        }
    }
    report(&problems);
}

#[test]
fn every_file_says_what_it_is() {
    let silent = all_sources().into_iter().filter(|source| !source.text.starts_with("//!"));
    report(&silent.map(|source| format!("{} does not begin with //!", source.path)).collect::<Vec<_>>());
}

#[test]
fn no_file_is_long() {
    let long = all_sources().into_iter().filter(|source| source.code().count() > LINES_MAX);
    report(&long.map(|source| format!("{} has more than {LINES_MAX} lines", source.path)).collect::<Vec<_>>());
}

#[test]
fn nothing_is_unfinished() {
    let mut problems = Vec::new();
    for source in all_sources() {
        for line in source.code() {
            if let Some(word) = UNFINISHED.iter().find(|word| line.contains(**word)) {
                problems.push(format!("{}: {word} in {}", source.path, line.trim()));
            }
        }
    }
    report(&problems);
}

#[test]
fn every_golden_plan_is_read() {
    let runner = read("sharding/tests/plans.rs");
    let reads_the_folder = runner.contains("read_dir(folder())") && runner.contains("join(\"tests/plans\")");
    let mut problems = Vec::new();
    for folder in ["sharding", "tests"] {
        for file in files(folder, "plan").into_iter().filter(|file| !file.starts_with("sharding/target")) {
            let name = file.rsplit('/').next().unwrap();
            let in_the_folder = file == format!("sharding/tests/plans/{name}");
            if !(reads_the_folder && in_the_folder || runner.contains(name)) {
                problems.push(format!("{file} is read by no test"));
            }
        }
    }
    report(&problems);
}

#[test]
fn architecture_names_what_exists_and_all_of_it() {
    let text = read("ARCHITECTURE.md");
    let modules = modules();
    let mut problems: Vec<String> = modules
        .iter()
        .filter(|module| !text.contains(&format!("- `{module}`")))
        .map(|module| format!("ARCHITECTURE.md has no line for {module}"))
        .collect();
    for name in text.split('`').skip(1).step_by(2).filter(|name| is_path(name)) {
        let first = name.split("::").next().unwrap();
        let (base, path) = match name.strip_prefix("sharding::") {
            Some(rest) => ("sharding/src", rest),
            None if modules.contains(first) => ("src", name),
            None => continue,
        };
        if !exists(base, path) {
            problems.push(format!("ARCHITECTURE.md names {name}, which does not exist"));
        }
    }
    for name in text.lines().filter_map(|line| line.strip_prefix("- `")?.split('`').next()) {
        let of_the_crate = !name.contains([' ', '/', '.', '-']) && text.contains(&format!("- `{name}`: "));
        if of_the_crate && !modules.contains(name.split("::").next().unwrap()) && !name.starts_with("sharding") {
            problems.push(format!("ARCHITECTURE.md lists {name}, which is no module"));
        }
    }
    report(&problems);
}

fn is_path(name: &str) -> bool {
    name.contains("::") && name.chars().all(|c| c.is_alphanumeric() || c == '_' || c == ':')
}

/// Whether `pool::core::PoolCore` is a file, or a word in the last file on the way.
fn exists(base: &str, path: &str) -> bool {
    let mut at = root().join(base);
    let mut text = String::new();
    for step in path.split("::") {
        let (file, folder) = (at.join(format!("{step}.rs")), at.join(step));
        if file.exists() {
            text = fs::read_to_string(file).unwrap();
        } else if folder.join("mod.rs").exists() {
            text = fs::read_to_string(folder.join("mod.rs")).unwrap();
        } else if !text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == step) {
            return false;
        }
        at = folder;
    }
    true
}
