//! Random histories of statements that write: each statement is answered as by one PostgreSQL and leaves the same rows behind, each on
//! its shard; or over several shards it is refused, and then the history goes without it.

use std::env;

use pgsluice_sharding::key::{Format, Input, KeyType};
use pgsluice_sharding::{ShardId, ShardMap};

use super::data::{Kind, Table, Tables};
use super::grammar::Grammar;
use super::random::Random;
use super::select::{Select, Written};
use super::writes::LOCAL;
use super::{FIRST_OWN_OID, done};
use crate::support::running::{RULES, Running, database_config, databases, shared, superuser};
use crate::support::wire::{self, Answer, Row, Wire};

/// Histories of the same tables.
const HISTORIES_PER_SEED: usize = 60;
const HISTORIES: usize = 120;
const DIFFERENCES_SHOWN: usize = 6;
/// As the configuration has it.
const BUCKETS: u16 = 4096;

#[test]
fn random_writes_do_the_same_as_on_one_postgres_or_are_refused() {
    let number = |name: &str, default: u64| env::var(name).map_or(default, |text| text.parse().unwrap());
    let histories = usize::try_from(number("GENERATED_HISTORIES", HISTORIES as u64)).unwrap();
    let first = number("GENERATED_SEED", 1);
    let mut tally = Tally::default();
    for seed in first..first + histories.div_ceil(HISTORIES_PER_SEED) as u64 {
        run(seed, &mut tally);
    }
    let mut reasons: Vec<(usize, &str, &str)> =
        tally.refusals.iter().map(|(text, (n, example))| (*n, text.as_str(), example.as_str())).collect();
    reasons.sort_unstable_by(|a, b| b.cmp(a));
    println!(
        "{} writes answered, {} of them with an error; {} refused: {reasons:#?}",
        tally.answered, tally.errors, tally.refused
    );
    let shown = &tally.differences[..tally.differences.len().min(DIFFERENCES_SHOWN)];
    assert!(
        tally.differences.is_empty(),
        "{} differences, the first:\n\n{}",
        tally.differences.len(),
        shown.join("\n\n")
    );
    assert!(tally.answered > 3 * tally.refused, "many writes are refused");
}

#[derive(Default)]
struct Tally {
    answered: usize,
    errors: usize,
    refused: usize,
    /// How often, and one of them.
    refusals: std::collections::HashMap<String, (usize, String)>,
    differences: Vec<String>,
}

/// How a step is sent.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Simple,
    Text,
    Binary,
    /// Its portal gives two rows first, then the rest.
    Portions,
    /// By PREPARE and EXECUTE.
    Prepared,
}

/// One step of a history.
#[derive(Clone)]
struct Step {
    written: Vec<Written>,
    way: Way,
    /// It is a write, by which a refusal counts.
    writes: bool,
    table: &'static str,
    in_order: bool,
}

/// What came of a step.
struct Seen {
    answer: Answer,
    /// The rows of the table it writes, as they are then.
    rows: Vec<Row>,
}

/// One database, plain or behind a router.
struct Side {
    wire: Wire,
    /// Its parts, past the router.
    direct: Vec<Wire>,
    _router: Option<Running>,
}

/// A row as it is at the beginning of each history.
struct Stored {
    /// The value of its key, for rows of which only one shard has each.
    key: Option<String>,
    sql: String,
}

struct World {
    key_type: KeyType,
    key_characters: Option<u32>,
    rows: Vec<Stored>,
    tables: Vec<&'static str>,
    /// The plain one, and those with one, two and three shards.
    sides: Vec<Side>,
}

/// What hangs on the tables, acts when they are written, or hides some of their rows; not all of it in every world.
fn acting(random: &mut Random, key: &str) -> Vec<String> {
    let check = if random.chance(50) { "WITH CHECK OPTION" } else { "" };
    let mut setup = vec![
        format!(
            "CREATE TABLE notes (user_id {key} NOT NULL, no integer NOT NULL, note text, PRIMARY KEY (user_id, no))"
        ),
        format!("CREATE VIEW few_orders AS SELECT qty AS amount, no, user_id FROM orders WHERE qty < 50 {check}"),
    ];
    let all: [&[&str]; 3] = [
        &["ALTER TABLE notes ADD FOREIGN KEY (user_id, no) REFERENCES orders ON DELETE CASCADE ON UPDATE CASCADE"],
        &[
            "CREATE FUNCTION touched() RETURNS trigger LANGUAGE plpgsql AS \
             $$BEGIN NEW.name := upper(NEW.name); IF NEW.age = 3 THEN RETURN NULL; END IF; RETURN NEW; END$$",
            "CREATE TRIGGER touched BEFORE INSERT OR UPDATE ON users FOR EACH ROW EXECUTE FUNCTION touched()",
            "CREATE FUNCTION titled() RETURNS trigger LANGUAGE plpgsql AS \
             $$BEGIN NEW.title := coalesce(NEW.title, NEW.name); RETURN NEW; END$$",
            "CREATE TRIGGER titled BEFORE INSERT OR UPDATE ON plans FOR EACH ROW EXECUTE FUNCTION titled()",
            "CREATE FUNCTION looked() RETURNS trigger LANGUAGE plpgsql AS \
             $$BEGIN IF NEW.no = 7 AND NEW.qty > 90 THEN RAISE EXCEPTION 'looked at'; END IF; RETURN NULL; END$$",
            "CREATE TRIGGER looked AFTER UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION looked()",
        ],
        &[
            "ALTER TABLE items ENABLE ROW LEVEL SECURITY",
            "ALTER TABLE items FORCE ROW LEVEL SECURITY",
            "CREATE POLICY seen ON items USING (no <> 211) WITH CHECK (no % 100 <> 77)",
        ],
    ];
    for part in all {
        if random.chance(50) {
            setup.extend(part.iter().map(|sql| (*sql).to_owned()));
        }
    }
    setup
}

fn run(seed: u64, tally: &mut Tally) {
    let mut random = Random::new(seed);
    let tables = Tables::new(&mut random, false);
    let mut world = World::new(&tables, &mut random);
    for case in 0..HISTORIES_PER_SEED {
        let mut random = Random::new(seed << 32 | 1 << 31 | case as u64);
        let mut history = history(&tables, &mut random);
        let Some(found) = world.check(&mut history, Some(tally)) else { continue };
        let (history, found) = world.shrink(history, found);
        let steps: Vec<String> = history.iter().map(Step::to_string).collect();
        tally.differences.push(format!("seed {seed}, history {case}\n{}\n{found}", steps.join("\n")));
    }
}

/// A few statements, alone or in blocks.
fn history(tables: &Tables, random: &mut Random) -> Vec<Step> {
    let mut steps = Vec::new();
    let in_block = random.chance(50);
    let mut savepoints = 0;
    if in_block {
        steps.push(Step::plain("BEGIN"));
    }
    for _ in 0..2 + random.below(5) {
        match random.below(8) {
            0 if in_block => {
                steps.push(Step::plain("SAVEPOINT s"));
                savepoints += 1;
            }
            1 if savepoints > 0 => steps.push(Step::plain("ROLLBACK TO s")),
            2 if in_block && random.chance(20) => steps.push(Step::plain("SELECT 1 / 0")),
            _ => steps.push(Step::random(tables, random)),
        }
    }
    if in_block {
        steps.push(Step::plain(if random.chance(75) { "COMMIT" } else { "ROLLBACK" }));
        steps.push(Step::random(tables, random));
    }
    steps
}

impl Step {
    fn plain(sql: &str) -> Self {
        let written = vec![Written { sql: sql.to_owned(), parameters: Vec::new() }];
        Self { written, way: Way::Simple, writes: false, table: "", in_order: false }
    }

    /// Mostly one write; now and then several that are sent at once.
    fn random(tables: &Tables, random: &mut Random) -> Self {
        let way =
            *random.pick(&[Way::Simple, Way::Simple, Way::Text, Way::Text, Way::Binary, Way::Binary, Way::Prepared]);
        let way = if random.chance(3) { Way::Portions } else { way };
        let count = if matches!(way, Way::Simple | Way::Text) && random.chance(12) { 2 } else { 1 };
        let (mut table, mut in_order, mut written) = ("", true, Vec::new());
        for _ in 0..count {
            let mut grammar = Grammar::new(tables, random);
            let write = grammar.write();
            let select = Select { write: Some(write.sql), literals: grammar.literals, ..Select::default() };
            let has_parameters = !matches!(way, Way::Simple | Way::Prepared);
            written.push(select.write(tables, random, has_parameters));
            table = write.table;
            in_order &= write.in_order;
        }
        Self { written, way, writes: true, table, in_order }
    }

    fn ask(&self, wire: &mut Wire) -> Answer {
        let sqls: Vec<&str> = self.written.iter().map(|written| written.sql.as_str()).collect();
        let mut answer = match self.way {
            Way::Simple => wire.query(&sqls.join("; ")),
            Way::Prepared => {
                let prepared = wire.query(&format!("PREPARE p AS {}", sqls[0]));
                if prepared.error.is_some() {
                    return prepared;
                }
                let answer = wire.query("EXECUTE p");
                if answer.status != b'E' {
                    done(wire, "DEALLOCATE p");
                }
                answer
            }
            way => {
                let mut out = Vec::new();
                for written in &self.written {
                    let parameters: Vec<Option<&str>> = written.parameters.iter().map(Option::as_deref).collect();
                    out.extend(wire::parse("", &written.sql));
                    out.extend(wire::bind("", "", &parameters, way == Way::Binary));
                    out.extend(wire::message(b'D', b"P\0"));
                    if way == Way::Portions {
                        out.extend(wire::message(b'E', b"\0\0\0\0\x02"));
                    }
                    out.extend(wire::execute(""));
                }
                out.extend(wire::sync());
                wire.send(&out);
                wire.answer(&[])
            }
        };
        for column in answer.results.iter_mut().filter_map(|result| result.columns.as_mut()).flatten() {
            column.type_oid = column.type_oid.min(FIRST_OWN_OID);
        }
        answer
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let texts: Vec<String> = self
            .written
            .iter()
            .map(|written| match written.parameters.as_slice() {
                [] => written.sql.clone(),
                parameters => format!("{} {parameters:?}", written.sql),
            })
            .collect();
        write!(f, "  {:?}: {}", self.way, texts.join(";\n    "))
    }
}

impl World {
    fn new(tables: &Tables, random: &mut Random) -> Self {
        let key_type = match tables.type_name(Kind::Key) {
            "bigint" => KeyType::Int8,
            "integer" => KeyType::Int4,
            "smallint" => KeyType::Int2,
            "uuid" => KeyType::Uuid,
            _ => KeyType::Text,
        };
        let mut setup: Vec<String> = tables.types().into_iter().map(str::to_owned).collect();
        setup.extend(tables.list.iter().map(|table| tables.create(table)));
        let key = tables.type_name(Kind::Key);
        setup.push(format!("CREATE TABLE {LOCAL} (no integer PRIMARY KEY, note text, who {key})"));
        // What a write may break, and what a row gets by itself.
        let more = [
            "ALTER TABLE users ADD CONSTRAINT not_too_old CHECK (age < 101)",
            "ALTER TABLE users ADD doubled integer GENERATED ALWAYS AS (small * 2) STORED",
            "ALTER TABLE users ALTER name SET DEFAULT 'nobody'",
            "ALTER TABLE orders ADD CONSTRAINT few CHECK (qty < 200)",
            "ALTER TABLE orders ALTER qty SET DEFAULT 1 + 2",
            "ALTER TABLE items ALTER mood SET DEFAULT 'ok'",
            "ALTER TABLE plans ALTER fee SET DEFAULT 0.50",
        ];
        setup.extend(more.map(str::to_owned));
        setup.extend(acting(random, key));
        let mut sides = Vec::new();
        for count in 0..=3 {
            let names = databases("history", count.max(1));
            let mut direct: Vec<Wire> = names.iter().map(|name| Wire::connect(shared().port(), "app", name)).collect();
            direct.iter_mut().for_each(|wire| setup.iter().for_each(|sql| done(wire, sql)));
            // Policies hide nothing from a superuser: rows that the histories cannot see go, and are compared, too.
            direct = names.iter().map(|name| superuser(shared(), name)).collect();
            // Over three shards merges go over to a final query.
            let limits = if count == 3 { "[limits]\nmerge_buffer_max = \"1KB\"\n" } else { "" };
            let router = (count > 0).then(|| {
                let router = Running::start(&format!("{limits}{}", database_config(shared(), &names, RULES)));
                router.wait_until_ready();
                router
            });
            let wire = match &router {
                Some(router) => router.client(),
                None => Wire::connect(shared().port(), "app", &names[0]),
            };
            sides.push(Side { wire, direct, _router: router });
        }
        let stored: Vec<&Table> = tables.list.iter().filter(|table| table.view.is_none()).collect();
        let mut rows = Vec::new();
        for table in &stored {
            let limit = if table.name == "users" { 7 } else { 25 };
            for sql in tables.inserts(table, random).into_iter().take(limit) {
                let named = table.columns.iter().map(|column| column.name).collect::<Vec<_>>().join(", ");
                let sql = sql.replacen(" VALUES", &format!(" ({named}) VALUES"), 1);
                let key = (!Tables::is_reference(table)).then(|| first_value(&sql));
                rows.push(Stored { key, sql });
            }
        }
        let names = stored.iter().map(|table| table.name).chain([LOCAL, "notes"]).collect();
        let key_characters = (tables.type_name(Kind::Key) == "varchar(5)").then_some(5);
        Self { key_type, key_characters, rows, tables: names, sides }
    }

    /// The rows as they are at the beginning.
    fn reset(&mut self, side: usize) {
        let shards = self.sides[side].direct.len();
        for shard in 0..shards {
            let mut sql: Vec<String> = self.tables.iter().map(|table| format!("DELETE FROM {table}")).collect();
            for row in &self.rows {
                let here = row.key.as_ref().is_none_or(|key| self.shard_of(key, shards) == shard);
                sql.extend(here.then(|| row.sql.clone()));
            }
            sql.push("INSERT INTO notes SELECT user_id, no, 'note' FROM orders WHERE no % 2 = 0".to_owned());
            done(&mut self.sides[side].direct[shard], &sql.join("; "));
        }
    }

    fn shard_of(&self, key: &str, shards: usize) -> usize {
        let input = Input { bytes: Some(key.as_bytes()), format: Format::Text, type_oid: 0 };
        let key = self.key_type.coerce(input).unwrap().unwrap();
        let key = match self.key_characters {
            Some(characters) => key.stored_in(characters),
            None => key,
        };
        let ShardId(shard) = ShardMap::even(BUCKETS, u16::try_from(shards).unwrap()).shard_of(&key);
        shard.into()
    }

    /// Does a history on one side; or the step that is refused, and why.
    fn observe(&mut self, side: usize, history: &[Step]) -> Result<Vec<Seen>, (usize, String)> {
        self.reset(side);
        let wire = &mut self.sides[side].wire;
        done(wire, "DEALLOCATE ALL");
        let mut all = Vec::new();
        for (at, step) in history.iter().enumerate() {
            let answer = step.ask(wire);
            if answer.sqlstate() == "0A000" && side > 1 {
                if answer.status != b'I' {
                    wire.query("ROLLBACK");
                }
                let error = answer.error.as_ref().unwrap();
                return Err((at, format!("{} {}", error.message(), error.field(b'D')).trim_end().to_owned()));
            }
            let mut rows = Vec::new();
            if answer.status != b'E' && !step.table.is_empty() {
                let read = wire.query(&format!("SELECT * FROM {}", step.table));
                assert!(read.error.is_none(), "{:?}", read.error);
                rows = read.results[0].rows.clone();
                rows.sort();
            }
            all.push(Seen { answer, rows });
        }
        wire.query("ROLLBACK");
        Ok(all)
    }

    /// What differs, if anything, when the steps that are refused are left out.
    fn check(&mut self, history: &mut Vec<Step>, mut tally: Option<&mut Tally>) -> Option<String> {
        let mut routed = Vec::new();
        while routed.len() < 2 {
            match self.observe(2 + routed.len(), history) {
                Ok(seen) => routed.push(seen),
                Err((at, reason)) => {
                    let step = history.remove(at);
                    routed.clear();
                    if let Some(tally) = tally.as_mut().filter(|_| step.writes) {
                        tally.refused += 1;
                        let of = tally.refusals.entry(reason).or_default();
                        of.0 += 1;
                        of.1 = step.to_string();
                    }
                }
            }
        }
        let contents: Vec<_> = [2, 3].map(|side| self.contents(side)).into();
        let plain = self.observe(0, history).unwrap_or_default();
        let expected = self.contents(0);
        let single = self.observe(1, history).unwrap_or_default();
        if let Some(tally) = tally {
            for (step, seen) in history.iter().zip(&plain).filter(|(step, _)| step.writes) {
                tally.answered += step.written.len();
                tally.errors += usize::from(seen.answer.error.is_some());
            }
        }
        let mut differences = Vec::new();
        for (shards, seen) in [(1, &single), (2, &routed[0]), (3, &routed[1])] {
            for ((step, plain), seen) in history.iter().zip(&plain).zip(seen) {
                if let Some(difference) = differs(step, plain, seen) {
                    differences.push(format!("over {shards} shards:\n{step}\n  {difference}"));
                    break;
                }
            }
        }
        for (shards, found) in [2, 3].into_iter().zip(contents) {
            match found {
                Err(misplaced) => differences.push(format!("over {shards} shards: {misplaced}")),
                Ok(found) if Ok(&found) != expected.as_ref() => {
                    differences.push(format!("over {shards} shards other rows are left behind"));
                }
                Ok(_) => {}
            }
        }
        (!differences.is_empty()).then(|| differences.join("\n"))
    }

    /// All rows of a side, or what is where it does not belong.
    fn contents(&mut self, side: usize) -> Result<Vec<Vec<Row>>, String> {
        let shards = self.sides[side].direct.len();
        let mut all = Vec::new();
        for table in self.tables.clone() {
            let direct = &mut self.sides[side].direct;
            let parts: Vec<Vec<Row>> = direct
                .iter_mut()
                .map(|wire| {
                    let mut rows = wire.query(&format!("SELECT * FROM {table}")).results[0].rows.clone();
                    rows.sort();
                    rows
                })
                .collect();
            if table == "plans" {
                if parts.iter().any(|part| *part != parts[0]) {
                    return Err("the copies of plans are not the same".to_owned());
                }
                all.push(parts[0].clone());
                continue;
            }
            for (shard, rows) in parts.iter().enumerate().filter(|_| table != LOCAL) {
                for row in rows {
                    let key = String::from_utf8(row[0].clone().unwrap_or_default()).unwrap();
                    if self.shard_of(&key, shards) != shard {
                        return Err(format!("a row of {table} with key {key} is on shard {shard}"));
                    }
                }
            }
            let mut rows = parts.concat();
            rows.sort();
            all.push(rows);
        }
        Ok(all)
    }

    /// Leaves steps out as long as something differs.
    fn shrink(&mut self, mut history: Vec<Step>, mut found: String) -> (Vec<Step>, String) {
        loop {
            let smaller = (0..history.len()).find_map(|at| {
                let mut smaller = history.clone();
                smaller.remove(at);
                let found = self.check(&mut smaller, None)?;
                Some((smaller, found))
            });
            match smaller {
                Some(smaller) => (history, found) = smaller,
                None => return (history, found),
            }
        }
    }
}

/// What a row's INSERT gives for its first column.
fn first_value(sql: &str) -> String {
    let values = sql.split_once(" VALUES (").unwrap().1;
    match values.strip_prefix('\'') {
        None => values.split([',', ')']).next().unwrap().to_owned(),
        Some(quoted) => {
            let quoted = quoted.replace("''", "\u{1}");
            quoted.split('\'').next().unwrap().replace('\u{1}', "'")
        }
    }
}

fn differs(step: &Step, expected: &Seen, got: &Seen) -> Option<String> {
    let (plain, answer) = (&expected.answer, &got.answer);
    if let (Some(plain), Some(error)) = (&plain.error, &answer.error) {
        // Of several things that are wrong with rows, either may be met first.
        let of_rows = |state: &str| ["21", "22", "23", "44"].contains(&&state[..2]) || state == "42501";
        let states = [plain.sqlstate(), error.sqlstate()];
        if states.iter().all(|state| of_rows(state)) && (states[0] != states[1] || states[0] == "23502") {
            return None;
        }
        let told = |fields: &wire::Fields| [b'C', b'M', b's', b't', b'n'].map(|tag| fields.field(tag).to_owned());
        if told(plain) != told(error) {
            return Some(format!("expected {plain:?}\n  got      {error:?}"));
        }
    } else if plain.error.is_some() != answer.error.is_some() {
        return Some(format!(
            "expected {:?} {:?}\n  got      {:?} {:?}",
            plain.error, plain.results, answer.error, answer.results
        ));
    }
    let results = |answer: &Answer| {
        let mut results = answer.results.clone();
        // What came before an error is nobody's.
        if answer.error.is_some() {
            results.retain(|result| !result.tag.is_empty());
        }
        if !step.in_order {
            results.iter_mut().for_each(|result| result.rows.sort());
        }
        results
    };
    let (before, after) = (results(plain), results(answer));
    if before != after {
        return Some(format!("expected {before:?}\n  got      {after:?}"));
    }
    if plain.status != answer.status {
        return Some(format!("status {} instead of {}", char::from(answer.status), char::from(plain.status)));
    }
    let text = |rows: &[Row]| -> Vec<String> {
        let cell = |cell: &Option<Vec<u8>>| {
            cell.as_ref().map_or("NULL".into(), |cell| String::from_utf8_lossy(cell).into_owned())
        };
        rows.iter().map(|row| row.iter().map(cell).collect::<Vec<_>>().join("|")).collect()
    };
    (expected.rows != got.rows).then(|| {
        let (before, after) = (text(&expected.rows), text(&got.rows));
        let missing: Vec<&String> = before.iter().filter(|row| !after.contains(row)).collect();
        let more: Vec<&String> = after.iter().filter(|row| !before.contains(row)).collect();
        format!("{} is left behind with\n    {more:?}\n  instead of\n    {missing:?}", step.table)
    })
}
