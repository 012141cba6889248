//! Golden plans: SQL in, plan out, as text that people read.
//!
//! A file holds cases: a comment of one sentence, `> SQL`, `---`, the plan. `UPDATE_GOLDEN=1` writes
//! what is planned now; the difference is for people to judge.

#![expect(clippy::unwrap_used, reason = "a test stops where it is surprised")]
#![expect(clippy::disallowed_methods, reason = "golden files are read and written; the crate itself does no I/O")]

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use pgsluice_sharding::ShardId;
use pgsluice_sharding::catalog::{Catalog, Collation, DefaultKind, TableRule, TableRules};
use pgsluice_sharding::sql::{Limits, Planner};

fn catalog() -> Catalog {
    let rules = TableRules {
        sharding_key: Some("user_id".into()),
        tables: HashMap::from([
            ("users".into(), TableRule::Key("id".into())),
            ("handles".into(), TableRule::Key("handle".into())),
            ("nicks".into(), TableRule::Key("nick".into())),
            ("plans".into(), TableRule::Reference),
            ("countries".into(), TableRule::Reference),
            ("members".into(), TableRule::Key("id".into())),
            ("regions".into(), TableRule::Reference),
            ("audit_log".into(), TableRule::Local(ShardId(1))),
        ]),
        default: DefaultKind::Local,
    };
    let schema = fs::read_to_string(folder().join("schema.sql")).unwrap();
    let mut catalog = Catalog::from_ddl(&schema, &rules, 3).unwrap();
    catalog.default_collation = Collation::Bytes;
    catalog
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plans")
}

/// One case of a golden file.
struct Case {
    comment: String,
    sql: String,
    plan: String,
}

fn cases(text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    let mut in_plan = true;
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            cases.push(Case { comment: comment.into(), sql: String::new(), plan: String::new() });
            in_plan = false;
        } else if let Some(sql) = line.strip_prefix("> ") {
            let case = cases.last_mut().expect("a case begins with a comment");
            writeln!(case.sql, "{sql}").unwrap();
        } else if line == "---" {
            in_plan = true;
        } else if in_plan && let Some(case) = cases.last_mut() {
            writeln!(case.plan, "{line}").unwrap();
        }
    }
    for case in &mut cases {
        case.sql.truncate(case.sql.trim_end().len());
        case.plan.truncate(case.plan.trim_end().len());
    }
    cases
}

fn planned(planner: &mut Planner, catalog: &Catalog, sql: &str) -> String {
    match planner.plan(catalog, None, sql) {
        Err(refusal) => {
            let position = refusal.position.map(|position| format!(" at {position}")).unwrap_or_default();
            format!("Error{position}: {refusal}")
        }
        Ok(script) => {
            let mut out = String::new();
            for statement in &script.statements {
                let pin = statement.effects.pin.map(|pin| format!(" pin {pin:?}")).unwrap_or_default();
                let command = format!("{:?}", statement.command);
                writeln!(out, "{command} {:?}{pin}\n{:#}", statement.access, statement.plan).unwrap();
                if let Some(execute) = &statement.execute {
                    writeln!(out, "{execute:?}").unwrap();
                }
            }
            out.trim_end().to_owned()
        }
    }
}

#[test]
fn plans_are_as_written() {
    let catalog = catalog();
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut wrong = String::new();
    let mut files: Vec<PathBuf> = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "plan"));
    files.sort();
    assert!(!files.is_empty());
    for path in files {
        let mut planner = Planner::new(Limits::default());
        let text = fs::read_to_string(&path).unwrap();
        let mut new = String::new();
        for case in cases(&text) {
            let plan = planned(&mut planner, &catalog, &case.sql);
            if plan != case.plan {
                writeln!(
                    wrong,
                    "{}: {}\n{}\n--- got\n{plan}\n--- wanted\n{}\n",
                    path.display(),
                    case.comment,
                    case.sql,
                    case.plan
                )
                .unwrap();
            }
            let sql: Vec<String> = case.sql.lines().map(|line| format!("> {line}")).collect();
            writeln!(new, "# {}\n{}\n---\n{plan}\n", case.comment, sql.join("\n")).unwrap();
        }
        if update {
            fs::write(&path, format!("{}\n", new.trim_end())).unwrap();
        }
    }
    assert!(update || wrong.is_empty(), "{wrong}");
}
