//! psql: scripts, its own commands, several statements in one `-c`.

use std::process::Command;

use crate::sides::{Part, Sides, check, transcript};

#[test]
fn scripts() {
    let sides = Sides::start();
    for (part, file) in [(Part::Whole, "whole.psql"), (Part::Keyed, "keyed.psql")] {
        sides.compare(part, |url| {
            let text = transcript(Command::new("psql").args(["-X", "-a", "-d", url, "-f"]).arg(check(file)));
            let own_words = |line: &&str| !line.contains("(every ") && !line.contains("with PID");
            let lines: Vec<&str> = text.lines().filter(own_words).collect();
            lines.join("\n")
        });
    }
}

#[test]
fn texts_of_several_statements() {
    let sides = Sides::start();
    let texts: &[&[&str]] = &[
        &["SELECT 1; SELECT 2", "SELECT 3"],
        &["CREATE TABLE psql_c (a int PRIMARY KEY); INSERT INTO psql_c VALUES (1); SELECT * FROM psql_c"],
        &["BEGIN; INSERT INTO psql_c VALUES (2); COMMIT; INSERT INTO psql_c VALUES (3); SELECT count(*) FROM psql_c"],
        &["SET work_mem = '7MB'", "SHOW work_mem", "\\echo between", "SELECT current_setting('work_mem') AS set"],
        &["DROP TABLE psql_c"],
    ];
    for single_transaction in [false, true] {
        sides.compare(Part::Whole, |url| {
            texts.iter().fold(String::new(), |mut all, commands| {
                let mut psql = Command::new("psql");
                psql.args(["-X", "-d", url]);
                if single_transaction {
                    psql.arg("-1");
                }
                for command in *commands {
                    psql.args(["-c", command]);
                }
                all.push_str(&transcript(&mut psql));
                all
            })
        });
    }
}
