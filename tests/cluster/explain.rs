//! EXPLAIN over several shards: the tree, what ANALYZE measures, every format, both protocols.

use std::thread;

use serde_json::Value;

use crate::support::running::{RULES, Running, database_config, databases, shared, superuser, wait_for};
use crate::support::wire::{self, Answer, Wire};

/// Two shards with a table of 60 rows.
struct Two {
    router: Running,
    shards: Vec<String>,
}

impl Two {
    fn new(name: &str) -> Self {
        Self::with(name, "")
    }

    /// With more of a configuration.
    fn with(name: &str, config: &str) -> Self {
        let shards = databases(name, 2);
        let router = Running::start(&format!("{config}\n{}", database_config(shared(), &shards, RULES)));
        router.wait_until_ready();
        let mut client = router.client();
        assert_eq!(client.query("CREATE TABLE rt (user_id bigint PRIMARY KEY, v int, t text)").sqlstate(), "");
        for key in 1..=60 {
            let insert = format!("INSERT INTO rt VALUES ({key}, {}, 'a<b&c')", key % 7);
            assert_eq!(client.query(&insert).sqlstate(), "");
        }
        for shard in &shards {
            assert_eq!(superuser(shared(), shard).query("ANALYZE rt").sqlstate(), "");
        }
        Self { router, shards }
    }

    fn shard(&self, number: usize) -> Wire {
        superuser(shared(), &self.shards[number])
    }

    /// What a question gives on each shard, past the router.
    fn counts(&self, sql: &str) -> [u64; 2] {
        [0, 1].map(|shard| self.shard(shard).text(sql).parse().unwrap())
    }
}

/// The one document of an EXPLAIN in JSON.
fn document(answer: &Answer) -> Value {
    let mut documents: Vec<Value> = serde_json::from_str(&answer.text()).unwrap();
    assert_eq!(documents.len(), 1);
    documents.remove(0)
}

fn explained(client: &mut Wire, options: &str, sql: &str) -> Value {
    document(&client.query(&format!("EXPLAIN ({options}, FORMAT json) {sql}")))
}

/// All nodes of a type, from above.
fn nodes<'a>(plan: &'a Value, node_type: &str) -> Vec<&'a Value> {
    let below = plan["Plans"].as_array().into_iter().flatten();
    let own = (plan["Node Type"] == node_type).then_some(plan);
    own.into_iter().chain(below.flat_map(|plan| nodes(plan, node_type))).collect()
}

fn numbers(nodes: &[&Value], key: &str) -> Vec<u64> {
    nodes.iter().map(|node| node[key].as_u64().unwrap_or_else(|| panic!("no {key} in {node}"))).collect()
}

#[test]
fn each_shards_plan_stands_below_its_step() {
    let two = Two::new("tree");
    let mut client = two.router.client();
    let text = client.text("EXPLAIN (COSTS OFF) SELECT v, count(*) FROM rt GROUP BY v ORDER BY v LIMIT 3");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "Project");
    let route = lines.iter().position(|line| line.contains("└─ Route: all shards")).unwrap();
    let margin = lines[route].find('└').unwrap();
    let below = |line: &str| line[margin..].to_owned();
    assert!(below(lines[route + 1]).starts_with("   SELECT v, count(*)"), "{text}");
    assert_eq!(below(lines[route + 2]), format!("   Shard {} (primary)", two.shards[0]), "{text}");
    assert!(below(lines[route + 3]).starts_with("     Limit"), "{text}");
    assert_eq!(text.matches("(primary)").count(), 2, "{text}");
    assert!(!text.contains("actual") && !text.contains("Execution Time"), "{text}");
}

#[test]
fn a_final_query_is_shown_without_its_arrays_unless_verbose() {
    let two = Two::new("short");
    let mut client = two.router.client();
    let sql = "SELECT a.v, rank() OVER (ORDER BY b.v) FROM rt a JOIN rt b ON a.v = b.user_id";
    let text = client.text(&format!("EXPLAIN {sql}"));
    let short = "SELECT a.v, rank() OVER (ORDER BY b.v) FROM (input 1 rt) a JOIN (input 2 rt) b ON a.v = b.user_id";
    assert!(text.contains(short) && !text.contains("unnest"), "{text}");
    assert!(text.contains("├─ Input: 1 rt") && text.contains("└─ Input: 2 rt"), "{text}");
    assert_eq!(text.matches("(primary)").count(), 4, "{text}");
    let verbose = client.text(&format!("EXPLAIN VERBOSE {sql}"));
    assert!(verbose.contains("unnest($1::") && verbose.contains("Output: "), "{verbose}");
    // The rows of the inputs are constants of the final plan; they are not printed.
    let analyzed = client.text(&format!("EXPLAIN (ANALYZE, VERBOSE) {sql}"));
    assert!(analyzed.contains("Function Scan on sluice_input") && !analyzed.contains("Function Call"), "{analyzed}");
}

#[test]
fn analyze_counts_the_rows_of_every_step() {
    let two = Two::new("counts");
    let mut client = two.router.client();
    let sql = "SELECT v, count(*) FROM rt WHERE user_id > 10 GROUP BY v HAVING count(*) > 7 ORDER BY v DESC LIMIT 2";
    let answer = client.text(sql).lines().count() as u64;
    let groups = two.counts("SELECT count(DISTINCT v) FROM rt WHERE user_id > 10");
    let scanned = two.counts("SELECT count(*) FROM rt WHERE user_id > 10");
    let document = explained(&mut client, "ANALYZE", sql);
    let plan = &document["Plan"];
    assert_eq!(plan["Node Type"], "Sluice Project");
    assert_eq!(numbers(&[plan], "Actual Rows"), [answer]);
    assert_eq!(numbers(&nodes(plan, "Sluice Limit"), "Actual Rows"), [answer]);
    assert_eq!(numbers(&nodes(plan, "Sluice Aggregate"), "Actual Rows"), [7], "{plan:#}");
    assert_eq!(numbers(&nodes(plan, "Sluice Merge Sort"), "Actual Rows"), [groups[0] + groups[1]]);
    let route = nodes(plan, "Sluice Route");
    assert_eq!(numbers(&route, "Actual Rows"), [groups[0] + groups[1]]);
    let shards = nodes(plan, "Sluice Shard");
    assert_eq!(numbers(&shards, "Actual Rows"), groups);
    assert_eq!(numbers(&shards, "Actual Bytes").iter().sum::<u64>(), numbers(&route, "Actual Bytes")[0]);
    assert_eq!(shards[0]["Shard"], two.shards[0].as_str());
    // Below is what PostgreSQL says.
    assert_eq!(numbers(&nodes(plan, "Seq Scan"), "Actual Rows"), scanned);
    for node in [plan, route[0], shards[0], shards[1]] {
        assert!(node["Actual Total Time"].as_f64().is_some_and(|time| time > 0.0), "{node:#}");
        assert!(node["Total Cost"].as_f64().is_some() && node["Plan Rows"].as_u64().is_some(), "{node:#}");
    }
    assert!(document["Execution Time"].as_f64().is_some_and(|time| time > 0.0));
    // Nothing of the answer has left, and the session goes on.
    assert_eq!(client.text(sql).lines().count() as u64, answer);
}

#[test]
fn analyze_counts_what_crosses_to_a_final_query_and_shows_its_plan() {
    let two = Two::new("crossing");
    let mut client = two.router.client();
    let sql = "SELECT count(*) OVER (), a.t FROM rt a JOIN rt b ON a.v = b.v WHERE a.user_id < 20 AND b.user_id > 50";
    let answer = client.text(sql).lines().count() as u64;
    assert!(answer > 0);
    let (first, second) = (
        two.counts("SELECT count(*) FROM rt WHERE user_id < 20"),
        two.counts("SELECT count(*) FROM rt WHERE user_id > 50"),
    );
    let document = explained(&mut client, "ANALYZE", sql);
    let plan = &document["Plan"];
    assert_eq!(plan["Node Type"], "Sluice Final");
    assert_eq!(numbers(&[plan], "Actual Rows"), [answer]);
    let inputs = nodes(plan, "Sluice Input");
    assert_eq!(numbers(&inputs, "Actual Rows"), [first[0] + first[1], second[0] + second[1]]);
    let shards = nodes(plan, "Sluice Shard");
    assert_eq!(numbers(&shards, "Actual Rows"), [answer, first[0], first[1], second[0], second[1]]);
    assert_eq!(numbers(&nodes(shards[0], "WindowAgg"), "Actual Rows"), [answer]);
    let mut scanned = numbers(&nodes(shards[0], "Function Scan"), "Actual Rows");
    scanned.sort_unstable();
    let mut crossed = numbers(&inputs, "Actual Rows");
    crossed.sort_unstable();
    assert_eq!(scanned, crossed);
    // What no shard can have is not asked for, nor what could be joined with nothing but that.
    let nothing = explained(&mut client, "ANALYZE", &sql.replace("a.user_id < 20", "a.user_id = NULL"));
    let inputs = nodes(&nothing["Plan"], "Sluice Input");
    assert_eq!(nodes(inputs[0], "Sluice Shard").len(), 0, "{nothing:#}");
    assert_eq!(numbers(&nodes(inputs[1], "Sluice Route"), "Actual Rows"), [0]);
}

#[test]
fn inputs_in_tables_are_counted_too() {
    let two = Two::with("tabled", "[limits]\nfinal_query_array_bytes_max = \"1kB\"");
    let mut client = two.router.client();
    let sql = "SELECT rank() OVER (ORDER BY a.t), a.t FROM rt a JOIN rt b ON a.v = b.user_id";
    let answer = client.text(sql).lines().count() as u64;
    let each = two.counts("SELECT count(*) FROM rt");
    let referred = two.counts("SELECT count(*) FROM rt");
    for block in [false, true] {
        if block {
            client.query("BEGIN");
        }
        let document = explained(&mut client, "ANALYZE, VERBOSE", sql);
        let plan = &document["Plan"];
        assert!(plan["Detail"].as_str().is_some_and(|detail| detail.contains("in temporary tables")), "{plan:#}");
        assert!(plan["Query"].as_str().is_some_and(|text| text.contains("pg_temp.")), "{plan:#}");
        assert_eq!(numbers(&[plan], "Actual Rows"), [answer]);
        let shards = nodes(plan, "Sluice Shard");
        assert_eq!(numbers(&shards, "Actual Rows"), [answer, each[0], each[1], referred[0], referred[1]], "{plan:#}");
        assert_eq!(numbers(&nodes(plan, "Sluice Append"), "Actual Rows"), [60, 60]);
        // What the finishing server has itself does not cross.
        assert_eq!(numbers(&shards[1..], "Actual Bytes").iter().filter(|bytes| **bytes == 0).count(), 2);
        if block {
            client.query("COMMIT");
        }
        let left = "SELECT count(*) FROM pg_class WHERE relpersistence = 't'";
        assert_eq!(two.counts(left), [0, 0]);
        assert_eq!(client.text(sql).lines().count() as u64, answer);
    }
    let failing = sql.replace("a.t FROM", "1 / (a.user_id - 30) FROM");
    // Rows come before the error, mostly at one time with it.
    for _ in 0..10 {
        assert_eq!(client.query(&format!("EXPLAIN ANALYZE {failing}")).sqlstate(), "22012");
    }
    assert_eq!(client.text(sql).lines().count() as u64, answer);
}

#[test]
fn the_time_is_told_to_all() {
    let two = Two::new("time");
    let mut client = two.router.client();
    let condition = "now() > '2000-01-01' AND user_id > $1";
    let above = two.counts("SELECT count(*) FROM rt WHERE user_id > 30");
    for select in ["SELECT v", "SELECT rank() OVER (ORDER BY v)"] {
        let sql = format!("{select} FROM rt WHERE {condition}");
        let plain = client.query(&format!("EXPLAIN {}", sql.replace("$1", "30")));
        assert_eq!(plain.text().matches("Shard ").count(), 2, "{}", plain.text());
        let bound = client.execute(&format!("EXPLAIN (ANALYZE, FORMAT json) {sql}"), &[Some("30")], false);
        let document = document(&bound);
        assert_eq!(numbers(&nodes(&document["Plan"], "Sluice Route"), "Actual Rows"), [above[0] + above[1]]);
    }
}

#[test]
fn what_is_too_much_for_a_merge_is_explained_as_it_is_finished() {
    let two = Two::with("sorted", "[limits]\nmerge_buffer_max = \"1kB\"");
    let mut client = two.router.client();
    let sql = "SELECT DISTINCT user_id + 0, t FROM rt";
    assert_eq!(client.text(sql).lines().count(), 60);
    let document = explained(&mut client, "ANALYZE", sql);
    assert_eq!(document["Plan"]["Node Type"], "Sluice Final");
    assert_eq!(document["Plan"]["Actual Rows"], 60);
}

#[test]
fn options_reach_the_shards_and_the_router() {
    let two = Two::new("options");
    let mut client = two.router.client();
    let sql = "SELECT user_id FROM rt ORDER BY user_id";
    let text = client.text(&format!("EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF, BUFFERS) {sql}"));
    let each = two.counts("SELECT count(*) FROM rt");
    assert!(text.contains("Route: all shards  (actual rows=60 bytes="), "{text}");
    assert!(text.contains(&format!("Shard {} (primary)  (actual rows={} bytes=", two.shards[1], each[1])), "{text}");
    assert!(text.contains("Buffers: shared hit="), "{text}");
    assert!(!text.contains("time=") && !text.contains("Time") && !text.contains("cost="), "{text}");
    let timed = client.text(&format!("EXPLAIN ANALYZE {sql}"));
    assert_eq!(timed.matches("Execution Time: ").count(), 3, "{timed}");
    assert!(timed.contains("Route: all shards  (actual time="), "{timed}");
    let json = explained(&mut client, "ANALYZE, TIMING 'off', SUMMARY 0, COSTS false", sql);
    assert!(json.get("Execution Time").is_none());
    let shard = nodes(&json["Plan"], "Sluice Shard")[0];
    assert!(shard.get("Actual Total Time").is_none() && shard.get("Total Cost").is_none(), "{shard:#}");
    let settings = "EXPLAIN (SETTINGS, VERBOSE) SELECT v FROM rt";
    client.query("SET enable_seqscan = off");
    assert_eq!(client.text(settings).matches("Settings: ").count(), 2);
    for wrong in ["EXPLAIN (NOPE)", "EXPLAIN (FORMAT nope)", "EXPLAIN (ANALYZE maybe)", "EXPLAIN (TIMING)"] {
        let error = client.query(&format!("{wrong} {sql}"));
        assert!(error.sqlstate().starts_with("22") || error.sqlstate().starts_with("42"), "{wrong} {:?}", error.error);
    }
}

#[test]
fn a_quick_shard_does_not_wait_for_a_slow_one() {
    let two = Two::new("slow");
    let sql = "SELECT user_id, v FROM rt ORDER BY user_id";
    let mut client = two.router.client();
    // From now on the servers know the statement, and only its run needs the table.
    explained(&mut client, "ANALYZE", sql);
    let mut blocker = two.shard(0);
    blocker.query("BEGIN; LOCK TABLE rt");
    let locked = blocker.text("SELECT clock_timestamp()");
    let mut watcher = two.shard(0);
    let running = thread::spawn(move || explained(&mut client, "ANALYZE", sql));
    let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'rt'::regclass \
                   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    wait_for("the read to wait", || (watcher.text(waiting) == "1").then_some(()));
    let done = format!(
        "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle' \
         AND query LIKE 'SELECT user_id, v%FROM rt ORDER BY%' AND query_start > '{locked}'"
    );
    let mut quick = two.shard(1);
    wait_for("the other shard to be done", || (quick.text(&done) == "t").then_some(()));
    blocker.query("COMMIT");
    let document = running.join().unwrap();
    let shards = nodes(&document["Plan"], "Sluice Shard");
    let time = |shard: &Value, key: &str| shard[key].as_f64().unwrap();
    assert!(time(shards[1], "Actual Total Time") < time(shards[0], "Actual Startup Time"), "{document:#}");
}

#[test]
fn every_format_is_one_document_of_its_type() {
    let two = Two::new("formats");
    let mut client = two.router.client();
    for sql in ["SELECT t FROM rt WHERE t <> 'x<y&z'", "SELECT rank() OVER (ORDER BY t) FROM rt WHERE t <> 'x<y&z'"] {
        for (format, type_oid) in [("text", 25), ("json", 114), ("yaml", 25), ("xml", 142)] {
            for options in ["", "ANALYZE, "] {
                let explain = format!("EXPLAIN ({options}FORMAT {format}) {sql}");
                for answer in [client.query(&explain), client.execute(&explain, &[], false)] {
                    let result = &answer.results[0];
                    let column = &result.columns.as_ref().unwrap()[0];
                    assert_eq!((column.name.as_str(), column.type_oid), ("QUERY PLAN", type_oid), "{explain}");
                    assert_eq!(result.tag, "EXPLAIN");
                    assert!(format == "text" || result.rows.len() == 1, "{explain}");
                    check_format(format, &answer.text());
                }
                // The server that judges the statement says the same of it.
                let described = described(&mut client, &explain);
                assert_eq!((described[0].name.as_str(), described[0].type_oid), ("QUERY PLAN", type_oid));
            }
        }
    }
    let binary = client.execute("EXPLAIN (FORMAT json) SELECT t FROM rt", &[], true);
    assert_eq!(binary.results[0].columns.as_ref().unwrap()[0].format, 1);
    assert_eq!(document(&binary)["Plan"]["Node Type"], "Sluice Append");
}

fn check_format(format: &str, text: &str) {
    match format {
        "json" => assert!(serde_json::from_str::<Value>(text).is_ok(), "{text}"),
        "xml" => {
            assert!(text.contains("'x&lt;y&amp;z'"), "{text}");
            assert_eq!(unclosed(text), Vec::<String>::new(), "{text}");
        }
        "yaml" => assert!(text.starts_with("- Plan: \n    Node Type: \"Sluice "), "{text}"),
        _ => assert!(text.contains("(primary)"), "{text}"),
    }
}

/// The elements of a document that are not closed where they should be.
fn unclosed(xml: &str) -> Vec<String> {
    let mut open: Vec<String> = Vec::new();
    for tag in xml.split('<').skip(1).map(|rest| rest.split('>').next().unwrap()) {
        match tag.strip_prefix('/') {
            Some(name) if open.last().is_some_and(|last| last == name) => drop(open.pop()),
            _ => open.push(tag.split(' ').next().unwrap().to_owned()),
        }
    }
    open
}

/// What Describe of a statement says of its rows.
fn described(client: &mut Wire, sql: &str) -> Vec<wire::Column> {
    let mut out = wire::parse("", sql);
    out.extend(wire::message(b'D', b"S\0"));
    out.extend(wire::sync());
    client.send(&out);
    let mut columns = Vec::new();
    loop {
        let message = client.message().unwrap();
        match message.tag {
            b'T' => columns = wire::columns(&message.body),
            b'Z' => return columns,
            b'E' => panic!("{sql}"),
            _ => {}
        }
    }
}

#[test]
fn parameters_of_the_protocol_reach_every_part() {
    let two = Two::new("parameters");
    let mut client = two.router.client();
    let above = two.counts("SELECT count(*) FROM rt WHERE user_id > 25");
    for sql in ["SELECT v FROM rt WHERE user_id > $1", "SELECT v, rank() OVER (ORDER BY v) FROM rt WHERE user_id > $1"]
    {
        let answer = client.execute(&format!("EXPLAIN (ANALYZE, FORMAT json) {sql}"), &[Some("25")], false);
        let document = document(&answer);
        let route = nodes(&document["Plan"], "Sluice Route");
        assert_eq!(numbers(&route, "Actual Rows"), [above[0] + above[1]], "{sql}");
        assert_eq!(numbers(&nodes(route[0], "Sluice Shard"), "Actual Rows"), above, "{sql}");
        let plain = client.execute(&format!("EXPLAIN {sql}"), &[Some("25")], false).text();
        assert!(plain.contains("user_id > '25'::bigint"), "{plain}");
    }
    // A key: the shards are those of the values.
    let keys = "EXPLAIN (COSTS OFF) SELECT v FROM rt WHERE user_id = ANY($1::bigint[])";
    assert!(!client.execute(keys, &[Some("{3}")], false).text().contains("Shard"));
    assert_eq!(client.execute(keys, &[Some("{1,2,3,4,5,6,7,8,9}")], false).text().matches("Shard ").count(), 2);
    assert_eq!(client.execute(keys, &[], false).sqlstate(), "08P01");
    assert_eq!(client.query("EXPLAIN SELECT v FROM rt WHERE v > $1").sqlstate(), "42P02");
}

#[test]
fn explain_of_one_shard_is_postgresqls_own() {
    let two = Two::new("own");
    let mut client = two.router.client();
    for options in [
        "(COSTS OFF)",
        "(COSTS OFF, FORMAT json)",
        "(COSTS OFF, FORMAT 'xml')",
        "(ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF)",
    ] {
        let sql = format!("EXPLAIN {options} SELECT v FROM rt WHERE user_id = 3");
        let home =
            (0..2).find(|shard| two.shard(*shard).text("SELECT count(*) FROM rt WHERE user_id = 3") == "1").unwrap();
        let own = two.shard(home).text(&sql);
        assert_eq!(client.text(&sql), own, "{options}");
        assert_eq!(client.execute(&sql, &[], false).text(), own, "{options}");
        let bound = client.execute(&sql.replace("= 3", "= $1"), &[Some("3")], false).text();
        assert_eq!(bound.replace("'3'::bigint", "3"), own, "{options}");
    }
    let insert = client.query("EXPLAIN ANALYZE INSERT INTO rt VALUES (1000, 1, 'x')");
    assert_eq!(insert.sqlstate(), "");
    assert_eq!(client.text("SELECT count(*) FROM rt WHERE user_id = 1000"), "1");
}

#[test]
fn what_each_shard_writes_by_itself_is_run_and_stays() {
    let two = Two::new("written");
    let mut client = two.router.client();
    let rows = client.text("SELECT count(*) FROM rt");
    let told = client.text("EXPLAIN (ANALYZE, COSTS OFF) UPDATE rt SET v = -1");
    assert_eq!(told.matches("Update on rt (actual").count(), 2, "{told}");
    assert!(told.contains("Execution Time: "), "{told}");
    assert_eq!(client.text("SELECT count(*) FROM rt WHERE v = -1"), rows);
    let insert = "INSERT INTO rt (user_id, v) VALUES ($1, -2), (70001, -2), (70002, -2), (70003, -2), (70004, -2)";
    let told = client.execute(&format!("EXPLAIN (ANALYZE, TIMING OFF) {insert}"), &[Some("70000")], false).text();
    assert_eq!(told.matches("Insert on rt ").count(), 2, "{told}");
    assert_eq!(client.text("SELECT count(*) FROM rt WHERE v = -2"), "5");
    // An error on one shard takes the rows of the other with it; so does the client.
    let failing = client.query("EXPLAIN ANALYZE UPDATE rt SET v = 1 / (user_id - 70004)");
    assert_eq!(failing.sqlstate(), "22012", "{:?}", failing.error);
    client.query("BEGIN; EXPLAIN ANALYZE DELETE FROM rt; ROLLBACK");
    assert_eq!(client.text("SELECT count(*) FROM rt WHERE v = -1"), rows);
}

#[test]
fn what_moves_rows_or_gives_random_ones_is_not_run() {
    let two = Two::new("writes");
    let mut client = two.router.client();
    let before = client.text("SELECT sum(v) FROM rt");
    for sql in [
        "UPDATE rt SET v = (SELECT max(v) FROM rt)",
        "SELECT user_id, random() FROM rt",
        "INSERT INTO rt SELECT user_id + 1, v FROM rt",
        "UPDATE rt SET user_id = user_id + 1",
    ] {
        let error = client.query(&format!("EXPLAIN ANALYZE {sql}"));
        assert_eq!(error.sqlstate(), "0A000", "{sql} {:?}", error.error);
    }
    assert_eq!(client.text("SELECT sum(v) FROM rt"), before);
    assert!(client.text("EXPLAIN SELECT user_id, random() FROM rt").contains("Route: all shards"));
    // A block that writes to one key may look at plans of writes to others.
    client.query("BEGIN");
    for key in 1..10 {
        assert_eq!(client.query(&format!("EXPLAIN UPDATE rt SET v = 1 WHERE user_id = {key}")).sqlstate(), "");
    }
    assert_eq!(client.query("UPDATE rt SET v = v WHERE user_id = 1").sqlstate(), "");
    assert_eq!(client.query("EXPLAIN SELECT rank() OVER (ORDER BY random()) FROM rt").sqlstate(), "");
    assert_eq!(client.query("COMMIT").tag(), "COMMIT");
}

#[test]
fn what_locks_runs_once_and_keeps_its_locks() {
    let two = Two::new("locks");
    let mut client = two.router.client();
    let each = two.counts("SELECT count(*) FROM rt WHERE v = 2");
    client.query("BEGIN");
    let sql = "SELECT user_id FROM rt WHERE v = 2 FOR UPDATE";
    let document = explained(&mut client, "ANALYZE, WAL, TIMING", sql);
    let shards = nodes(&document["Plan"], "Sluice Shard");
    assert_eq!(numbers(&shards, "Actual Rows"), each);
    let servers = nodes(&document["Plan"], "LockRows");
    assert_eq!(servers.len(), 2);
    assert!(servers.iter().all(|node| node.get("Actual Rows").is_none() && node.get("Plan Rows").is_some()));
    assert_eq!(document["Shards Planned Only"], true);
    for shard in 0..2 {
        let nowait = two.shard(shard).query("SELECT FROM rt WHERE v = 2 FOR UPDATE NOWAIT");
        assert_eq!(nowait.sqlstate(), "55P03");
    }
    assert!(client.text(&format!("EXPLAIN ANALYZE {sql}")).contains("It locks, so it was run once"));
    client.query("COMMIT");
    assert_eq!(two.shard(0).query("SELECT FROM rt WHERE v = 2 FOR UPDATE NOWAIT").sqlstate(), "");
}

#[test]
fn an_error_in_the_middle_leaves_the_session_in_order() {
    let two = Two::new("errors");
    let mut client = two.router.client();
    for sql in ["SELECT 1 / (user_id - 30) FROM rt", "SELECT rank() OVER (ORDER BY 1 / (user_id - 30)) FROM rt"] {
        assert_eq!(client.query(&format!("EXPLAIN ANALYZE {sql}")).sqlstate(), "22012", "{sql}");
        assert_eq!(client.execute(&format!("EXPLAIN ANALYZE {sql}"), &[], false).sqlstate(), "22012", "{sql}");
        assert!(client.text(&format!("EXPLAIN {sql}")).contains("(primary)"));
        assert_eq!(client.text("SELECT count(*) FROM rt"), "60");
    }
    // The columns have changed since the servers planned it.
    client.text("EXPLAIN ANALYZE SELECT * FROM rt ORDER BY user_id");
    for shard in 0..2 {
        two.shard(shard).query("ALTER TABLE rt ALTER COLUMN v TYPE bigint");
    }
    assert!(client.text("EXPLAIN ANALYZE SELECT * FROM rt ORDER BY user_id").contains("rows=60"));
}

#[test]
fn what_stands_around_explain_does_not_matter() {
    let two = Two::new("around");
    let mut client = two.router.client();
    let cursor = client.text("EXPLAIN DECLARE c CURSOR FOR SELECT v FROM rt");
    assert!(cursor.contains("SELECT v FROM (input 1 rt)"), "{cursor}");
    let several = client.query("SELECT 1; EXPLAIN (COSTS OFF) SELECT v FROM rt; SELECT 2");
    assert_eq!(several.results.len(), 3);
    assert!(several.text().contains("Route: all shards"));
    // What every shard runs as it is has no plan of its own.
    let refresh = "REFRESH MATERIALIZED VIEW mv";
    let utility = client.text(&format!("EXPLAIN {refresh}"));
    assert!(utility.starts_with("Broadcast: all shards\n") && utility.matches("(primary)").count() == 2, "{utility}");
    assert_eq!(client.execute(&format!("EXPLAIN {refresh}"), &[], false).text(), utility);
    let json = explained(&mut client, "VERBOSE", refresh);
    assert_eq!(nodes(&json["Plan"], "Utility Statement").len(), 2, "{json:#}");
    assert_eq!(client.query(&format!("EXPLAIN ANALYZE {refresh}")).sqlstate(), "0A000");
    // In the middle of a pipeline, with and without parameters, and as a portal that is fetched in portions.
    for (sql, parameters) in [
        ("EXPLAIN (ANALYZE, COSTS OFF) SELECT v FROM rt WHERE v > $1", &[Some("3")][..]),
        ("EXPLAIN (ANALYZE, COSTS OFF) SELECT rank() OVER (ORDER BY v) FROM rt", &[][..]),
    ] {
        let mut out = Vec::new();
        for (sql, parameters) in
            [("SELECT 1 FROM rt WHERE user_id = 1", &[][..]), (sql, parameters), ("SELECT 2 FROM rt LIMIT 1", &[][..])]
        {
            out.extend(wire::parse("", sql));
            out.extend(wire::bind("p", "", parameters, false));
            let rows_max = u8::from(sql.starts_with("EXPLAIN"));
            out.extend(wire::message(b'E', &[b'p', 0, 0, 0, 0, rows_max]));
            out.extend(wire::message(b'C', b"Pp\0"));
        }
        out.extend(wire::sync());
        client.send(&out);
        let answer = client.answer(&[]);
        assert!(answer.error.is_none(), "{sql} {:?}", answer.error);
        assert!(answer.results[1].rows.len() > 5 && answer.results[1].tag == "EXPLAIN", "{sql} {answer:?}");
        assert_eq!(client.text("SELECT count(*) FROM rt"), "60");
    }
    // A portal of EXPLAIN has no rows of its statement.
    let mut out = wire::parse("", "EXPLAIN SELECT v FROM rt");
    out.extend(wire::bind("c", "", &[], false));
    out.extend(wire::sync());
    client.query("BEGIN");
    client.send(&out);
    assert!(client.answer(&[]).error.is_none());
    assert_eq!(client.query("FETCH 1 FROM c").sqlstate(), "34000");
    client.query("ROLLBACK");
}

#[test]
fn writes_over_shards_are_explained_and_not_done() {
    let two = Two::new("writes");
    let mut client = two.router.client();
    assert_eq!(client.query("CREATE TABLE orders (user_id bigint, no int, PRIMARY KEY (user_id, no))").sqlstate(), "");
    let before = two.counts("SELECT sum(user_id + v) FROM rt");
    let cases = [
        ("UPDATE rt SET v = 1000", "WriteEach: its own rows on all shards", 2, "Update on rt"),
        ("DELETE FROM rt WHERE v > 3 RETURNING *", "WriteEach: its own rows on all shards", 2, "Delete on rt"),
        (
            "DELETE FROM rt WHERE v > (SELECT avg(v) FROM rt)",
            "WriteEach: its own rows on all shards",
            2,
            "Seq Scan on rt",
        ),
        (
            "INSERT INTO rt VALUES (101, 1), (102, 1), (103, 1), (104, 1), (105, 1)",
            "InsertRows: each row on its shard, all shards",
            2,
            "Insert on rt",
        ),
        (
            "INSERT INTO rt (user_id, v) SELECT user_id + 1000, v FROM rt",
            "InsertSelected: each row on its shard",
            2,
            "Seq Scan on rt",
        ),
        (
            "INSERT INTO rt (user_id, v) SELECT g, 1 FROM generate_series(200, 210) AS g",
            "InsertSelected: each row on its shard",
            1,
            "Function Scan on",
        ),
        (
            "INSERT INTO orders SELECT user_id, 1 FROM rt",
            "WriteEach: its own rows on all shards",
            2,
            "Insert on orders",
        ),
        ("UPDATE rt SET user_id = user_id + 1000 WHERE v = 2", "MoveRows: from all shards", 2, "LockRows"),
        (
            "MERGE INTO rt USING orders AS o ON o.user_id = rt.user_id WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT (user_id) VALUES (o.user_id)",
            "WriteEach: its own rows on all shards",
            2,
            "Merge on rt",
        ),
    ];
    for (sql, first, plans, node) in cases {
        let text = client.text(&format!("EXPLAIN (COSTS OFF) {sql}"));
        assert!(text.starts_with(first), "{sql}\n{text}");
        assert_eq!(text.matches(node).count(), plans, "{sql}\n{text}");
        let document = explained(&mut client, "VERBOSE", sql);
        assert!(document["Plan"].is_object(), "{document}");
        let mut extended = client.execute(&format!("EXPLAIN (COSTS OFF) {sql}"), &[], false);
        assert_eq!(extended.text(), text);
        if !first.contains(" its own rows ") && !first.starts_with("InsertRows") || sql.contains("avg") {
            extended = client.query(&format!("EXPLAIN ANALYZE {sql}"));
            assert_eq!(extended.sqlstate(), "0A000", "{sql}");
        }
    }
    let text = client
        .execute(
            "EXPLAIN (COSTS OFF) UPDATE rt SET t = $1 WHERE v > $2 AND now() > '2000-01-01'",
            &[Some("x"), Some("3")],
            false,
        )
        .text();
    assert!(text.starts_with("WriteEach") && text.contains("(v > 3)"), "{text}");
    assert_eq!(two.counts("SELECT sum(user_id + v) FROM rt"), before);
    assert_eq!(two.counts("SELECT count(*) FROM orders"), [0, 0]);
}

#[test]
fn stages_are_explained_and_not_run() {
    let two = Two::new("stages");
    let mut client = two.router.client();
    assert_eq!(client.query("CREATE TABLE orders (user_id bigint, no int, PRIMARY KEY (user_id, no))").sqlstate(), "");
    let before = two.counts("SELECT sum(user_id + v) FROM rt");
    let moved = "WITH gone AS (DELETE FROM rt WHERE v > $1 RETURNING user_id, v) INSERT INTO orders SELECT user_id, v FROM gone";
    let read = "WITH gone AS (DELETE FROM rt WHERE user_id = $1 RETURNING v), n AS (SELECT count(*) FROM orders) SELECT * FROM gone, n";
    for (sql, deletes, last) in [(moved, 2, "InsertSelected"), (read, 1, "Input: 1 orders")] {
        let text = client.execute(&format!("EXPLAIN (COSTS OFF) {sql}"), &[Some("3")], false).text();
        assert!(text.starts_with("Stages: one after another\n├─ Stage: 1 gone"), "{text}");
        assert!(text.contains("the statement") && text.contains(last), "{text}");
        assert_eq!(text.matches("Delete on rt").count(), deletes, "{text}");
        let sql = sql.replace("$1", "3");
        assert_eq!(client.text(&format!("EXPLAIN (COSTS OFF) {sql}")).matches("Delete on rt").count(), deletes);
        assert!(explained(&mut client, "VERBOSE", &sql)["Plan"].is_object());
        assert_eq!(client.query(&format!("EXPLAIN ANALYZE {sql}")).sqlstate(), "0A000");
    }
    assert_eq!(two.counts("SELECT sum(user_id + v) FROM rt"), before);
    assert_eq!(two.counts("SELECT count(*) FROM orders"), [0, 0]);
}
