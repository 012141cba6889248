//! Catalog loading and health checks against real PostgreSQL.

use std::time::Duration;

use pgsluice::catalog::{self, CatalogReader, CatalogWatch, Shard};
use pgsluice::control;
use pgsluice::demo::{Cluster, ClusterOptions, Instance};
use pgsluice::prober::{ProbeResult, ShardProber};
use pgsluice_sharding::catalog::{
    Collation, Function, FunctionKind, Relation, TableKind, TableRule, TableRules, Volatility,
};
use pgsluice_sharding::key::KeyType;
use pgsluice_sharding::map::ShardId;
use tokio_postgres::{Client, NoTls};

const SCHEMA: &str = r#"
CREATE SCHEMA audit;
CREATE SCHEMA sluice;
CREATE TABLE sluice.decision (id text);
CREATE DOMAIN account AS bigint;
CREATE DOMAIN owner AS account;
CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE TABLE users (id bigint PRIMARY KEY, email varchar(200) COLLATE "C", name text, nick text COLLATE nocase, gone int);
ALTER TABLE users DROP COLUMN gone;
CREATE TABLE orders (user_id owner NOT NULL, total numeric(10,2), note text) PARTITION BY HASH (user_id);
CREATE TABLE orders_0 PARTITION OF orders FOR VALUES WITH (MODULUS 1, REMAINDER 0);
CREATE TABLE plans (id int PRIMARY KEY, label text);
CREATE TABLE loose (user_id bigint);
CREATE TABLE wrong (user_id numeric NOT NULL);
CREATE TABLE audit.log (at timestamptz);
CREATE TABLE "Odd ""name" ();
CREATE VIEW totals AS SELECT user_id, sum(total) FROM orders GROUP BY 1;
CREATE MATERIALIZED VIEW stale AS SELECT count(*) FROM plans;
CREATE FUNCTION price(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';
CREATE FUNCTION price(text) RETURNS int LANGUAGE sql STABLE AS 'SELECT 1';
CREATE FUNCTION rows() RETURNS SETOF int LANGUAGE sql AS 'SELECT 1';
CREATE AGGREGATE price(bigint) (sfunc = int8pl, stype = bigint);
CREATE PROCEDURE work() LANGUAGE sql AS 'SELECT 1';
CREATE SCHEMA evil;
CREATE FUNCTION evil.never(oid, oid) RETURNS bool LANGUAGE sql AS 'SELECT false';
CREATE OPERATOR evil.= (LEFTARG = oid, RIGHTARG = oid, FUNCTION = evil.never);
ALTER DATABASE app SET search_path = 'audit', "$user", public;
"#;

async fn connect(config: &tokio_postgres::Config) -> Client {
    let (client, connection) = config.connect(NoTls).await.expect("a connection");
    tokio::spawn(connection);
    client
}

fn cluster(replicas: usize, locale: &str) -> Cluster {
    let options = ClusterOptions { replicas, locale: locale.to_owned(), ..ClusterOptions::default() };
    Cluster::start(options).expect("a cluster")
}

fn config(instance: &Instance, database: &str) -> tokio_postgres::Config {
    instance.superuser_url(database).parse().expect("a URL")
}

async fn with_schema(server: &Instance) -> Client {
    connect(&config(server, "app")).await.batch_execute(SCHEMA).await.expect("the schema");
    connect(&config(server, "app")).await
}

fn rules() -> TableRules {
    let tables = [
        ("users".to_owned(), TableRule::Key("id".to_owned())),
        ("plans".to_owned(), TableRule::Reference),
        ("audit.log".to_owned(), TableRule::Local(ShardId(1))),
    ];
    TableRules { sharding_key: Some("user_id".to_owned()), tables: tables.into(), ..TableRules::default() }
}

#[tokio::test]
async fn a_catalog_says_what_the_server_has() {
    let cluster = cluster(0, "C.UTF-8");
    let server = cluster.primary(0);
    let client = with_schema(server).await;
    let loaded = catalog::load(&client, &rules(), 2, 3).await.expect("the catalog");
    let catalog = loaded.catalog;
    let public = &catalog.tables["public"];

    assert_eq!(catalog.version, 3);
    assert_eq!(catalog.search_path, ["audit", "$user", "public"]);
    assert_eq!(catalog.default_collation, Collation::Bytes);
    assert!(!catalog.tables.contains_key("sluice") && !catalog.tables.contains_key("pg_catalog"));

    let users = &public["users"];
    assert_eq!(users.kind, TableKind::Sharded { column: 0, key_type: KeyType::Int8 });
    let columns: Vec<_> = users.columns.iter().map(|c| (c.name.as_str(), c.type_oid, c.collation)).collect();
    let expected = [
        ("id", 20, Collation::Bytes),
        ("email", 1043, Collation::Bytes),
        ("name", 25, Collation::Bytes),
        ("nick", 25, Collation::Nondeterministic),
    ];
    assert_eq!(columns, expected);
    assert_eq!(users.columns[1].typmod, 204);

    assert_eq!(public["orders"].kind, TableKind::Sharded { column: 0, key_type: KeyType::Int8 });
    assert_eq!(public["orders"].columns[0].type_oid, 20, "a domain over a domain");
    assert_eq!(public["orders_0"].kind, public["orders"].kind);
    assert_eq!(public["plans"].kind, TableKind::Reference);
    assert_eq!(catalog.tables["audit"]["log"].kind, TableKind::Local(ShardId(1)));
    assert_eq!((public["totals"].relation, public["stale"].relation), (Relation::KnownView, Relation::KnownView));
    assert_eq!((public["totals"].kind, public["stale"].kind), (public["orders"].kind, TableKind::Reference));
    assert_eq!(public["Odd \"name"].columns, []);

    let price = Function { volatility: Volatility::Stable, kind: FunctionKind::Aggregate, pin: None };
    assert_eq!(catalog.functions["price"].kind, price.kind);
    assert_eq!(
        catalog.functions["rows"],
        Function { volatility: Volatility::Volatile, kind: FunctionKind::SetReturning, pin: None }
    );
    assert_eq!(catalog.functions["work"].kind, FunctionKind::Procedure);
    assert!(!catalog.functions.contains_key("lower"));

    assert_eq!(loaded.problems.len(), 2, "{:?}", loaded.problems);
    assert!(loaded.problems[0].contains("public.loose") && loaded.problems[1].contains("public.wrong"));
}

#[tokio::test]
async fn no_search_path_can_change_the_answer() {
    let cluster = cluster(0, "C");
    let server = cluster.primary(0);
    let client = with_schema(server).await;
    let honest = catalog::load(&client, &rules(), 2, 1).await.expect("the catalog").catalog;
    client.batch_execute("SET search_path = evil, pg_catalog").await.expect("SET");
    let probe = client.query_one("SELECT oid = oid FROM pg_class LIMIT 1", &[]).await.expect("the trap");
    assert!(!probe.get::<_, bool>(0), "the trap works");
    let trapped = catalog::load(&client, &rules(), 2, 1).await.expect("the catalog").catalog;
    assert_eq!(honest.tables, trapped.tables);
    assert_eq!(honest.functions, trapped.functions);
    assert_eq!(honest.search_path, trapped.search_path);
}

#[tokio::test]
async fn a_watch_follows_ddl_and_tells_differences() {
    let cluster = cluster(0, "C");
    let server = cluster.primary(0);
    let client = with_schema(server).await;
    let timeout = Duration::from_secs(5);
    let pool = |database: &str| control::pool(config(server, database), 2, timeout).expect("a pool");
    let shards = vec![
        Shard { name: "a".to_owned(), primary: pool("app") },
        Shard { name: "b".to_owned(), primary: pool("postgres") },
    ];
    let watch = std::sync::Arc::new(CatalogWatch::new("app", rules(), shards));
    let mut reader = CatalogReader::new(watch.clone());
    assert!(reader.catalog().tables.is_empty());

    assert!(watch.refresh_all().await.expect("a refresh"));
    assert_eq!(reader.catalog().version, 1);
    assert!(watch.problems().iter().any(|p| p == "table public.users is missing on shard b"), "{:?}", watch.problems());
    assert!(!watch.refresh().await.expect("a refresh"), "nothing has changed");

    client.batch_execute("CREATE TABLE public.fresh (user_id bigint NOT NULL)").await.expect("DDL");
    assert!(!reader.catalog().tables["public"].contains_key("fresh"));
    assert!(watch.refresh().await.expect("a refresh"));
    assert!(reader.catalog().tables["public"].contains_key("fresh"), "{:?}", reader.catalog());

    // DDL behind the router's back is found by the fingerprint.
    let background = watch.clone();
    let task = tokio::spawn(async move { background.run(Duration::from_millis(50)).await });
    watch.first_load().await;
    client.batch_execute("ALTER TABLE public.fresh ADD COLUMN more text").await.expect("DDL");
    let found = async {
        while reader.catalog().tables["public"]["fresh"].columns.len() < 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), found).await.expect("the new column");
    task.abort();
}

#[tokio::test]
async fn an_unreachable_database_has_an_empty_catalog_and_recovers() {
    let cluster = cluster(0, "C");
    let server = cluster.primary(0);
    drop(with_schema(server).await);
    server.stop();
    let pool = control::pool(config(server, "app"), 1, Duration::from_secs(1)).expect("a pool");
    let watch = CatalogWatch::new("app", rules(), vec![Shard { name: "a".to_owned(), primary: pool }]);
    assert!(watch.refresh_all().await.is_err());
    assert_eq!(watch.version(), 0);
    assert!(watch.problems()[0].contains("shard a cannot be asked"), "{:?}", watch.problems());

    server.start().expect("a start");
    let keep_trying = watch.run(Duration::from_secs(1));
    let loaded = async {
        while watch.version() == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let in_time = async {
        tokio::select! {
            () = keep_trying => {}
            () = loaded => {}
        }
    };
    tokio::time::timeout(Duration::from_secs(60), in_time).await.expect("a catalog");
    assert!(watch.current().tables["public"].contains_key("users"));
    assert!(!watch.problems().iter().any(|problem| problem.contains("cannot be asked")));
}

async fn round(prober: &mut ShardProber) -> Vec<ProbeResult> {
    let mut results = Vec::new();
    prober.round(&mut |result| results.push(result)).await;
    results
}

#[tokio::test]
async fn probes_follow_the_primary_and_survive_its_end() {
    let cluster = cluster(1, "C");
    let (primary, replica) = (cluster.primary(0), cluster.replica(0, 0));
    let instances = vec![config(primary, "postgres"), config(replica, "postgres")];
    let mut prober = ShardProber::new(ShardId(0), instances, Duration::from_secs(2));

    let results = round(&mut prober).await;
    assert_eq!(results.len(), 2);
    let leader = results[0].answer.as_ref().expect("the primary answers");
    assert!(!leader.in_recovery && leader.max_prepared_transactions > 0 && leader.timeline == 1);
    let follower = results[1].answer.as_ref().expect("the replica answers");
    assert!(follower.in_recovery);
    let reference = results[1].primary.expect("the primary's position");
    assert_eq!(Some(reference.lsn), leader.lsn);
    assert!(reference.asked < results[1].asked);

    primary.stop();
    let results = round(&mut prober).await;
    assert!(results[0].answer.is_err());
    assert!(results[1].answer.is_ok() && results[1].primary.is_none());

    replica.promote().expect("a promotion");
    round(&mut prober).await;
    let results = round(&mut prober).await;
    assert_eq!(results[0].instance, 1, "the new primary is asked first");
    assert_eq!(results[0].answer.as_ref().map(|probe| probe.timeline), Ok(2));
    assert!(results[1].answer.is_err());
    assert!(results[1].primary.is_some());

    // The old primary comes back and still believes in itself.
    primary.start().expect("a start");
    round(&mut prober).await;
    let results = round(&mut prober).await;
    assert_eq!(results[0].instance, 1, "the higher timeline is the primary");
    assert_eq!(results[1].answer.as_ref().map(|probe| (probe.in_recovery, probe.timeline)), Ok((false, 1)));
}
