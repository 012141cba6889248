//! Reference tables written by statements that find other values each time they run: all copies get those of the first shard.

use crate::support::running::{RULES, Running, database_config, databases, shared, superuser};
use crate::support::wire::Wire;

/// A router over shards whose copies are looked at past it.
struct Copies {
    shards: Vec<String>,
    router: Running,
}

impl Copies {
    fn new(name: &str, shards: usize) -> Self {
        let shards = databases(name, shards);
        let router = Running::start(&database_config(shared(), &shards, RULES));
        router.wait_until_ready();
        Self { shards, router }
    }

    fn client(&self, sql: &[&str]) -> Wire {
        let mut wire = self.router.client();
        sql.iter().for_each(|sql| done(&mut wire, sql));
        wire
    }

    /// What all shards say alike.
    #[track_caller]
    fn same(&self, sql: &str) -> String {
        let told: Vec<String> = self.shards.iter().map(|shard| superuser(shared(), shard).text(sql)).collect();
        assert!(told.iter().all(|one| *one == told[0]), "{sql}: {told:#?}");
        told[0].clone()
    }
}

#[track_caller]
fn done(wire: &mut Wire, sql: &str) {
    let answer = wire.query(sql);
    assert_eq!(answer.sqlstate(), "", "{sql}: {:?}", answer.error);
}

#[track_caller]
fn refused(wire: &mut Wire, sql: &str, why: &str) {
    let answer = wire.query(sql);
    assert_eq!(answer.sqlstate(), "0A000", "{sql}: {:?}", answer.error);
    assert!(format!("{:?}", answer.error).contains(why), "{sql}: {:?}", answer.error);
}

const PLANS: &str = "SELECT count(*), count(DISTINCT token), md5(string_agg(p::text, ',' ORDER BY id)) FROM plans p";

#[test]
fn every_copy_gets_the_values_of_the_first_shard() {
    let copies = Copies::new("mirrored", 3);
    let mut wire = copies.client(&[
        "CREATE SEQUENCE numbers",
        "CREATE TABLE plans (id int PRIMARY KEY, token uuid, number bigint, luck float8, at timestamptz, twice float8 \
         GENERATED ALWAYS AS (luck * 2) STORED)",
        "INSERT INTO plans SELECT g, NULL, g FROM generate_series(1, 100) g",
    ]);
    for (sql, tag) in [
        ("UPDATE plans SET token = gen_random_uuid(), luck = random()", "UPDATE 100"),
        ("UPDATE plans SET number = nextval('numbers'), at = clock_timestamp() WHERE id <= 50", "UPDATE 50"),
        ("UPDATE plans AS p SET luck = random() + o.id FROM plans o WHERE o.id = p.id + 1", "UPDATE 99"),
        (
            "WITH r AS (SELECT random() AS r) UPDATE plans SET luck = (SELECT r FROM r), at = 'now' -- all\n",
            "UPDATE 100",
        ),
        ("UPDATE plans SET luck = random() WHERE false", "UPDATE 0"),
        ("DELETE FROM plans WHERE id > 90 AND random() >= 0", "DELETE 10"),
        (
            "INSERT INTO plans SELECT g, gen_random_uuid(), nextval('numbers'), random() FROM generate_series(91, 95) g",
            "INSERT 0 5",
        ),
        (
            "INSERT INTO plans (id, luck) SELECT g, random() FROM generate_series(91, 100) g ON CONFLICT DO NOTHING",
            "INSERT 0 5",
        ),
        (
            "INSERT INTO plans (id, luck) VALUES (1, random()), (101, 2) ON CONFLICT (id) DO UPDATE \
             SET token = gen_random_uuid(), luck = excluded.luck + random(), number = nextval('numbers')",
            "INSERT 0 2",
        ),
        (
            "INSERT INTO plans (id) VALUES (2) ON CONFLICT (id) DO UPDATE SET token = gen_random_uuid() WHERE plans.id > 2",
            "INSERT 0 0",
        ),
    ] {
        assert_eq!(wire.query(sql).tag(), tag, "{sql}");
        copies.same(PLANS);
    }
    // A half of the rows, whichever they are.
    let left = wire.query("DELETE FROM plans WHERE random() < 0.5");
    assert!(left.tag().starts_with("DELETE "), "{left:?}");
    assert!(!copies.same(PLANS).starts_with("101|"));
    assert_eq!(copies.same("SELECT count(*) FROM plans WHERE twice IS DISTINCT FROM luck * 2"), "0");
}

#[test]
fn what_comes_back_is_what_is_stored() {
    let copies = Copies::new("returned", 2);
    let mut wire = copies.client(&[
        "CREATE TABLE plans (id int PRIMARY KEY, token uuid, name text)",
        "INSERT INTO plans VALUES (1, NULL, 'a'), (2, NULL, 'b'), (3, NULL, NULL)",
    ]);
    let text = wire.text("UPDATE plans SET token = gen_random_uuid() WHERE id < 3 RETURNING *");
    assert_eq!(text, copies.same("SELECT * FROM plans WHERE id < 3 ORDER BY id"));
    for binary in [false, true] {
        let sql =
            "UPDATE plans SET token = gen_random_uuid(), name = $2 WHERE id = $1 RETURNING id, name, random() >= 0";
        let answer = wire.execute(sql, &[Some("2"), Some("new")], binary);
        assert_eq!(answer.tag(), "UPDATE 1");
        if !binary {
            assert_eq!(answer.text(), "2|new|t");
        }
        assert_eq!(copies.same("SELECT count(DISTINCT token) FROM plans WHERE name = 'new'"), "1");
    }
    // In a transaction that is rolled back nothing stays.
    let before = copies.same("SELECT string_agg(p::text, ',' ORDER BY id) FROM plans p");
    done(&mut wire, "BEGIN");
    done(&mut wire, "UPDATE plans SET name = md5(random()::text)");
    done(&mut wire, "ROLLBACK");
    assert_eq!(copies.same("SELECT string_agg(p::text, ',' ORDER BY id) FROM plans p"), before);
    let shown = wire.text("EXPLAIN UPDATE plans SET name = md5(random()::text)");
    assert!(shown.contains("its rows are then copied"), "{shown}");
    assert_eq!(copies.same("SELECT string_agg(p::text, ',' ORDER BY id) FROM plans p"), before);
}

#[test]
fn values_of_all_types_get_over() {
    let copies = Copies::new("kinds", 2);
    // The numbers of types are others on the second shard.
    superuser(shared(), &copies.shards[1]).query("CREATE TYPE first AS ENUM ('x'); CREATE TYPE second AS (a int)");
    let mut wire = copies.client(&[
        "CREATE TYPE mood AS ENUM ('sad', 'happy')",
        "CREATE TYPE pair AS (a integer, m mood)",
        "CREATE DOMAIN grade AS integer CHECK (value > 0)",
        "CREATE DOMAIN feeling AS mood",
        "CREATE TABLE plans (id grade, sort mood, \"odd \"\" name\" text, m mood, ms mood[], p pair, f feeling, l int[], tl text[], \
         fl float8[], dl timestamptz[], j jsonb, js json, b bytea, tag varchar(4), code char(4), n numeric(8,2), i interval, d date, c regclass, \
         x xml, pt point, r int4range, v tsvector, q tsquery, luck float8, PRIMARY KEY (sort, id))",
    ]);
    done(
        &mut wire,
        "INSERT INTO plans SELECT g, 'happy', 'o', 'sad', '{sad,NULL}', ROW(1, 'happy')::pair, 'sad', '[2:3]={1,NULL}', '{\"a,b\",NULL,\"\"}', \
         ARRAY[0.1, 1e300, 'NaN'], ARRAY['2024-01-02 03:04:05+00'::timestamptz, '-infinity'], '{\"a\": [1.50]}', '{\"a\":  1}', '\\x00ff', \
         'ab  ', 'a', 1.5, '1 day -02:03', '2024-01-02', 'plans', '<a/>', '(1,2)', '[1,5)', 'a:1 b', 'a & b', random() \
         FROM generate_series(1, 3) g",
    );
    done(&mut wire, "INSERT INTO plans (id, sort, luck) SELECT 9, 'sad', random()");
    let all = "SELECT string_agg(o::text, ',' ORDER BY sort, id) FROM plans o";
    let before = copies.same(all);
    assert!(before.contains("[2:3]={1,NULL}"), "{before}");
    done(&mut wire, "SET DateStyle = 'SQL, DMY'");
    done(&mut wire, "SET TimeZone = 'Asia/Tokyo'");
    done(&mut wire, "SET bytea_output = 'escape'");
    done(
        &mut wire,
        "UPDATE plans SET luck = random(), p = ROW(2, 'sad')::pair, ms = ms || ARRAY['happy'::mood], i = '-1 month', \"odd \"\" name\" = 'x'",
    );
    let after = copies.same(all);
    assert_ne!(before, after);
    assert!(after.contains("{sad,NULL,happy}") && after.contains("(2,sad)"), "{after}");
    // Digits would be lost.
    done(&mut wire, "SET extra_float_digits = -5");
    refused(&mut wire, "UPDATE plans SET fl = ARRAY[random() / 3, 1 / 3.0::float8]", "lose something");
    assert_eq!(copies.same(all), after);
    done(&mut wire, "RESET ALL");
    done(&mut wire, "UPDATE plans SET fl = ARRAY[random() / 3, 1 / 3.0::float8]");
    done(&mut wire, "DELETE FROM plans WHERE random() >= 0 AND sort = 'sad'");
    assert_eq!(copies.same("SELECT count(*) FROM plans"), "3");
}

#[test]
fn rows_that_cannot_be_found_again_are_refused() {
    let copies = Copies::new("unfound", 2);
    let mut wire = copies.client(&[
        "CREATE TABLE countries (code text, luck float8)",
        "CREATE TABLE plans (id int PRIMARY KEY, luck float8)",
        "INSERT INTO plans VALUES (1, 0)",
        // What is inserted need not be found.
        "INSERT INTO countries SELECT md5(random()::text), random() FROM generate_series(1, 5)",
    ]);
    let all = "SELECT string_agg(c::text, ',' ORDER BY code) FROM countries c";
    let before = copies.same(all);
    refused(&mut wire, "UPDATE countries SET luck = random()", "without a primary key");
    refused(&mut wire, "DELETE FROM countries WHERE luck < random()", "without a primary key");
    refused(&mut wire, "UPDATE plans SET id = id + floor(random() * 10)", "of its primary key changes");
    assert_eq!(copies.same(all), before);
    // One copy that is not like the other is found out.
    superuser(shared(), &copies.shards[1]).query("DELETE FROM plans");
    assert_eq!(wire.query("UPDATE plans SET luck = random()").sqlstate(), "40001");
    assert_eq!(superuser(shared(), &copies.shards[0]).text("SELECT luck FROM plans"), "0");
}

#[test]
fn sequences_go_on_behind_what_a_shard_has_taken() {
    let copies = Copies::new("numbered", 3);
    let mut wire = copies.client(&[
        "CREATE TABLE plans (id serial PRIMARY KEY, name text)",
        "INSERT INTO plans (name) VALUES ('a'), ('b')",
        "INSERT INTO plans (name) SELECT 'c' FROM generate_series(1, 10)",
        "INSERT INTO plans (name) VALUES ('d')",
    ]);
    assert_eq!(copies.same("SELECT count(*), count(DISTINCT id) FROM plans"), "13|13");
    assert_eq!(wire.text("SELECT currval('plans_id_seq') = max(id) FROM plans"), "t");
    done(&mut wire, "INSERT INTO plans (name) SELECT 'e'");
    // Only a server knows what it has given out.
    assert_eq!(wire.query("SELECT currval('plans_id_seq')").sqlstate(), "0A000");
}

/// Copies whose rows lie in another order on each shard.
fn turned(name: &str) -> (Copies, Wire) {
    let copies = Copies::new(name, 3);
    let wire = copies.client(&[
        "CREATE TABLE plans (id int PRIMARY KEY, number int, share float8, price numeric, words text)",
        "CREATE TABLE countries (code int, n int, share float8, price numeric)",
        "INSERT INTO plans SELECT g, g % 4, 0, 0 FROM generate_series(1, 40) g",
        "INSERT INTO countries SELECT g % 8, g, g::float8 / 7, CASE g % 2 WHEN 0 THEN 1.0 ELSE 1.00 END \
         FROM generate_series(1, 200) g",
    ]);
    for (n, shard) in copies.shards.iter().enumerate() {
        for table in ["plans", "countries"] {
            let mut past = superuser(shared(), shard);
            done(&mut past, &format!("CREATE TABLE moved AS SELECT * FROM {table}"));
            done(&mut past, &format!("DELETE FROM {table}"));
            let order = ["1, 2", "1 DESC, 2 DESC", "2, 1 DESC"][n];
            done(&mut past, &format!("INSERT INTO {table} SELECT * FROM moved ORDER BY {order}"));
            done(&mut past, "DROP TABLE moved");
        }
    }
    (copies, wire)
}

#[test]
fn what_depends_on_the_order_of_rows_is_found_once() {
    let (copies, mut wire) = turned("ordered");
    let all = "SELECT count(*), md5(string_agg(p::text, ',' ORDER BY id)) FROM plans p";
    for sql in [
        "UPDATE plans SET number = c.n FROM countries c WHERE c.code = plans.id % 8",
        "UPDATE plans SET number = (SELECT n FROM countries LIMIT 1)",
        "UPDATE plans SET number = (SELECT n FROM countries ORDER BY code LIMIT 1)",
        "UPDATE plans SET number = (SELECT n FROM countries OFFSET 199)",
        "UPDATE plans SET share = (SELECT sum(share) FROM countries)",
        "UPDATE plans SET share = (SELECT avg(share) FROM countries c WHERE c.code = plans.id)",
        "UPDATE plans SET words = (SELECT string_agg(n::text, ',') FROM countries)",
        "UPDATE plans SET words = (SELECT array_agg(n)::text FROM countries)",
        "UPDATE plans SET words = ARRAY(SELECT n FROM countries)::text",
        "UPDATE plans SET price = (SELECT max(price) FROM countries)",
        "WITH c AS (SELECT n FROM countries LIMIT 1) UPDATE plans SET number = (SELECT n FROM c)",
        "DELETE FROM plans WHERE id IN (SELECT id FROM plans LIMIT 3)",
        "INSERT INTO plans SELECT n + 100 FROM countries LIMIT 5",
        "INSERT INTO plans SELECT code + 1000, n FROM countries ON CONFLICT DO NOTHING",
        "INSERT INTO plans (id, number) SELECT DISTINCT ON (code) code + 2000, n FROM countries",
        "INSERT INTO plans (id, number) SELECT row_number() OVER () + 3000, n FROM countries",
        "INSERT INTO plans (id, price) SELECT row_number() OVER () + 4000, price FROM (SELECT DISTINCT price FROM countries) c",
        "INSERT INTO plans (id, price) SELECT code + 5000, price FROM countries WHERE code = 5 AND n < 0 \
         UNION SELECT 5000, price FROM countries",
        "INSERT INTO plans (id, price) SELECT 6000, price FROM countries GROUP BY price",
    ] {
        done(&mut wire, sql);
        copies.same(all);
        assert_ne!(copies.same("SELECT count(*) FROM plans"), "0");
    }
}

#[test]
fn what_depends_on_the_order_of_rows_needs_a_key() {
    let (copies, mut wire) = turned("ordered_without");
    for query in [
        "SELECT max(price) FROM plans",
        "SELECT max(number) FROM (SELECT price AS number FROM plans) p",
        "SELECT max(number) FROM (SELECT price FROM plans) p (number)",
        "SELECT price FROM plans WHERE id > 2 GROUP BY price",
        "SELECT price AS number FROM countries c GROUP BY number",
        "SELECT sum(number) FROM (SELECT share AS number FROM plans) p",
        "SELECT sum(DISTINCT price) FROM plans",
        "SELECT sum(share) FROM plans",
        "SELECT sum(number / 7.0) FROM plans",
        "SELECT DISTINCT price FROM plans",
        "SELECT price FROM plans INTERSECT SELECT price FROM countries",
    ] {
        refused(&mut wire, &format!("UPDATE countries SET price = ({query})"), "without a primary key");
    }
    // Without a key the rows cannot be found again; what is certain needs none.
    refused(&mut wire, "UPDATE countries SET n = p.id FROM plans p", "without a primary key");
    refused(
        &mut wire,
        "DELETE FROM countries WHERE n IN (SELECT n FROM countries LIMIT 3)",
        "the rows that LIMIT leaves",
    );
    for sql in [
        "UPDATE countries SET n = n + 1 WHERE code > 2",
        "UPDATE countries SET n = (SELECT sum(number) FROM plans)",
        "UPDATE countries SET price = (SELECT avg(price) FROM plans)",
        "UPDATE countries SET n = (SELECT max(number) FROM (SELECT number FROM plans GROUP BY number) p)",
        "DELETE FROM countries WHERE n IN (SELECT DISTINCT number FROM plans UNION SELECT id FROM plans)",
        "UPDATE countries SET n = (SELECT count(*) FROM plans)",
        "DELETE FROM countries c USING plans p WHERE p.id = c.code",
    ] {
        done(&mut wire, sql);
        copies.same("SELECT md5(string_agg(c::text, ',' ORDER BY c::text)) FROM countries c");
    }
}

/// What a parameter says may also be the moment in which it is read.
#[test]
fn a_moment_in_a_parameter_is_the_same_everywhere() {
    let copies = Copies::new("moment", 3);
    let mut wire = copies.client(&[
        "CREATE TABLE plans (id int PRIMARY KEY, at timestamptz, stamp timestamp, clock time)",
        "CREATE TABLE users (id bigint PRIMARY KEY, at timestamptz)",
    ]);
    let sql = "INSERT INTO plans VALUES ($1, $2, $3, $4)";
    for (id, word) in [("1", "now"), ("2", " NOW "), ("3", "now")] {
        let answer = wire.execute(sql, &[Some(id), Some(word), Some(word), Some("now")], false);
        assert_eq!(answer.sqlstate(), "", "{:?}", answer.error);
        copies.same("SELECT array_agg(p ORDER BY id) FROM plans p");
    }
    let rows: Vec<String> = (1..=60).map(|n| format!("({n}, ${n})")).collect();
    let moments = vec![Some("now"); 60];
    let answer = wire.execute(&format!("INSERT INTO users VALUES {}", rows.join(", ")), &moments, false);
    assert_eq!(answer.sqlstate(), "", "{:?}", answer.error);
    assert_eq!(wire.text("SELECT count(*), count(DISTINCT at) FROM users"), "60|1");
    let answer = wire.execute("UPDATE users SET at = $1", &[Some("now")], false);
    assert_eq!(answer.sqlstate(), "", "{:?}", answer.error);
    assert_eq!(wire.text("SELECT count(*), count(DISTINCT at) FROM users"), "60|1");
}

/// A text that is read as a time may say the moment, too, and so may a part of a value.
#[test]
fn a_text_that_is_read_as_a_time_is_read_once() {
    let copies = Copies::new("read_once", 3);
    let mut wire = copies.client(&[
        "CREATE DOMAIN moment AS timestamptz",
        "CREATE TABLE plans (id int PRIMARY KEY, at timestamptz, word text, days date[], span tstzrange, made moment)",
        "CREATE TABLE countries (at timestamptz, word text)",
        "INSERT INTO plans (id, word) SELECT g, CASE g % 2 WHEN 0 THEN 'now' ELSE '2024-02-29' END FROM generate_series(1, 20) g",
    ]);
    let rows = "SELECT array_agg(p ORDER BY id) FROM plans p";
    for (sql, parameters) in [
        ("INSERT INTO plans (id, at) VALUES (100, $1::text::timestamptz)", vec![Some("now")]),
        ("UPDATE plans SET at = $1::text::timestamptz WHERE id < 3", vec![Some("now")]),
        ("UPDATE plans SET at = coalesce($1, word)::timestamptz WHERE id < 5", vec![Some("now")]),
        ("UPDATE plans SET at = word::timestamptz", vec![]),
        ("UPDATE plans SET at = p.word::timestamp FROM (SELECT id, word FROM plans) p WHERE p.id = plans.id", vec![]),
        ("UPDATE plans SET at = (SELECT max(word) FROM plans)::timestamptz", vec![]),
        ("UPDATE plans SET at = timestamptz(lower($1::varchar))", vec![Some("NOW")]),
        ("UPDATE plans SET at = ($1::jsonb ->> 'at')::timestamptz", vec![Some("{\"at\": \"now\"}")]),
        (
            "INSERT INTO plans (id, at) SELECT id, at FROM jsonb_to_recordset($1) j(id int, at timestamptz)",
            vec![Some("[{\"id\": 200, \"at\": \"now\"}]")],
        ),
        ("UPDATE plans SET span = '[now,infinity)'::tstzrange", vec![]),
        ("UPDATE plans SET days = '{now,2024-02-29,today}'", vec![]),
        ("UPDATE plans SET span = $1 WHERE id > 3", vec![Some("[2024-02-29,now)")]),
        ("UPDATE plans SET days = $1, span = $2, made = $3", vec![Some("{today}"), Some("[now,now]"), Some("now")]),
        ("UPDATE plans SET made = $1", vec![Some("now")]),
    ] {
        let answer = wire.execute(sql, &parameters, false);
        assert_eq!(answer.sqlstate(), "", "{sql}: {:?}", answer.error);
        assert_ne!(answer.tag(), "UPDATE 0", "{sql}");
        copies.same(rows);
    }
    // Rows without a key could not be found again; what is no text needs none.
    refused(&mut wire, "UPDATE countries SET at = word::timestamptz", "a text that is read as timestamptz");
    for sql in [
        "INSERT INTO countries VALUES ('2024-02-29'::text::timestamptz, 'now')",
        "UPDATE countries SET at = date_trunc('day', at)::date",
        "UPDATE countries SET at = (at + '1 day'::interval)::timestamp WHERE at::date < '2025-01-01'",
    ] {
        done(&mut wire, sql);
        copies.same("SELECT array_agg(c) FROM countries c");
    }
}
