//! Configuration files and what is said about them: `tests/config/NAME.toml` -> `NAME.txt`, which
//! holds the settings of a right file or the problems of a wrong one. `UPDATE_GOLDEN=1` rewrites.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use pgsluice::config::{Config, Problem, Surroundings, reload};

fn parse(text: &str) -> Result<Config, Vec<Problem>> {
    let surroundings = Surroundings {
        variable: &|name| (name == "APP_PASSWORD").then(|| "s3cret".to_owned()),
        read: &|path| match path.to_str() {
            Some("/missing") => Err(io::Error::new(io::ErrorKind::NotFound, "no such file")),
            _ => Ok("from a file\n".to_owned()),
        },
    };
    Config::parse_in(text, &surroundings)
}

fn describe(result: Result<Config, Vec<Problem>>) -> String {
    match result {
        Ok(config) => {
            let settings = config.settings();
            settings.iter().map(|setting| format!("{} = {}\n", setting.key, setting.value)).collect()
        }
        Err(problems) => problems.iter().map(|problem| format!("{problem}\n")).collect(),
    }
}

#[test]
fn golden_files() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config");
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "toml"));
    assert!(!files.is_empty());
    let mut different = Vec::new();
    for file in files {
        let found = describe(parse(&fs::read_to_string(&file).unwrap()));
        assert!(!found.contains("s3cret"), "{}: a password is shown", file.display());
        let golden = file.with_extension("txt");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&golden, &found).unwrap();
        }
        let expected = fs::read_to_string(&golden).unwrap_or_default();
        if found != expected {
            different.push(format!("{}:\n--- expected\n{expected}--- found\n{found}", golden.display()));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

const MINIMAL: &str = "[[database]]\nname = \"app\"\n[[database.shard]]\nprimary = \"postgres://app@db/app\"\n";

/// The example in the root: as it is, and with every `#key = ...` line switched on.
#[test]
fn the_example_tells_the_truth() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("sluice.toml")).unwrap();
    let as_it_is = parse(&text).map_err(|problems| format!("{problems:#?}")).unwrap();
    let minimal = parse(MINIMAL).unwrap();
    assert_eq!(as_it_is.pool, minimal.pool);

    let uncommented: String = text.lines().map(|line| format!("{}\n", uncomment(line))).collect();
    let all = parse(&uncommented).map_err(|problems| format!("{problems:#?}\n{uncommented}")).unwrap();
    // What the comments show are the defaults.
    assert_eq!(all.pool, minimal.pool);
    assert_eq!(all.replicas, minimal.replicas);
    assert_eq!(all.limits, minimal.limits);
    assert_eq!(all.log, minimal.log);
    assert_eq!(all.listen.address, minimal.listen.address);
    assert_eq!(all.listen.clients_max, minimal.listen.clients_max);
    assert_eq!(all.listen.login_timeout, minimal.listen.login_timeout);
    assert_eq!(all.databases[0].buckets, minimal.databases[0].buckets);
    // Nothing is left out.
    for setting in all.settings() {
        let key = setting.key.rsplit('.').find(|part| uncommented.contains(&format!("{part} ")));
        assert!(key.is_some(), "{} is not in sluice.toml", setting.key);
    }
}

/// `#key = value` and `#[table]` are settings; `# words` are words.
fn uncomment(line: &str) -> &str {
    match line.strip_prefix('#') {
        Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => rest,
        _ => line,
    }
}

#[test]
fn a_url_is_enough() {
    let config = Config::for_url("postgres://app:s3cret@db.internal:5433/shop?sslmode=prefer").unwrap();
    assert_eq!(config.databases[0].name, "shop");
    assert_eq!(config.databases[0].shards[0].primary.address(), "db.internal:5433");
    assert_eq!(config.users[0].name, "app");
    assert!(Config::for_url("postgres://app@db").is_err(), "which database?");
    let problems = Config::for_url("postgres://app:s3cret@db/shop?sslmode=require").unwrap_err();
    assert!(problems[0].to_string().contains("TLS"), "{problems:?}");
}

#[test]
fn a_reload_tells_what_changes_and_what_cannot() {
    let text = |changes: &[(&str, &str)]| {
        let mut text = "[listen]\naddress = \"127.0.0.1:6432\"\n[pool]\nsize = 20\n\
            [[user]]\nname = \"app\"\npassword = \"one\"\n\
            [[database]]\nname = \"app\"\nsharding_key = \"user_id\"\n\
            [[database.shard]]\nname = \"a\"\nprimary = \"postgres://x@a/app\"\n\
            [[database.shard]]\nname = \"b\"\nprimary = \"postgres://x@b/app\"\n"
            .to_owned();
        for (from, to) in changes {
            assert!(text.contains(from));
            text = text.replace(from, to);
        }
        parse(&text).unwrap()
    };
    let old = text(&[]);
    let changes = |changes: &[(&str, &str)]| -> Vec<String> {
        let list = reload::diff(&old, &text(changes));
        list.iter().map(|change| format!("{change}{}", if change.reloadable { "" } else { " (restart)" })).collect()
    };
    assert!(changes(&[]).is_empty());
    assert_eq!(changes(&[("size = 20", "size = 30")]), ["pool.size: 20 -> 30"]);
    assert_eq!(changes(&[("\"one\"", "\"two\"")]), ["user.app.password: (not shown) -> (not shown)"]);
    assert_eq!(
        changes(&[("127.0.0.1:6432", "127.0.0.1:7432")]),
        ["listen.address: 127.0.0.1:6432 -> 127.0.0.1:7432 (restart)"]
    );
    assert_eq!(
        changes(&[("name = \"b\"", "name = \"c\"")]),
        [
            "database.app.shard.b.primary: x@b:5432/app -> (none)",
            "database.app.shard.c.primary: (none) -> x@b:5432/app",
            "database.app.shards: a, b -> a, c (restart)"
        ]
    );
    let third = "b/app\"\n[[database.shard]]\nname = \"c\"\nprimary = \"postgres://x@c/app\"";
    assert_eq!(
        changes(&[("b/app\"", third)]),
        ["database.app.shard.c.primary: (none) -> x@c:5432/app", "database.app.shards: a, b -> a, b, c (restart)"]
    );

    let misplaced = |changes: &[(&str, &str)]| reload::misplaced(&old, &text(changes)).join("\n");
    assert_eq!(
        misplaced(&[("b/app\"", third)]),
        "database app: the shards are a, b, not a, b, c: rows would be looked for where they are not"
    );
    assert!(misplaced(&[("\"user_id\"", "\"user_id\"\nbuckets = 64")]).contains("4096 buckets, not 64"));
    let swapped = misplaced(&[("x@a/app", "x@z/app"), ("x@b/app", "x@a/app")]);
    assert!(swapped.contains("a:5432 holds the rows of another shard than b"), "{swapped}");
    // A primary elsewhere is a failover.
    assert_eq!(misplaced(&[("x@a/app", "x@z/app"), ("size = 20", "size = 30")]), "");
}
