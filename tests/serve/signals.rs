//! What signals do to the program: as PgBouncer's.

use std::net::TcpStream;

use crate::operate::{admin, cluster, config, connect, eventually, psql, show};
use crate::support::Sluice;

async fn door_closes(port: u16) {
    eventually("a closed door", || TcpStream::connect(("127.0.0.1", port)).is_err().then_some(())).await;
}

#[tokio::test]
async fn usr1_pauses_and_usr2_resumes() {
    let cluster = cluster(1, 0);
    let sluice = Sluice::start(&config(&cluster));
    let port = sluice.port();
    let (open, other) = (connect(port).await, connect(port).await);
    open.batch_execute("BEGIN; SELECT 1").await.unwrap();
    sluice.signal("USR1");
    let paused = |wanted: &'static str| move || (show(port, "DATABASES", &["paused"]) == [wanted]).then_some(());
    eventually("the pause", paused("1")).await;
    open.batch_execute("SELECT 2; COMMIT").await.unwrap();
    let waiting = tokio::spawn(async move { other.query_one("SELECT 3", &[]).await.unwrap().get::<_, i32>(0) });
    let reason = || (show(port, "WAITING", &["user", "reason", "holders"]) == ["app PAUSE 0"]).then_some(());
    eventually("a waiting client", reason).await;
    sluice.signal("USR2");
    assert_eq!(waiting.await.unwrap(), 3);
    eventually("the end of the pause", paused("0")).await;
}

#[tokio::test]
async fn term_waits_for_clients_and_a_second_signal_for_nobody() {
    let cluster = cluster(1, 0);
    let mut sluice = Sluice::start(&config(&cluster));
    let port = sluice.port();
    let client = connect(port).await;
    sluice.signal("TERM");
    door_closes(port).await;
    client.batch_execute("SELECT 1").await.unwrap();
    client.batch_execute("BEGIN; SELECT 2").await.unwrap();
    sluice.signal("TERM");
    assert!(sluice.wait().success());
    assert!(client.batch_execute("COMMIT").await.is_err());
}

#[tokio::test]
async fn int_waits_for_servers_and_lets_nobody_wait_for_one() {
    let cluster = cluster(1, 0);
    let mut sluice = Sluice::start(&format!("{}\n[pool]\nsize = 1\nwait_timeout = \"10m\"\n", config(&cluster)));
    let port = sluice.port();
    let (open, other) = (connect(port).await, connect(port).await);
    open.batch_execute("BEGIN; SELECT 1").await.unwrap();
    let waiting = tokio::spawn(async move { other.batch_execute("SELECT 3").await.unwrap_err() });
    eventually("a waiting client", || (show(port, "WAITING", &["user"]) == ["app"]).then_some(())).await;
    sluice.signal("INT");
    let told = waiting.await.unwrap();
    assert_eq!(told.code().map(|code| code.code()), Some("57P01"), "{told}");
    door_closes(port).await;
    open.batch_execute("SELECT 2; COMMIT").await.unwrap();
    assert!(sluice.wait().success());
}

#[tokio::test]
async fn quit_and_shutdown_wait_for_nobody() {
    let cluster = cluster(1, 0);
    let stop: [fn(&Sluice); 2] = [|sluice| sluice.signal("QUIT"), |sluice| drop(psql_shutdown(sluice))];
    for stop in stop {
        let mut sluice = Sluice::start(&config(&cluster));
        let client = connect(sluice.port()).await;
        client.batch_execute("BEGIN; SELECT 1").await.unwrap();
        stop(&sluice);
        assert!(sluice.wait().success());
        assert!(client.batch_execute("COMMIT").await.is_err());
    }
}

/// Whether the answer comes before the end is a matter of luck.
fn psql_shutdown(sluice: &Sluice) -> Result<String, String> {
    psql(sluice.port(), "admin", "sluice", "SHUTDOWN")
}

#[tokio::test]
async fn hup_reads_the_file_again() {
    let cluster = cluster(1, 0);
    let sluice = Sluice::start(&config(&cluster));
    sluice.reload(&format!("{}\n[pool]\nsize = 7\n", config(&cluster)));
    let size = || (show(sluice.port(), "DATABASES", &["pool_size"]) == ["7"]).then_some(());
    eventually("the new size", size).await;
    admin(sluice.port(), "SHOW CONFIG");
}
