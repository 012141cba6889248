//! `sluice check` asks the servers too: what is wrong with them, all at once.

use std::collections::BTreeMap;

use tokio::task::JoinSet;
use tokio_postgres::SimpleQueryMessage;

use super::placement;
use crate::catalog::{self, CatalogWatch};
use crate::config::{self, Config, Instance};
use crate::prober::ProbeResult;
use crate::router::{NO_TWO_PHASE, catalog_shard, prober};

/// A database of a running PostgreSQL: two with the same name start within the same microsecond only
/// if they are one. Clones share their system identifier.
const IDENTITY: &str = "\
SELECT pg_catalog.concat_ws(' ', EXTRACT(epoch FROM pg_catalog.pg_postmaster_start_time()), \
  pg_catalog.current_database())";

/// Everything that is wrong with the servers of all databases, one line each.
pub(super) async fn problems(config: &Config) -> Vec<String> {
    let mut databases = JoinSet::new();
    for (at, database) in config.databases.iter().enumerate() {
        let (database, config) = (database.clone(), config.clone());
        databases.spawn(async move { (at, problems_of(&database, &config).await) });
    }
    let mut found = databases.join_all().await;
    found.sort_by_key(|(at, _)| *at);
    found.into_iter().flat_map(|(_, problems)| problems).collect()
}

async fn problems_of(database: &config::Database, config: &Config) -> Vec<String> {
    let mut shards = JoinSet::new();
    for (position, shard) in database.shards.iter().enumerate() {
        let mut prober = prober(position, shard, config);
        shards.spawn(async move {
            let mut results = Vec::new();
            prober.round(&mut |result| results.push(result)).await;
            (position, results)
        });
    }
    let catalog_shards: Vec<_> = database.shards.iter().filter_map(|shard| catalog_shard(shard, config)).collect();
    let catalog = CatalogWatch::new(&database.name, database.rules.clone(), catalog_shards.clone());
    // Its failure is among its problems.
    drop(catalog.refresh_all().await);
    let mut results = shards.join_all().await;
    results.sort_by_key(|(position, _)| *position);
    let many = database.shards.len() > 1;
    let mut found: Vec<String> = results
        .iter()
        .filter_map(|(position, results)| Some((database.shards.get(*position)?, results)))
        .flat_map(|(shard, results)| of_shard(shard, results, many))
        .collect();
    found.extend(same_twice(&catalog_shards).await);
    // Who does not answer is told by the probes already.
    let tables = catalog.problems();
    found.extend(tables.iter().filter(|problem| !problem.starts_with("the primary of shard ")).cloned());
    if many {
        found.extend(placement::problems(&catalog.current(), database.buckets, catalog_shards).await);
    }
    found.into_iter().map(|problem| format!("database {}: {problem}", database.name)).collect()
}

/// Shards that are one and the same database, reached under two addresses.
async fn same_twice(shards: &[catalog::Shard]) -> Vec<String> {
    let mut seen: BTreeMap<String, &str> = BTreeMap::new();
    let mut found = Vec::new();
    for shard in shards {
        let Ok(client) = shard.primary.get().await else { continue };
        let messages = client.simple_query(IDENTITY).await.unwrap_or_default();
        let identity = messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        if let Some(other) = identity.and_then(|identity| seen.insert(identity.to_owned(), &shard.name)) {
            found.push(format!("the primaries of shards {other} and {} are the same database", shard.name));
        }
    }
    found
}

fn of_shard(shard: &config::Shard, results: &[ProbeResult], many: bool) -> Vec<String> {
    let instances: Vec<&Instance> = std::iter::once(&shard.primary).chain(&shard.replicas).collect();
    let address = |result: &ProbeResult| instances.get(result.instance).map(|i| i.address()).unwrap_or_default();
    let mut results: Vec<&ProbeResult> = results.iter().collect();
    results.sort_by_key(|result| result.instance);
    let mut found = Vec::new();
    let mut primaries = Vec::new();
    for result in &results {
        match &result.answer {
            Err(problem) => found.push(format!("shard {}, {}: {problem}", shard.name, address(result))),
            Ok(probe) => {
                if !probe.in_recovery {
                    primaries.push(*result);
                }
                if many && probe.max_prepared_transactions == 0 {
                    found.push(format!("shard {}, {}: {NO_TWO_PHASE}", shard.name, address(result)));
                }
            }
        }
    }
    match primaries.as_slice() {
        [] if results.iter().all(|result| result.answer.is_ok()) => {
            found.push(format!("shard {}: no instance is a primary", shard.name));
        }
        [only] if only.instance != 0 => {
            let configured = shard.primary.address();
            found.push(format!("shard {}: the primary is {}, not {configured}", shard.name, address(only)));
        }
        [] | [_] => {}
        several => {
            let addresses: Vec<String> = several.iter().map(|result| address(result)).collect();
            found.push(format!("shard {}: several instances are primaries: {}", shard.name, addresses.join(", ")));
        }
    }
    found
}
