//! nextval costs nobody a server; currval and lastval tell a session what it was given itself.

use crate::support::running::{RULES, Running, database_config, databases, shared, superuser, wait_for};

fn router(size: usize) -> (Running, String) {
    let over = databases("sequences", 1);
    let pool = format!("[pool]\nsize = {size}\nwait_timeout = \"1s\"\n");
    let router = Running::start(&(pool + &database_config(shared(), &over, RULES)));
    router.wait_until_ready();
    let mut owner = router.client();
    owner.query("CREATE TABLE orders (id serial PRIMARY KEY, what text)");
    owner.query("CREATE SEQUENCE tickets");
    (router, over[0].clone())
}

#[test]
fn nextval_keeps_no_server() {
    let (router, _) = router(1);
    let mut clients: Vec<_> = (0..5).map(|_| router.client()).collect();
    let mut next = 0;
    for _ in 0..3 {
        for client in &mut clients {
            next += 1;
            assert_eq!(client.text("SELECT nextval('tickets')"), next.to_string());
            assert_eq!(client.query("INSERT INTO orders (what) VALUES ('x')").tag(), "INSERT 0 1");
        }
    }
}

#[test]
fn currval_is_the_sessions_own_or_refused() {
    let (router, database) = router(2);
    let (mut one, mut other) = (router.client(), router.client());
    one.query("INSERT INTO orders (what) VALUES ('first')");
    assert_eq!(one.text("SELECT currval('orders_id_seq'), lastval()"), "1|1");
    // It keeps its server now; the other client has one too.
    other.query("INSERT INTO orders (what) VALUES ('second')");
    assert_eq!(other.execute("SELECT currval('orders_id_seq')", &[], false).text(), "2");
    one.query("INSERT INTO orders (what) VALUES ('third')");
    assert_eq!(one.text("SELECT lastval()"), "3");
    assert_eq!(other.text("SELECT lastval()"), "2");
    drop((one, other));
    // Nobody sees what the server's last user was given.
    let mut fresh = router.client();
    assert_eq!(fresh.query("SELECT currval('orders_id_seq')").sqlstate(), "55000");
    assert_eq!(fresh.query("SELECT lastval()").sqlstate(), "55000");
    drop(fresh);
    let (mut one, mut other) = (router.client(), router.client());
    one.query("INSERT INTO orders (what) VALUES ('fourth')");
    let mut past = superuser(shared(), &database);
    let servers = "FROM pg_stat_activity WHERE usename = 'app' AND datname = current_database() \
                   AND application_name NOT LIKE 'sluice control%'";
    past.query(&format!("SELECT pg_terminate_backend(pid) {servers}"));
    wait_for("the servers' end", || (past.text(&format!("SELECT count(*) {servers}")) == "0").then_some(()));
    other.query("INSERT INTO orders (what) VALUES ('fifth')");
    assert_eq!(one.query("SELECT lastval()").sqlstate(), "0A000", "its server is gone");
    one.query("BEGIN");
    one.query("INSERT INTO orders (what) VALUES ('sixth')");
    assert_eq!(one.text("SELECT currval('orders_id_seq')"), "6");
    assert_eq!(one.query("COMMIT").tag(), "COMMIT");
}
