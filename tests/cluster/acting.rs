//! Triggers and rules that act when rows are written, made past the router: what they do must be what one PostgreSQL would do, or the write
//! is refused.

use crate::support::running::{RULES, Running, database_config, databases, shared, superuser, wait_for};
use crate::support::wire::Wire;

/// A router over two shards, with tables.
struct Acting {
    shards: Vec<String>,
    router: Running,
}

impl Acting {
    fn new(name: &str, tables: &[&str]) -> Self {
        let shards = databases(name, 2);
        let router = Running::start(&database_config(shared(), &shards, RULES));
        router.wait_until_ready();
        let mut wire = router.client();
        tables.iter().for_each(|sql| done(&mut wire, sql));
        Self { shards, router }
    }

    /// Runs statements on every shard, past the router.
    fn past(&self, sql: &str) {
        for shard in &self.shards {
            let answer = superuser(shared(), shard).query(sql);
            assert_eq!(answer.sqlstate(), "", "{sql}: {:?}", answer.error);
        }
        // After DDL the router looks at once.
        done(&mut self.router.client(), "CREATE TABLE IF NOT EXISTS looks (user_id bigint)");
    }

    /// Makes a trigger past the router.
    fn trigger(&self, on: &str, body: &str) {
        self.past(&format!(
            "CREATE OR REPLACE FUNCTION acts() RETURNS trigger LANGUAGE plpgsql AS $f${body}$f$; \
             CREATE OR REPLACE TRIGGER acts {on} FOR EACH ROW EXECUTE FUNCTION acts()"
        ));
    }

    /// What all shards say.
    fn told(&self, sql: &str) -> Vec<String> {
        self.shards.iter().map(|shard| superuser(shared(), shard).text(sql)).collect()
    }

    /// Waits until a statement is refused for this reason.
    #[track_caller]
    fn refuses(&self, wire: &mut Wire, sql: &str, why: &str) {
        wait_for(&format!("{why} to be seen"), || {
            let answer = wire.query(&format!("BEGIN; {sql}"));
            let error = format!("{:?}", answer.error);
            wire.query("ROLLBACK");
            (answer.sqlstate() == "0A000" && error.contains(why)).then_some(())
        });
    }

    /// Waits until a statement is not refused any more.
    #[track_caller]
    fn runs(&self, wire: &mut Wire, sql: &str) {
        wait_for(&format!("{sql} to run"), || wire.query(sql).error.is_none().then_some(()));
    }
}

#[track_caller]
fn done(wire: &mut Wire, sql: &str) {
    let answer = wire.query(sql);
    assert_eq!(answer.sqlstate(), "", "{sql}: {:?}", answer.error);
}

#[test]
fn triggers_that_make_copies_differ_are_found() {
    let acting = Acting::new(
        "copied",
        &[
            "CREATE TABLE plans (id int PRIMARY KEY, name text, at timestamptz)",
            "CREATE TABLE countries (id int, name text)",
            "CREATE TABLE users (id bigint PRIMARY KEY, name text)",
            "INSERT INTO plans VALUES (1, 'a', NULL)",
        ],
    );
    let mut wire = acting.router.client();
    let write = "UPDATE plans SET name = 'b'";
    for (body, why) in [
        ("BEGIN NEW.at := now(); RETURN NEW; END", "uses now()"),
        ("BEGIN NEW.at = CURRENT_TIMESTAMP; RETURN NEW; END", "uses CURRENT_TIMESTAMP"),
        ("BEGIN NEW.name := random()::text; RETURN NEW; END", "uses random()"),
        ("BEGIN NEW.at := 'now'; RETURN NEW; END", "uses 'now'"),
        ("BEGIN NEW.id := nextval('s'); RETURN NEW; END", "calls nextval()"),
        ("BEGIN INSERT INTO countries VALUES (NEW.id); RETURN NEW; END", "writes reference table \"countries\""),
        ("BEGIN UPDATE users SET name = NEW.name; RETURN NEW; END", "uses sharded table \"users\""),
    ] {
        acting.trigger("BEFORE INSERT OR UPDATE ON plans", body);
        acting.refuses(&mut wire, write, why);
        let error = format!("{:?}", wire.query(write).error);
        assert!(error.contains("trigger \"acts\" of \"plans\""), "{error}");
        acting.refuses(&mut wire, "INSERT INTO plans SELECT 7, 'x'", why);
        acting.refuses(&mut wire, "INSERT INTO plans VALUES (8, md5(random()::text)) ON CONFLICT DO NOTHING", why);
        let copied = wire.copy("COPY plans FROM STDIN", b"9\tx\t\\N\n");
        assert_eq!(copied.sqlstate(), "0A000", "{:?}", copied.error);
        // It does not act then.
        done(&mut wire, "DELETE FROM plans WHERE id = 99");
    }
    assert_eq!(acting.told("SELECT * FROM plans"), ["1|a|NULL", "1|a|NULL"].map(|row| row.replace("NULL", "")));
    // What follows from the row alone is the same everywhere, and a trigger that is off does nothing.
    acting.trigger("BEFORE INSERT OR UPDATE ON plans", "BEGIN NEW.name := upper(NEW.name); RETURN NEW; END");
    acting.runs(&mut wire, write);
    done(&mut wire, "UPDATE plans SET name = name || md5(random()::text)");
    assert!(acting.told("SELECT name FROM plans").windows(2).all(|two| two[0] == two[1]));
    // But what changes a row at every turn would do it twice to the second copy.
    acting.trigger("BEFORE UPDATE ON plans", "BEGIN NEW.name := NEW.name || '!'; RETURN NEW; END");
    wait_for("the new trigger", || {
        (wire.query("UPDATE plans SET name = md5(random()::text)").sqlstate() == "0A000").then_some(())
    });
    done(&mut wire, "UPDATE plans SET name = 'z'");
    assert_eq!(acting.told("SELECT name FROM plans"), ["z!", "z!"]);
    acting.trigger("BEFORE UPDATE ON plans", "BEGIN NEW.at := clock_timestamp(); RETURN NEW; END");
    acting.refuses(&mut wire, write, "uses clock_timestamp()");
    acting.past("ALTER TABLE plans DISABLE TRIGGER acts");
    acting.runs(&mut wire, write);
    assert_eq!(acting.told("SELECT name, at FROM plans"), ["b|", "b|"]);
    // The other shards count, too.
    superuser(shared(), &acting.shards[1]).query("ALTER TABLE plans ENABLE ALWAYS TRIGGER acts");
    acting.refuses(&mut wire, write, "uses clock_timestamp()");
}

#[test]
fn triggers_that_set_the_key_are_found() {
    let acting = Acting::new(
        "keyed",
        &[
            "CREATE TABLE orders (user_id bigint NOT NULL, id int, n int, at timestamptz)",
            "CREATE TABLE totals (user_id bigint PRIMARY KEY, n int)",
            "CREATE TABLE users (id bigint PRIMARY KEY, name text, updated_at timestamptz)",
            "CREATE TABLE plans (id int PRIMARY KEY, n int)",
            "INSERT INTO plans VALUES (1, 0)",
        ],
    );
    let mut wire = acting.router.client();
    let write = "INSERT INTO orders (user_id, id) VALUES (1, 1)";
    let when = "BEFORE INSERT OR UPDATE ON orders";
    for (body, why) in [
        ("BEGIN NEW.user_id := 5; RETURN NEW; END", "sets the sharding key \"user_id\""),
        ("BEGIN IF NEW.id = 1 THEN NEW.user_id = NEW.id; END IF; RETURN NEW; END", "sets the sharding key"),
        ("BEGIN SELECT id, 7 INTO NEW.id, NEW.user_id FROM plans; RETURN NEW; END", "replaces the row"),
        ("DECLARE r orders; BEGIN r := NEW; r.user_id := 7; RETURN r; END", "replaces the row"),
        ("BEGIN NEW := jsonb_populate_record(NEW, '{\"user_id\": 7}'); RETURN NEW; END", "replaces the row"),
        ("BEGIN UPDATE plans SET n = n + 1; RETURN NEW; END", "writes reference table \"plans\""),
        (
            "BEGIN UPDATE totals SET n = n + 1 WHERE user_id = NEW.id; RETURN NEW; END",
            "without the sharding key of its own row",
        ),
        ("BEGIN INSERT INTO totals VALUES (NEW.id, NEW.user_id); RETURN NEW; END", "stores rows of \"totals\""),
        ("BEGIN INSERT INTO totals (n, user_id) VALUES (NEW.user_id, 7); RETURN NEW; END", "stores rows of \"totals\""),
        ("BEGIN EXECUTE 'SELECT 1'; RETURN NEW; END", "builds from strings"),
    ] {
        acting.trigger(when, body);
        acting.refuses(&mut wire, write, why);
        acting.refuses(&mut wire, "INSERT INTO orders (user_id, id) SELECT id, 1 FROM users", why);
        acting.refuses(&mut wire, "UPDATE orders SET n = 1 WHERE user_id = 1", why);
    }
    assert_eq!(acting.told("SELECT count(*) FROM orders"), ["0", "0"]);
    // What triggers mostly do works, and stays with its row.
    acting.trigger(
        when,
        "BEGIN IF NEW.user_id = 0 OR NEW.user_id IS NULL THEN RAISE EXCEPTION 'no user'; END IF; NEW.at := now(); NEW.n := NEW.user_id * 2; \
         INSERT INTO totals (user_id, n) VALUES (NEW.user_id, 1) ON CONFLICT (user_id) DO UPDATE SET n = totals.n + 1; \
         IF TG_OP = 'DELETE' THEN RETURN OLD; END IF; RETURN COALESCE(NEW, OLD); END",
    );
    acting.runs(&mut wire, write);
    done(&mut wire, "INSERT INTO orders (user_id, id) SELECT g, g FROM generate_series(1, 20) g");
    assert_eq!(wire.text("SELECT count(*), sum(n), max(n) FROM totals"), "20|21|2");
    assert_eq!(wire.text("SELECT count(*) FROM orders o JOIN totals t USING (user_id) WHERE o.n = user_id * 2"), "21");
    assert!(acting.told("SELECT count(*) FROM totals").iter().all(|count| count != "0"));
    assert_eq!(
        acting.told("SELECT count(*) FROM orders WHERE user_id NOT IN (SELECT user_id FROM totals)"),
        ["0", "0"]
    );
}

#[test]
fn rules_that_write_other_statements_are_found() {
    let acting = Acting::new(
        "ruled",
        &["CREATE TABLE plans (id int PRIMARY KEY, n int)", "CREATE TABLE users (id bigint PRIMARY KEY, name text)"],
    );
    let mut wire = acting.router.client();
    done(&mut wire, "INSERT INTO users VALUES (1, 'a'), (2, 'b'), (3, 'c')");
    acting.past("CREATE RULE r AS ON UPDATE TO users DO ALSO INSERT INTO plans VALUES (NEW.id, 1)");
    acting.refuses(&mut wire, "UPDATE users SET name = 'x'", "rule \"r\" of \"users\"");
    acting.refuses(&mut wire, "UPDATE users SET name = 'x' WHERE id = 1", "rule \"r\"");
    done(&mut wire, "DELETE FROM users WHERE id = 3");
    acting.past("CREATE OR REPLACE RULE r AS ON UPDATE TO users DO INSTEAD NOTHING");
    acting.runs(&mut wire, "UPDATE users SET name = 'x'");
    assert_eq!(wire.text("SELECT count(*) FROM users WHERE name = 'x'"), "0");
    assert_eq!(acting.told("SELECT count(*) FROM plans"), ["0", "0"]);
}

#[test]
fn policies_that_look_at_other_shards_are_found() {
    let acting = Acting::new(
        "policies",
        &[
            "CREATE TABLE users (id bigint PRIMARY KEY, name text)",
            "CREATE TABLE orders (user_id bigint NOT NULL, id int, plan_id int)",
            "CREATE TABLE plans (id int PRIMARY KEY, name text)",
            "INSERT INTO users SELECT g, 'u' FROM generate_series(1, 20) g",
            "INSERT INTO plans VALUES (1, 'a')",
            "INSERT INTO orders SELECT g, g, g % 2 FROM generate_series(1, 20) g",
            "ALTER TABLE orders ENABLE ROW LEVEL SECURITY",
            "ALTER TABLE orders FORCE ROW LEVEL SECURITY",
        ],
    );
    let mut wire = acting.router.client();
    let count = "SELECT count(*) FROM orders";
    for (condition, seen) in [
        ("id > 10", "10"),
        ("plan_id IN (SELECT id FROM plans)", "10"),
        ("EXISTS (SELECT FROM users u WHERE u.id = orders.user_id AND u.name = 'u')", "20"),
    ] {
        done(&mut wire, &format!("CREATE POLICY p ON orders USING ({condition})"));
        assert_eq!(wire.text(count), seen, "{condition}");
        done(&mut wire, "DROP POLICY p ON orders");
    }
    let other = "CREATE POLICY p ON orders USING (EXISTS (SELECT FROM users u WHERE u.id = orders.id))";
    assert_eq!(wire.query(other).sqlstate(), "0A000");
    acting.past(other);
    for sql in [count, "UPDATE orders SET id = 1", "DELETE FROM orders WHERE user_id = 1", "COPY orders TO STDOUT"] {
        acting.refuses(&mut wire, sql, "policy \"p\" of \"orders\"");
    }
    done(&mut wire, "DROP POLICY p ON orders");
    done(&mut wire, count);
}

/// What wakes a trigger need not name its table: rows follow others by foreign keys.
#[test]
fn triggers_of_rows_that_follow_are_found() {
    let acting = Acting::new(
        "following",
        &[
            "CREATE TABLE plans (id int PRIMARY KEY, code text UNIQUE, name text)",
            "CREATE TABLE countries (id int PRIMARY KEY, plan_id int REFERENCES plans ON DELETE CASCADE, \
             code text REFERENCES plans (code) ON UPDATE CASCADE, at timestamptz)",
            "CREATE TABLE users (id bigint PRIMARY KEY, country_id int REFERENCES countries ON DELETE SET NULL)",
            "CREATE TABLE orders (user_id bigint NOT NULL REFERENCES users ON DELETE CASCADE, id int)",
            "INSERT INTO plans VALUES (1, 'a', 'x'), (2, 'b', 'y')",
            "INSERT INTO countries VALUES (1, 1, 'a'), (2, 2, 'b')",
            "INSERT INTO users SELECT g, g % 2 + 1 FROM generate_series(1, 10) g",
        ],
    );
    let mut wire = acting.router.client();
    let delete = "DELETE FROM plans WHERE id = 7";
    let recode = "UPDATE plans SET name = 'z', code = 'c' WHERE id = 7";
    let harmless = [
        "UPDATE plans SET name = 'z'",
        "INSERT INTO plans VALUES (1, 'a', 'x') ON CONFLICT (id) DO UPDATE SET name = excluded.name",
        "INSERT INTO plans SELECT 3, md5(random()::text) ON CONFLICT DO NOTHING",
    ];
    let counts = "BEGIN PERFORM nextval('s'); RETURN COALESCE(NEW, OLD); END";

    acting.trigger("AFTER DELETE ON countries", counts);
    acting.refuses(&mut wire, delete, "trigger \"acts\" of \"countries\"");
    acting.refuses(
        &mut wire,
        "WITH gone AS (DELETE FROM plans WHERE id = 7 RETURNING id) SELECT * FROM gone",
        "of \"countries\"",
    );
    harmless.iter().chain([&recode]).for_each(|sql| done(&mut wire, sql));
    acting.past("DROP TRIGGER acts ON countries");

    acting.trigger("BEFORE UPDATE ON countries", "BEGIN NEW.at := now(); RETURN NEW; END");
    acting.refuses(&mut wire, recode, "trigger \"acts\" of \"countries\"");
    let upsert = "INSERT INTO plans VALUES (1, 'a', 'x') ON CONFLICT (id) DO UPDATE SET code = 'd'";
    acting.refuses(&mut wire, upsert, "uses now()");
    harmless.iter().chain([&delete]).for_each(|sql| done(&mut wire, sql));
    // A trigger of the table may set the column, too.
    acting.past(
        "CREATE FUNCTION sets() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.code := lower(NEW.code); RETURN NEW; END'; \
         CREATE TRIGGER sets BEFORE UPDATE ON plans FOR EACH ROW EXECUTE FUNCTION sets()",
    );
    acting.refuses(&mut wire, harmless[0], "trigger \"acts\" of \"countries\"");
    acting.past("DROP TRIGGER sets ON plans; DROP TRIGGER acts ON countries");

    // Rows that follow rows that follow: countries go, users lose theirs.
    acting.trigger("AFTER UPDATE ON users", counts);
    acting.refuses(&mut wire, delete, "trigger \"acts\" of \"users\"");
    acting.refuses(&mut wire, "DELETE FROM countries WHERE id = 7", "calls nextval()");
    harmless.iter().chain([&recode]).for_each(|sql| done(&mut wire, sql));
    acting.past("ALTER TABLE users DISABLE TRIGGER acts");
    acting.runs(&mut wire, delete);

    acting.trigger("AFTER DELETE ON orders", counts);
    acting.refuses(&mut wire, "DELETE FROM users WHERE id = 7", "trigger \"acts\" of \"orders\"");
    acting.refuses(&mut wire, "DELETE FROM users", "trigger \"acts\" of \"orders\"");
    done(&mut wire, delete);
    // Once nothing follows, nothing acts.
    acting.past("ALTER TABLE orders DROP CONSTRAINT orders_user_id_fkey");
    acting.runs(&mut wire, "DELETE FROM users WHERE id = 7");
}

#[test]
fn what_cascades_is_counted_as_on_one_postgresql() {
    let tables = [
        "CREATE TABLE plans (id int PRIMARY KEY, name text)",
        "CREATE TABLE users (id bigint PRIMARY KEY, plan_id int REFERENCES plans ON DELETE SET NULL ON UPDATE CASCADE)",
        "CREATE TABLE orders (user_id bigint NOT NULL REFERENCES users ON DELETE CASCADE, id int, plan_id int REFERENCES plans ON DELETE CASCADE, \
         PRIMARY KEY (user_id, id))",
        "CREATE TABLE lines (user_id bigint NOT NULL, order_id int, n int, FOREIGN KEY (user_id, order_id) REFERENCES orders ON DELETE CASCADE)",
        "INSERT INTO plans SELECT g, 'p' || g FROM generate_series(1, 4) g",
        "INSERT INTO users SELECT g, g % 4 + 1 FROM generate_series(1, 40) g",
        "INSERT INTO orders SELECT g, o, (g + o) % 4 + 1 FROM generate_series(1, 40) g, generate_series(1, 3) o",
        "INSERT INTO lines SELECT g, o, 1 FROM generate_series(1, 40) g, generate_series(1, 3) o",
    ];
    let acting = Acting::new("cascading", &tables);
    let mut wire = acting.router.client();
    let [plain] = databases("plain", 1).try_into().unwrap();
    let mut judge = superuser(shared(), &plain);
    tables.iter().for_each(|sql| done(&mut judge, sql));
    for sql in [
        "DELETE FROM plans WHERE id = 1",
        "UPDATE plans SET id = 20 WHERE id = 2",
        "DELETE FROM plans WHERE id = 3 AND random() >= 0",
        "DELETE FROM users WHERE id IN (1, 2, 3, 4, 5) RETURNING id",
        "DELETE FROM orders WHERE id = 2",
        "DELETE FROM users WHERE plan_id IS NULL",
        "DELETE FROM plans",
        "UPDATE users SET plan_id = 77",
    ] {
        let (expected, got) = (judge.query(sql), wire.query(sql));
        assert_eq!(got.sqlstate(), expected.sqlstate(), "{sql}: {:?}", got.error);
        if expected.error.is_none() {
            assert_eq!(got.tag(), expected.tag(), "{sql}");
        }
        for look in [
            "SELECT * FROM plans ORDER BY id",
            "SELECT * FROM users ORDER BY id",
            "SELECT * FROM orders ORDER BY user_id, id",
            "SELECT * FROM lines ORDER BY user_id, order_id",
        ] {
            assert_eq!(wire.text(look), judge.text(look), "{look} after {sql}");
        }
    }
    let copies = acting.told("SELECT count(*), sum(id) FROM plans");
    assert_eq!(copies[0], copies[1]);
}
