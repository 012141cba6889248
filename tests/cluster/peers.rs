//! Several routers before the same servers: a cancel request reaches the client wherever it arrives.

use crate::support::running::{RULES, Running, database_config, databases, shared, superuser, wait_for};
use crate::support::wire::{self, Wire};

/// A router with this number, and the peers it knows by number and port.
fn router(over: &[String], router_id: u8, peers: &[(u8, u16)]) -> Running {
    let mut config = format!(
        "[listen]\naddress = \"127.0.0.1:0\"\nworkers = 2\nrouter_id = {router_id}\n[auth]\nmethod = \"trust\"\n\
         [[user]]\nname = \"admin\"\nrole = \"admin\"\n{}",
        database_config(shared(), over, RULES)
    );
    for (peer, port) in peers {
        config.push_str(&format!("[[peer]]\nrouter_id = {peer}\naddress = \"127.0.0.1:{port}\"\n"));
    }
    let running = Running::start_exactly(&config);
    running.wait_until_ready();
    running
}

fn cancel(at: &Running, pid: i32, secret: &[u8]) {
    let mut wire = Wire::open(at.port);
    wire.send(&wire::cancel(pid, secret));
    assert!(wire.read_to_end().is_empty());
}

#[test]
fn a_cancel_request_at_another_router_is_passed_on() {
    let over = databases("peers", 1);
    let first = router(&over, 1, &[]);
    let second = router(&over, 2, &[(1, first.port)]);
    // The third knows the first only by a wrong address, the second's: what it passes on ends there.
    let third = router(&over, 3, &[(1, second.port), (2, second.port)]);
    let mut victim = first.client();
    let mut bystander = second.client();
    victim.send(&wire::query("SELECT pg_sleep(600)"));
    bystander.send(&wire::query("SELECT 'other' FROM pg_sleep(1)"));
    let running = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%pg_sleep(%' \
                   AND state = 'active' AND pid <> pg_backend_pid()";
    wait_for("both to run", || (superuser(shared(), &over[0]).text(running) == "2").then_some(()));

    let wrong: Vec<u8> = victim.secret.iter().map(|byte| !byte).collect();
    cancel(&second, victim.pid, &wrong);
    cancel(&third, victim.pid, &victim.secret);
    cancel(&first, bystander.pid, &bystander.secret);
    assert_eq!(bystander.answer(b"").text(), "other", "the first router knows no second");
    assert_eq!(superuser(shared(), &over[0]).text(running), "1", "nothing has reached the victim");

    cancel(&second, victim.pid, &victim.secret);
    assert_eq!(victim.answer(b"").sqlstate(), "57014");
    assert_eq!(victim.text("SELECT 1"), "1");

    bystander.send(&wire::query("SELECT pg_sleep(600)"));
    wait_for("it to run", || (superuser(shared(), &over[0]).text(running) == "1").then_some(()));
    cancel(&third, bystander.pid, &bystander.secret);
    assert_eq!(bystander.answer(b"").sqlstate(), "57014");

    let mut console = Wire::connect(third.port, "admin", "sluice");
    let expected = format!("1|127.0.0.1|{port}|\n2|127.0.0.1|{port}|", port = second.port);
    assert_eq!(console.query("SHOW PEERS").text(), expected);
}
