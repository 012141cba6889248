//! A statement's plan as lines of text: for EXPLAIN ROUTE and `sluice explain`.

use pgsluice_sharding::catalog::Catalog;
use pgsluice_sharding::plan::{Plan, ShardSet, Values};
use pgsluice_sharding::sql::{Command, Planner, Statement};
use pgsluice_sharding::{ShardId, ShardMap};

use crate::protocol::ErrorFields;

/// The plan of every statement in `text`, and the shards that its values name. `full` shows the texts of final queries
/// as servers run them.
///
/// # Errors
/// The text does not parse, or the planner refuses it as a whole.
pub fn lines(
    planner: &mut Planner,
    catalog: &Catalog,
    map: &ShardMap,
    shards: &[&str],
    text: &str,
    full: bool,
) -> Result<Vec<String>, ErrorFields> {
    let script = planner.plan(catalog, None, text)?;
    let values = Values { text, literals: planner.literals(), params: &[] };
    if script.statements.iter().all(|statement| statement.command == Command::Empty) {
        return Err(ErrorFields::error("42601", "there is no statement to explain"));
    }
    let mut lines = Vec::new();
    for statement in &script.statements {
        let plan = if full { format!("{:#}", statement.plan) } else { statement.plan.to_string() };
        lines.extend(plan.lines().map(str::to_owned));
        lines.extend(where_to(statement, map, shards, values));
    }
    Ok(lines)
}

/// `Shards: a, b`, where a plan names them.
fn where_to(statement: &Statement, map: &ShardMap, names: &[&str], values: Values<'_>) -> Option<String> {
    let shards = match &statement.plan {
        Plan::Route { shards, .. } | Plan::CopyTo { shards, .. } => shards,
        Plan::Gather(gather) => &gather.shards,
        Plan::Final(query) => &query.shards,
        Plan::Write(write) => write.shards(),
        Plan::Broadcast(_) | Plan::CopyFrom(_) | Plan::CopyQuery(_) | Plan::Session => return None,
        Plan::Computed(_) | Plan::Refused(_) => return None,
    };
    let name = |shard: &ShardId| names.get(usize::from(shard.0)).copied().unwrap_or("?");
    Some(match shards.resolve(map, values) {
        Ok(ShardSet::Any) => "Shards: any one".to_owned(),
        Ok(ShardSet::One(shard)) => format!("Shards: {}", name(&shard)),
        Ok(ShardSet::Many(shards)) => {
            format!("Shards: {}", shards.iter().map(name).collect::<Vec<_>>().join(", "))
        }
        // A parameter, mostly: its value comes with Bind.
        Err(refusal) if refusal.sqlstate == "42P02" => "Shards: known when the parameters are".to_owned(),
        Err(refusal) => format!("Refused: {}", refusal.message),
    })
}
