//! pg_dump and pg_restore: what is dumped and restored through the router is what was there.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::sides::{Part, Sides, check, transcript};

const EMPTY: &str = "DROP OWNED BY app";

#[test]
fn dump_and_restore() {
    let sides = Sides::start();
    let (direct, routed) = (sides.direct(Part::Whole), sides.routed(Part::Whole));
    transcript(
        Command::new("psql").args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", &direct, "-f"]).arg(check("dump.sql")),
    );
    let folder = std::env::temp_dir().join(format!("sluice-dump-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();

    let plain = dump(&direct, &["--format=plain"], &folder.join("direct.sql"));
    assert_eq!(dump(&routed, &["--format=plain"], &folder.join("routed.sql")), plain);
    assert_eq!(
        dump(&routed, &["--inserts", "--rows-per-insert=50"], &folder.join("routed-inserts.sql")),
        dump(&direct, &["--inserts", "--rows-per-insert=50"], &folder.join("inserts.sql")),
    );
    let custom = folder.join("routed.dump");
    pg_dump(&routed, &["--format=custom"], &custom);
    pg_dump(&routed, &["--format=directory", "--jobs=2"], &folder.join("routed.dir"));

    let same = |how: &str| {
        let again = dump(&direct, &["--format=plain"], &folder.join("again.sql"));
        assert!(again == plain, "{how}: the restored database differs");
        let again = dump(&routed, &["--format=plain"], &folder.join("again.sql"));
        assert!(again == plain, "{how}: the restored database differs through the router");
    };
    for file in ["routed.sql", "routed-inserts.sql"] {
        transcript(Command::new("psql").args(["-X", "-q", "-d", &direct, "-c", EMPTY]));
        let script = folder.join(file);
        transcript(Command::new("psql").args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", &routed, "-f"]).arg(script));
        same(file);
    }
    let ways: [(&str, &[&str]); 4] = [
        ("routed.dump", &["--exit-on-error"]),
        ("routed.dump", &["--single-transaction"]),
        ("routed.dump", &["--clean", "--if-exists", "--exit-on-error"]),
        ("routed.dir", &["--jobs=2", "--exit-on-error"]),
    ];
    for (file, options) in ways {
        if !options.contains(&"--clean") {
            transcript(Command::new("psql").args(["-X", "-q", "-d", &direct, "-c", EMPTY]));
        }
        transcript(Command::new("pg_restore").args(["-d", &routed]).args(options).arg(folder.join(file)));
        same(&format!("{file} {options:?}"));
    }
    fs::remove_dir_all(&folder).unwrap();
}

fn pg_dump(url: &str, options: &[&str], file: &Path) {
    transcript(Command::new("pg_dump").args(["--no-owner", "-d", url, "-f"]).arg(file).args(options));
}

/// The text of a dump, without what differs from one to the next.
fn dump(url: &str, options: &[&str], file: &Path) -> String {
    pg_dump(url, options, file);
    let text = fs::read_to_string(file).unwrap();
    let lasting = |line: &&str| !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict");
    text.lines().filter(lasting).collect::<Vec<_>>().join("\n")
}
