//! `sluice check` looks at some rows of every shard: are they where the router would look for them?
//!
//! They are not after a shard was added to a database that had rows, after two shards changed places,
//! and when rows were loaded past the router.

use std::time::Duration;

use pgsluice_sharding::catalog::{Catalog, Relation, TableKind};
use pgsluice_sharding::key::{Format, Input, KeyType};
use pgsluice_sharding::{ShardId, ShardMap};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::catalog::Shard;

/// Rows of one table on one shard that are looked at: the first ones, which cost no scan.
const ROWS_MAX: usize = 1000;

/// A table that takes longer is passed over.
const PATIENCE: Duration = Duration::from_secs(5);

/// A question to every shard, and how its answer is judged.
#[derive(Clone)]
struct Question {
    table: String,
    sql: String,
    key_type: KeyType,
}

/// One line for every table with rows on a wrong shard. What cannot be read tells nothing.
pub(super) async fn problems(catalog: &Catalog, buckets: u16, shards: Vec<Shard>) -> Vec<String> {
    let map = ShardMap::even(buckets, u16::try_from(shards.len()).unwrap_or(u16::MAX));
    let questions = questions(catalog);
    let mut tasks = JoinSet::new();
    for (id, shard) in (0..).map(ShardId).zip(shards) {
        let (questions, map) = (questions.clone(), map.clone());
        tasks.spawn(async move { (id, of_shard(id, &shard, &questions, &map).await) });
    }
    let mut found = tasks.join_all().await;
    found.sort_by_key(|(id, _)| *id);
    found.into_iter().flat_map(|(_, problems)| problems).collect()
}

fn questions(catalog: &Catalog) -> Vec<Question> {
    let mut questions = Vec::new();
    for (schema, tables) in &catalog.tables {
        for (name, table) in tables {
            let TableKind::Sharded { column, key_type } = table.kind else { continue };
            let (Relation::Table, Some(key)) = (table.relation, table.columns.get(column)) else { continue };
            let (from, key) = (format!("{}.{}", quote(schema), quote(name)), quote(&key.name));
            let sql = format!("SELECT {key} FROM {from} LIMIT {ROWS_MAX}");
            questions.push(Question { table: format!("{schema}.{name}"), sql, key_type });
        }
    }
    questions.sort_by(|a, b| a.table.cmp(&b.table));
    questions
}

async fn of_shard(id: ShardId, shard: &Shard, questions: &[Question], map: &ShardMap) -> Vec<String> {
    let mut found = Vec::new();
    let Ok(client) = shard.primary.get().await else { return found };
    for question in questions {
        let Ok(keys) = timeout(PATIENCE, keys(&client, &question.sql)).await else {
            // The question is not answered yet, so nobody may use this connection again.
            drop(deadpool_postgres::Object::take(client));
            return found;
        };
        let belongs = |key: &String| {
            let input = Input { bytes: Some(key.as_bytes()), format: Format::Text, type_oid: 0 };
            question.key_type.coerce(input).ok().flatten().is_none_or(|key| map.shard_of(&key) == id)
        };
        let wrong = keys.iter().filter(|key| !belongs(key)).count();
        if wrong > 0 {
            found.push(format!(
                "shard {}: {wrong} of the first {} rows of {} belong to other shards, where the router looks for them; \
                 were shards added or put in another order?",
                shard.name,
                keys.len(),
                question.table
            ));
        }
    }
    found
}

/// The values of the one column; none when the table may not be read.
async fn keys(client: &Client, sql: &str) -> Vec<String> {
    let messages = client.simple_query(sql).await.unwrap_or_default();
    let value = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    };
    messages.iter().filter_map(value).collect()
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
