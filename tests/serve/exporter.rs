//! Debian's `prometheus-pgbouncer-exporter`, unchanged, against the console.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use crate::operate::{cluster, config, connect, eventually};
use crate::support::Sluice;

const EXPORTER: &str = "prometheus-pgbouncer-exporter";

/// Ends with its owner.
struct Exporter(Child);

impl Drop for Exporter {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn is_installed() -> bool {
    let version = Command::new(EXPORTER).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    version.is_ok_and(|status| status.success())
}

/// One scrape; `None` when nobody listens yet.
fn scrape(address: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    write!(stream, "GET /metrics HTTP/1.0\r\nHost: x\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

#[tokio::test]
async fn debians_exporter_reads_the_console() {
    if !is_installed() {
        return eprintln!("skipped: {EXPORTER} is not installed (apt-get install {EXPORTER})");
    }
    let cluster = cluster(1, 0);
    let sluice = Sluice::start(&config(&cluster));
    let client = connect(sluice.port()).await;
    client.batch_execute("SELECT 1").await.unwrap();
    client.batch_execute("SELECT 2").await.unwrap();

    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut command = Command::new(EXPORTER);
    command.args(["--host", "127.0.0.1", "--port", &address.port().to_string()]);
    command.args(["--pgbouncer-host", "127.0.0.1", "--pgbouncer-port", &sluice.port().to_string()]);
    command.args(["--pgbouncer-user", "watcher"]).env("PGPASSWORD", "watcher");
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut exporter = Exporter(child);

    let answer = eventually("a scrape", || scrape(address)).await;
    // The second finds what the first has left: one connection is used for all.
    let again = scrape(address).unwrap();
    exporter.0.kill().unwrap();
    let mut log = String::new();
    exporter.0.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    for answer in [&answer, &again] {
        assert!(answer.starts_with("HTTP/1.0 200"), "{answer}\n{log}");
        for metric in [
            "pgbouncer_requests_total{database=\"app\"} 2.0",
            "pgbouncer_active_clients{database=\"app\",user=\"app\"} 1.0",
            "pgbouncer_waiting_clients{database=\"app\",user=\"app\"} 0.0",
            "pgbouncer_pool_size{database=\"app\"} 20.0",
            "pgbouncer_reserve_pool{database=\"app\"} 0.0",
            "pgbouncer_databases 1.0",
            "pgbouncer_used_clients 1.0",
        ] {
            assert!(answer.contains(metric), "{metric} is not in\n{answer}\n{log}");
        }
        let received =
            answer.lines().find_map(|line| line.strip_prefix("pgbouncer_received_bytes_total{database=\"app\"} "));
        assert!(received.is_some_and(|bytes| bytes.parse::<f64>().unwrap() > 0.0), "{answer}");
    }
    assert!(!log.contains("Traceback") && !log.contains("Error"), "{log}");
}
