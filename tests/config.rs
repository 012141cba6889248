//! Configuration files and what is said about them: `tests/config/NAME.toml` -> `NAME.txt`, which
//! holds the settings of a right file or the problems of a wrong one. `UPDATE_GOLDEN=1` rewrites.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use pgsluice::config::{Config, Problem, Surroundings, Written, reload};

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

/// One of its users is named by a variable.
const SHOP: &str = "[pool]\nsize = 20\n[[user]]\nname = \"app\"\npassword = \"one\"\n[[user]]\nname = \"${WHO}.b\"\npassword = \"two\"\n\
    [[database]]\nname = \"shop\"\nsharding_key = \"user_id\"\ntables.users.key = \"id\"\n\
    [[database.shard]]\nname = \"a\"\nprimary = \"postgres://app@h1/shop\"\nreplicas = [\"postgres://app@h2/shop\"]\n\
    [[database.shard]]\nname = \"b\"\nprimary = \"postgres://app@h3/shop\"\n";
fn around() -> Surroundings<'static> {
    Surroundings {
        variable: &|name| (name == "WHO").then(|| "ann".to_owned()),
        read: &|_| Err(io::Error::from(io::ErrorKind::NotFound)),
    }
}

fn bare(value: &str) -> Written {
    Written::Bare(value.to_owned())
}

fn quoted(value: &str) -> Written {
    Written::Quoted(value.to_owned())
}

#[test]
fn a_setting_is_set_as_if_the_file_said_so() {
    let config = Config::parse_in(SHOP, &around()).unwrap();
    let changed = |key: &str, value: &Written| -> String {
        let new = config.with_in(key, value, &around()).unwrap_or_else(|problems| panic!("{key}: {problems:?}"));
        reload::diff(&config, &new).iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    };
    for (key, value, change) in [
        ("pool.size", bare("7"), "pool.size: 20 -> 7"),
        ("pool.size", quoted("7"), "pool.size: 20 -> 7"),
        ("default_pool_size", bare("7"), "pool.size: 20 -> 7"),
        ("pool.mode", bare("session"), "pool.mode: transaction -> session"),
        ("pool.wait_timeout", bare("3s"), "pool.wait_timeout: 10s -> 3s"),
        ("query_wait_timeout", bare("2.5"), "pool.wait_timeout: 10s -> 2500ms"),
        ("server_lifetime", quoted("60"), "pool.lifetime: 1h -> 1m"),
        ("limits.merge_buffer_max", quoted("1MB"), "limits.merge_buffer_max: 64MB -> 1MB"),
        ("limits.query_shapes_max", bare("10"), "limits.query_shapes_max: 1000 -> 10"),
        ("limits.sequence_block_max", bare("10"), "limits.sequence_block_max: 1000 -> 10"),
        ("replicas.lag_max", quoted("1m"), "replicas.lag_max: 10s -> 1m"),
        ("user.app.pool.size", bare("3"), "user.app.pool.size: (none) -> 3"),
        ("user.app.password", quoted("three"), "user.app.password: (not shown) -> (not shown)"),
        ("user.ann.b.role", bare("admin"), "user.ann.b.role: app -> admin"),
        ("database.shop.pool.mode", bare("session"), "database.shop.pool.mode: (none) -> session"),
        ("database.shop.tables.users", quoted("reference"), "database.shop.tables.users: key id -> reference"),
        ("database.shop.tables.x", quoted("local on b"), "database.shop.tables.x: (none) -> local on b"),
        (
            "database.shop.shard.b.primary",
            quoted("postgres://app@h4/shop"),
            "database.shop.shard.b.primary: app@h3:5432/shop -> app@h4:5432/shop",
        ),
        (
            "database.shop.shard.a.replicas.0",
            quoted("postgres://app@h5/shop"),
            "database.shop.shard.a.replicas.0: app@h2:5432/shop -> app@h5:5432/shop",
        ),
    ] {
        assert_eq!(changed(key, &value), change, "{key}");
    }

    // One after another, and over what a URL says.
    let twice = config.with_in("pool.size", &bare("7"), &around()).unwrap();
    let twice = twice.with_in("pool.waiting_max", &bare("5"), &around()).unwrap();
    assert_eq!((twice.pool.size, twice.pool.waiting_max), (7, 5));
    let of_url = Config::for_url("postgres://app:s$${cret@db/shop").unwrap();
    let set = of_url.with("user.app.pool.size", &bare("3")).unwrap();
    assert_eq!(reload::diff(&of_url, &set).len(), 1, "{:?}", reload::diff(&of_url, &set));
    assert_eq!(set.users[0].pool_size, Some(3));
    assert!(!format!("{:?}", set.source).contains("cret"));
}

#[test]
fn a_setting_that_a_file_could_not_have_is_not_set() {
    let config = Config::parse_in(SHOP, &around()).unwrap();
    let refused = |key: &str, value: &Written| config.with_in(key, value, &around()).unwrap_err()[0].text.clone();
    for (key, value, said) in [
        ("pool.size", bare("0"), "pool.size: 0 is not a number from 1 to 1000000"),
        ("pool.size", bare("1000"), "pool.size is more than pool.instance_connections_max (90) allows"),
        ("pool.size", bare("many"), "pool.size: expected a number, found a string"),
        ("pool.sise", bare("7"), "unknown key `pool.sise`, did you mean `size`?"),
        ("pool.wait_timeout", quoted("5"), "pool.wait_timeout: 5 needs a unit: \"5s\" or \"5ms\""),
        ("query_wait_timeout", bare("long"), "\"long\" is not a duration"),
        ("pool.mode", bare("sesion"), "pool.mode: \"sesion\" is unknown"),
        ("pools.size", bare("7"), "unknown key `pools`, did you mean `pool`?"),
        ("work_mem", bare("7"), "there is no setting work_mem; SHOW CONFIG lists them"),
        ("user.nobody.pool.size", bare("7"), "there is no setting user.nobody.pool.size"),
        (
            "database.shop.shard.c.primary",
            quoted("postgres://h/x"),
            "there is no setting database.shop.shard.c.primary",
        ),
        ("database.shop.tables.users", quoted("odd"), "there is no setting database.shop.tables.users"),
        ("user.app.password", quoted(""), "user.password: must not be empty"),
        ("pool", bare("7"), "there is no setting pool"),
        ("", bare("7"), "there is no setting"),
    ] {
        let text = refused(key, &value);
        assert!(text.contains(said), "{key}: {text}");
    }
}

mod import {
    //! What other poolers' files become must be a configuration, and say what it has left out.

    use pgsluice::config::{Config, PoolMode};
    use pgsluice::import::import;

    const INI: &str = "\
;; a comment
[databases]
app = host=10.0.0.1 port=5433 dbname=shop user=svc password='it''s #1' pool_size=7 pool_mode=session
other = host=10.0.0.2 connect_query='SET x = 1'
* = host=10.0.0.3
[users]
app = pool_mode=session pool_size=3
[pgbouncer]
listen_addr = *
listen_port = 6433
auth_type = scram-sha-256
auth_file = userlist.txt
admin_users = boss, app
stats_users = watcher
pool_mode = transaction
default_pool_size = 30
max_client_conn = 500
query_wait_timeout = 2.5
server_lifetime = 3600
max_prepared_statements = 150
ignore_startup_parameters = extra_float_digits
dns_max_ttl = 15
";

    #[test]
    fn a_pgbouncer_ini_becomes_a_configuration() {
        let users = "\"app\" \"se\"\"cret${X}\"\n\"boss\" \"\"\n";
        let included = |name: &str| (name == "userlist.txt").then(|| users.to_owned()).ok_or("no such file".to_owned());
        let imported = import("pgbouncer.ini", INI, included).unwrap();
        let config = Config::parse(&imported.toml).unwrap_or_else(|problems| panic!("{problems:?}\n{}", imported.toml));
        assert_eq!(config.listen.address.to_string(), "0.0.0.0:6433");
        assert_eq!((config.listen.clients_max, config.pool.size, config.pool.mode), (500, 30, PoolMode::Transaction));
        assert_eq!(config.pool.wait_timeout.as_millis(), 2500);
        let primary = &config.databases[0].shards[0].primary;
        assert_eq!((primary.address(), primary.database.as_str()), ("10.0.0.1:5433".to_owned(), "shop"));
        assert_eq!(primary.password.as_deref(), Some("it's #1"));
        assert_eq!(config.users.iter().filter(|user| user.name == "app" || user.name == "boss").count(), 1);
        let notes = imported.notes.join("\n");
        for left_out in ["dns_max_ttl = 15", "connect_query", "* = host=10.0.0.3", "watcher", "boss"] {
            assert!(notes.contains(left_out), "{left_out} is not in:\n{notes}");
        }
        assert!(!notes.contains("ignore_startup_parameters"), "{notes}");
        for (wrong, said) in [("[databases]\nnonsense\n", "line 2"), ("[pgpool]\nx = 1\n", "[pgpool]")] {
            assert!(import("pgbouncer.ini", wrong, included).unwrap_err().contains(said));
        }
        assert!(import("haproxy.cfg", "", included).is_err());
    }

    #[test]
    fn a_pgcat_toml_becomes_a_configuration() {
        let text = "\
[general]
host = \"0.0.0.0\"
port = 6432
enable_prometheus_exporter = true
prometheus_exporter_port = 9930
connect_timeout = 5000
admin_username = \"admin\"
admin_password = \"secret\"
ban_time = 60
[plugins]
[pools.app]
pool_mode = \"transaction\"
query_parser_enabled = true
[pools.app.users.0]
username = \"svc\"
password = \"pw\"
pool_size = 9
[pools.app.shards.0]
servers = [[\"10.0.0.1\", 5432, \"primary\"], [\"10.0.0.2\", 5432, \"replica\"]]
database = \"shop\"
";
        let imported = import("pgcat.toml", text, |_| Err(String::new())).unwrap();
        let config = Config::parse(&imported.toml).unwrap_or_else(|problems| panic!("{problems:?}\n{}", imported.toml));
        let shard = &config.databases[0].shards[0];
        assert_eq!((shard.primary.address().as_str(), shard.replicas.len()), ("10.0.0.1:5432", 1));
        let notes = imported.notes.join("\n");
        for left_out in ["ban_time", "[plugins]", "query_parser_enabled"] {
            assert!(notes.contains(left_out), "{left_out} is not in:\n{notes}");
        }
        assert!(import("pgcat.toml", "[general\n", |_| Err(String::new())).is_err());
    }
}
