//! The router's own tables on every shard of a database with several: schema `sluice`, made by the numbered
//! files in `migrations`. Forward only; a router leaves alone what a newer one has made.

use tokio_postgres::{Client, Error, SimpleQueryMessage};

/// Number `n` is at position `n - 1`.
const MIGRATIONS: [&str; 2] =
    [include_str!("../../migrations/0001_decision.sql"), include_str!("../../migrations/0002_waiting.sql")];

/// Without these there is no commit over several shards; without the others something less goes.
const VITAL: usize = 1;

const INSUFFICIENT_PRIVILEGE: &str = "42501";

/// Two routers that start at once wait for each other by this number.
const LOCK: &str = "SELECT pg_catalog.pg_advisory_xact_lock(8317708086157697893)";

/// Asked of the tables themselves: what a server has looked up by name before, it may not look up again.
const EXISTS: &str = "SELECT EXISTS (SELECT FROM pg_catalog.pg_class c \
                        WHERE c.relnamespace OPERATOR(pg_catalog.=) n.oid AND c.relname OPERATOR(pg_catalog.=) 'migration') \
                      FROM pg_catalog.pg_namespace n WHERE n.nspname OPERATOR(pg_catalog.=) 'sluice'";

const LAST: &str = "SELECT COALESCE(pg_catalog.max(number), 0) FROM sluice.migration";

/// Makes what is missing, in one transaction.
///
/// # Errors
/// The server's, when the user may not make it.
pub async fn make(client: &Client) -> Result<(), Error> {
    let made = last(client).await?;
    if made >= MIGRATIONS.len() {
        return Ok(());
    }
    client.batch_execute("BEGIN").await?;
    match make_missing(client).await {
        Ok(()) => client.batch_execute("COMMIT").await,
        Err(error) => {
            client.batch_execute("ROLLBACK").await?;
            match error.code() {
                // They are another user's; its router will make what is new.
                Some(code) if made >= VITAL && code.code() == INSUFFICIENT_PRIVILEGE => {
                    tracing::warn!(%error, "the tables in schema sluice are those of an older version");
                    Ok(())
                }
                _ => Err(error),
            }
        }
    }
}

async fn make_missing(client: &Client) -> Result<(), Error> {
    client.batch_execute(LOCK).await?;
    let (has_schema, has_tables) = existing(&client.simple_query(EXISTS).await?);
    if !has_schema {
        client.batch_execute("CREATE SCHEMA sluice").await?;
    }
    if !has_tables {
        let table = "CREATE TABLE sluice.migration (number int PRIMARY KEY, \
                     made timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp())";
        client.batch_execute(table).await?;
    }
    for (number, sql) in (1..).zip(MIGRATIONS).skip(last(client).await?) {
        client.batch_execute(sql).await?;
        client.batch_execute(&format!("INSERT INTO sluice.migration (number) VALUES ({number})")).await?;
    }
    Ok(())
}

/// The number of the last migration that has been made.
async fn last(client: &Client) -> Result<usize, Error> {
    let (_, has_tables) = existing(&client.simple_query(EXISTS).await?);
    if !has_tables {
        return Ok(0);
    }
    let answer = client.simple_query(LAST).await?;
    Ok(value(&answer, 0).and_then(|number| number.parse().ok()).unwrap_or(0))
}

/// Whether the schema exists, and whether the tables do.
fn existing(messages: &[SimpleQueryMessage]) -> (bool, bool) {
    let tables = value(messages, 0);
    (tables.is_some(), tables == Some("t"))
}

/// A column of the first row.
pub(super) fn value(messages: &[SimpleQueryMessage], column: usize) -> Option<&str> {
    messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(column),
        _ => None,
    })
}
