//! A router inside the test's own process, and databases for it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use pgsluice::config::Config;
use pgsluice::demo::{Cluster, ClusterOptions, Instance};
use pgsluice::router::Router;

use super::wire::Wire;

const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);

/// Bounds beyond which merges fall to final queries, and those to temporary tables: all but the smallest merges.
pub const SMALL: &str = "[limits]\nmerge_buffer_max = \"1KB\"\nfinal_query_array_bytes_max = \"0B\"\n";

/// The rules of sharding that all tests use.
pub const RULES: &str = r#"
sharding_key = "user_id"
tables.users.key = "id"
tables.accounts.key = "name"
tables.devices.key = "id"
tables.smalls.key = "k"
tables.mediums.key = "k"
tables.plans.kind = "reference"
tables.countries.kind = "reference"
tables.audit_log = { kind = "local" }
"#;

/// One PostgreSQL for all tests that leave it running. It ends with the process.
pub fn shared() -> &'static Instance {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    let options = || {
        let settings = vec![("max_connections".to_owned(), "400".to_owned())];
        ClusterOptions { settings, ..Default::default() }
    };
    CLUSTER.get_or_init(|| Cluster::start(options()).unwrap()).primary(0)
}

/// As the superuser, past the router.
pub fn superuser(instance: &Instance, database: &str) -> Wire {
    Wire::connect(instance.port(), "postgres", database)
}

/// Makes empty databases on the shared PostgreSQL with names of their own.
pub fn databases(prefix: &str, count: usize) -> Vec<String> {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let mut wire = superuser(shared(), "postgres");
    // Servers before 15 know no strategies, and copy files.
    let is_old = wire.text("SHOW server_version_num").starts_with("14");
    let strategy = if is_old { "" } else { " STRATEGY file_copy" };
    (0..count)
        .map(|shard| {
            let name = format!("{prefix}_{number}_{shard}");
            let sql = format!("CREATE DATABASE {name} OWNER app TEMPLATE template0{strategy}");
            assert_eq!(wire.query(&sql).tag(), "CREATE DATABASE");
            name
        })
        .collect()
}

/// The `[[database]]` part of a configuration: `app` over these databases of one PostgreSQL.
pub fn database_config(instance: &Instance, databases: &[String], rules: &str) -> String {
    let mut text = format!("[[database]]\nname = \"app\"\n{rules}\n");
    for database in databases {
        let url = instance.url(database);
        text.push_str(&format!("[[database.shard]]\nname = \"{database}\"\nprimary = \"{url}\"\n"));
    }
    text
}

/// A router in this process.
pub struct Running {
    router: Option<Router>,
    pub port: u16,
}

impl Running {
    /// Over some databases of the shared PostgreSQL, with the usual rules; waits until it knows the tables.
    pub fn over(databases: &[String]) -> Self {
        let running = Self::start(&database_config(shared(), databases, RULES));
        running.wait_until_ready();
        running
    }

    /// Starts with a configuration that names neither addresses nor `[auth]`: it listens on a free
    /// port and trusts everyone.
    pub fn start(config: &str) -> Self {
        Self::start_exactly(&format!(
            "[listen]\naddress = \"127.0.0.1:0\"\nworkers = 2\n[auth]\nmethod = \"trust\"\n{config}"
        ))
    }

    pub fn start_exactly(config: &str) -> Self {
        let config = match Config::parse(config) {
            Ok(config) => config,
            Err(problems) => panic!("{problems:?}\n{config}"),
        };
        let router = Router::start(config).unwrap();
        let port = router.address().port();
        Self { router: Some(router), port }
    }

    pub fn wait_until_ready(&self) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let router = self.router.as_ref().unwrap();
        assert!(runtime.block_on(router.ready(PATIENCE)), "the router does not get to know the tables");
    }

    /// A client as user `app`.
    pub fn client(&self) -> Wire {
        Wire::connect(self.port, "app", "app")
    }

    pub fn url(&self) -> String {
        format!("postgres://app:app@127.0.0.1:{}/app", self.port)
    }
}

/// Asks again until there is an answer; panics with `what` when it never comes.
pub fn wait_for<T>(what: &str, mut question: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = question() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        thread::sleep(POLL);
    }
}
