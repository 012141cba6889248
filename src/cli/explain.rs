//! `sluice explain`: a statement's plan without running it.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use pgsluice_sharding::ShardMap;
use pgsluice_sharding::catalog::Catalog;
use pgsluice_sharding::sql::{Limits, Planner};

use super::{Source, runtime};
use crate::catalog::CatalogWatch;
use crate::config::{Config, Database};
use crate::protocol::ErrorFields;
use crate::router::{catalog_shard, explain};

#[derive(Args)]
pub(super) struct ExplainArguments {
    /// The statement
    #[arg(value_name = "SQL")]
    statement: String,
    /// Take the tables from this file of CREATE TABLE statements instead of asking the shards
    #[arg(long, value_name = "FILE.sql")]
    schema: Option<PathBuf>,
    /// Which database, if the configuration has several
    #[arg(long, value_name = "NAME")]
    database: Option<String>,
    /// Show what PostgreSQL finishes as a server runs it, arrays and all
    #[arg(long)]
    verbose: bool,
    #[command(flatten)]
    source: Source,
}

/// The plan, one line each.
pub(super) fn lines(arguments: &ExplainArguments) -> Result<Vec<String>, String> {
    let config = arguments.source.load()?;
    let database = choose(&config, arguments.database.as_deref())?;
    let shards = u16::try_from(database.shards.len()).unwrap_or(u16::MAX);
    let catalog = match &arguments.schema {
        Some(file) => {
            let sql = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
            let catalog = Catalog::from_ddl(&sql, &database.rules, shards);
            Arc::new(catalog.map_err(|refusal| tell(&refusal.into()))?)
        }
        None => load(&config, database)?,
    };
    let mut planner =
        Planner::new(Limits { statement_bytes_max: config.limits.statement_bytes_max, ..Limits::default() });
    let map = ShardMap::even(database.buckets, shards);
    let names: Vec<&str> = database.shards.iter().map(|shard| shard.name.as_str()).collect();
    let lines = explain::lines(&mut planner, &catalog, &map, &names, &arguments.statement, arguments.verbose);
    lines.map_err(|fields| tell(&fields))
}

pub(super) fn choose<'a>(config: &'a Config, name: Option<&str>) -> Result<&'a Database, String> {
    match (name, config.databases.as_slice()) {
        (None, [only]) => Ok(only),
        (None, _) => Err("there are several databases: choose one with --database".to_owned()),
        (Some(name), all) => {
            all.iter().find(|database| database.name == name).ok_or_else(|| format!("there is no database {name}"))
        }
    }
}

/// The tables as the shards have them.
fn load(config: &Config, database: &Database) -> Result<Arc<Catalog>, String> {
    let shards = database.shards.iter().filter_map(|shard| catalog_shard(shard, config)).collect();
    let watch = CatalogWatch::new(&database.name, database.rules.clone(), shards);
    let runtime = runtime()?;
    runtime.block_on(watch.refresh_all()).map_err(|_| watch.problems().join("\n"))?;
    Ok(watch.current())
}

fn tell(fields: &ErrorFields) -> String {
    let hint = fields.hint.as_ref().map(|hint| format!("\nHINT: {hint}")).unwrap_or_default();
    let detail = fields.detail.as_ref().map(|detail| format!("\nDETAIL: {detail}")).unwrap_or_default();
    format!("{} ({}){detail}{hint}", fields.message, fields.sqlstate)
}
