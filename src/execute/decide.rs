//! A statement and its values -> what to do. Pure.

use std::sync::Arc;

use pgsluice_sharding::copy::{CopyFrom, CopyQuery};
use pgsluice_sharding::plan::{Broadcast, Computed, FinalQuery, Plan, ShardSet, Values, Write};
use pgsluice_sharding::sql::{Access, Command, Effects, Statement};
use pgsluice_sharding::{Refusal, ShardId, ShardMap};

use crate::session::statements::{FinalRead, ManyRead, ManyWrite, RowSource};

/// What is done with one statement.
#[derive(Debug)]
pub(super) enum Decision {
    /// One shard runs it as the client wrote it; `None` is whichever is at hand.
    Forward { shard: Option<ShardId>, access: Access },
    /// Shards run parts of it, and the router or PostgreSQL makes one answer of them.
    Many { read: ManyRead, access: Access },
    /// Every shard runs it.
    Broadcast(Broadcast),
    /// COPY ... FROM STDIN that the router splits.
    CopySplit(Arc<CopyFrom>),
    /// COPY ... TO STDOUT: these shards send their rows one after another.
    CopyOut { shards: Vec<ShardId>, header: bool, access: Access },
    /// COPY (query) TO STDOUT whose rows the router prints.
    CopyQuery(Arc<CopyQuery>),
    /// EXPLAIN of what one shard does not do alone.
    Explain(Box<Self>),
    /// PREPARE: a server judges it, the session keeps it.
    Prepare,
    /// A prepared statement of the session's is run, explained or fills a table.
    Execute,
    /// The router gets values first and puts them in.
    Compute(Arc<Computed>),
    /// The session's own business: transaction control, settings.
    Session,
}

/// Decides about one statement of a database with the shards of `map`.
///
/// # Errors
/// The refusal that the plan or a key value brings.
pub(super) fn decide(statement: &Statement, map: &ShardMap, values: Values<'_>) -> Result<Decision, Refusal> {
    if is_session_command(&statement.command) {
        return Ok(Decision::Session);
    }
    let sharded = map.shards() > 1;
    if sharded && statement.command == Command::Close(None) {
        return Ok(Decision::Session);
    }
    match (&statement.command, &statement.execute) {
        (Command::Prepare(_), _) => return Ok(Decision::Prepare),
        (Command::Execute, Some(_)) => return Ok(Decision::Execute),
        (_, Some(_)) if sharded => return Err(only_executed()),
        (_, Some(_)) => return Ok(Decision::Execute),
        _ => {}
    }
    let decision = decide_plan(&statement.plan, statement.access, map, values)?;
    match (&statement.command, decision) {
        (_, decision @ Decision::Forward { .. }) => Ok(decision),
        (Command::Explain(_), decision) => Ok(Decision::Explain(Box::new(decision))),
        (_, decision) => Ok(decision),
    }
}

fn decide_plan(plan: &Plan, access: Access, map: &ShardMap, values: Values<'_>) -> Result<Decision, Refusal> {
    let sharded = map.shards() > 1;
    match plan {
        Plan::Route { shards, many } => match shards.resolve(map, values)? {
            ShardSet::Any => Ok(Decision::Forward { shard: None, access }),
            ShardSet::One(shard) => Ok(Decision::Forward { shard: Some(shard), access }),
            ShardSet::Many(_) => Err(many.as_deref().cloned().unwrap_or_else(several_shards)),
        },
        Plan::Gather(gather) => match gather.shards.resolve(map, values)? {
            ShardSet::Any => Ok(Decision::Forward { shard: None, access }),
            ShardSet::One(shard) => Ok(Decision::Forward { shard: Some(shard), access }),
            ShardSet::Many(shards) => {
                let or_else = gather.or_else.as_ref().map(|last| final_read(last, &shards, map, values)).transpose()?;
                Ok(Decision::Many { read: ManyRead::Merged { gather: gather.clone(), shards, or_else }, access })
            }
        },
        Plan::Final(last) => match last.shards.resolve(map, values)? {
            ShardSet::Any => Ok(Decision::Forward { shard: None, access }),
            ShardSet::One(shard) => Ok(Decision::Forward { shard: Some(shard), access }),
            ShardSet::Many(shards) => {
                let read = ManyRead::Finished(final_read(last, &shards, map, values)?);
                Ok(Decision::Many { read, access })
            }
        },
        Plan::Write(write) => match write.shards().resolve(map, values)? {
            ShardSet::Any => Ok(Decision::Forward { shard: None, access }),
            ShardSet::One(shard) => Ok(Decision::Forward { shard: Some(shard), access }),
            ShardSet::Many(shards) => {
                let read = ManyRead::Written(many_write(write, &shards, map, values)?);
                Ok(Decision::Many { read, access })
            }
        },
        Plan::Computed(computed) => Ok(Decision::Compute(computed.clone())),
        Plan::Broadcast(_) | Plan::CopyFrom(_) if !sharded => Ok(Decision::Forward { shard: Some(ShardId(0)), access }),
        Plan::Broadcast(how) => Ok(Decision::Broadcast(how.clone())),
        Plan::CopyFrom(copy) => Ok(Decision::CopySplit(copy.clone())),
        Plan::CopyQuery(_) if !sharded => Ok(Decision::Forward { shard: Some(ShardId(0)), access }),
        Plan::CopyQuery(copy) => Ok(Decision::CopyQuery(copy.clone())),
        Plan::CopyTo { shards, header } => match shards.resolve(map, values)? {
            ShardSet::Any => Ok(Decision::Forward { shard: None, access }),
            ShardSet::One(shard) => Ok(Decision::Forward { shard: Some(shard), access }),
            ShardSet::Many(shards) => Ok(Decision::CopyOut { shards, header: *header, access }),
        },
        // What the session does not answer itself is answered by any server.
        Plan::Session => Ok(Decision::Forward { shard: None, access }),
        Plan::Refused(_) if !sharded => Ok(Decision::Forward { shard: Some(ShardId(0)), access }),
        Plan::Refused(refusal) => Err((**refusal).clone()),
    }
}

fn many_write(
    write: &Arc<Write>,
    shards: &[ShardId],
    map: &ShardMap,
    values: Values<'_>,
) -> Result<ManyWrite, Refusal> {
    match &**write {
        Write::Each(each) => {
            let read = final_read(&each.query, shards, map, values)?;
            let target = match each.target.resolve(map, values)? {
                // No shard has such rows: one of them says so.
                ShardSet::Any => vec![read.home],
                ShardSet::One(shard) => vec![shard],
                ShardSet::Many(shards) => shards,
            };
            Ok(ManyWrite::Each { read, target, copies: each.copies.clone() })
        }
        Write::Rows(insert) => {
            let places = insert.places(map, values)?;
            Ok(ManyWrite::Rows { insert: insert.clone(), places })
        }
        Write::Selected(insert) => {
            let source = match decide_plan(&insert.source, Access::Lock, map, values)? {
                Decision::Forward { shard, .. } => RowSource::Shard(shard.unwrap_or(ShardId(0))),
                Decision::Many { read, .. } => RowSource::Many(Box::new(read)),
                _ => return Err(several_shards()),
            };
            Ok(ManyWrite::Selected { write: write.clone(), source })
        }
        Write::Staged(_) => Ok(ManyWrite::Staged { write: write.clone() }),
        Write::Moved(moved) => {
            let target = match moved.target.resolve(map, values)? {
                ShardSet::Any => shards[..1].to_vec(),
                ShardSet::One(shard) => vec![shard],
                ShardSet::Many(shards) => shards,
            };
            let read = final_read(&moved.query, &target, map, values)?;
            Ok(ManyWrite::Moved { write: write.clone(), read, target })
        }
    }
}

fn final_read(
    query: &Arc<FinalQuery>,
    shards: &[ShardId],
    map: &ShardMap,
    values: Values<'_>,
) -> Result<FinalRead, Refusal> {
    let mut inputs = Vec::with_capacity(query.inputs.len());
    for input in &query.inputs {
        inputs.push(match input.gather.shards.resolve(map, values)? {
            // Its keys are all NULL.
            ShardSet::Any => Vec::new(),
            ShardSet::One(shard) => vec![shard],
            ShardSet::Many(shards) => shards,
        });
    }
    let home = query.home.or_else(|| shards.first().copied()).unwrap_or(ShardId(0));
    let or_else = match &query.or_else {
        Some(other) => Some(Box::new(final_read(other, shards, map, values)?)),
        None => None,
    };
    Ok(FinalRead { query: query.clone(), home, inputs, or_else })
}

/// What the router answers or spreads over the servers held, whatever the plan says.
fn is_session_command(command: &Command) -> bool {
    matches!(
        command,
        Command::Begin(_)
            | Command::Commit { .. }
            | Command::Rollback { .. }
            | Command::Savepoint(_)
            | Command::Release(_)
            | Command::RollbackTo(_)
            | Command::Set { .. }
            | Command::SetTransaction(_)
            | Command::SetSessionCharacteristics(_)
            | Command::Reset(_)
            | Command::ResetAll
            | Command::DiscardAll
            | Command::Deallocate(_)
            | Command::Listen(_)
            | Command::Unlisten(_)
            | Command::ListeningChannels(_)
    )
}

/// Whether a statement that has succeeded means nothing for the session.
pub(super) fn leaves_nothing(statement: &Statement) -> bool {
    statement.effects == Effects::default()
        && matches!(
            statement.command,
            Command::Select
                | Command::Insert
                | Command::Update
                | Command::Delete
                | Command::Merge
                | Command::CopyFromStdin
                | Command::CopyToStdout
                | Command::Show(_)
                | Command::Explain(_)
                | Command::Cursor(_)
                | Command::Execute
                | Command::Notify
                | Command::Other
                | Command::Empty
        )
}

/// Whether a statement is no part of a transaction's work, or asks what only the router knows: no server
/// has to judge its Parse.
pub(super) fn is_transaction_control(command: &Command) -> bool {
    matches!(
        command,
        Command::Begin(_)
            | Command::Commit { .. }
            | Command::Rollback { .. }
            | Command::Savepoint(_)
            | Command::Release(_)
            | Command::RollbackTo(_)
            | Command::DiscardAll
            | Command::Prepare(_)
            | Command::Deallocate(_)
            | Command::Listen(_)
            | Command::Unlisten(_)
            | Command::ListeningChannels(_)
    )
}

/// Whether the literals of the text are needed to find the shards.
pub(super) fn uses_literals(plan: &Plan) -> bool {
    match plan {
        Plan::Route { shards, .. } | Plan::CopyTo { shards, .. } => shards.uses_literals(),
        Plan::Gather(gather) => {
            gather.shards.uses_literals() || gather.or_else.as_ref().is_some_and(|last| literals_in(last))
        }
        Plan::Final(last) => literals_in(last),
        Plan::Write(write) => match &**write {
            Write::Each(each) => literals_in(&each.query) || each.target.uses_literals(),
            Write::Rows(insert) => insert.keys.uses_literals(),
            // The literals of its query are known by their values.
            Write::Selected(rows) => rows.shards.uses_literals(),
            Write::Moved(moved) => literals_in(&moved.query) || moved.target.uses_literals(),
            // Those of its stages are found when they run.
            Write::Staged(staged) => staged.shards.uses_literals(),
        },
        _ => false,
    }
}

fn literals_in(query: &FinalQuery) -> bool {
    query.shards.uses_literals() || query.inputs.iter().any(|input| input.gather.shards.uses_literals())
}

fn only_executed() -> Refusal {
    Refusal::unsupported(
        "EXPLAIN and CREATE TABLE AS of an EXECUTE are not supported over several shards",
        "Write the statement itself, with its values.",
    )
}

fn several_shards() -> Refusal {
    Refusal::unsupported(
        "the statement concerns rows on several shards",
        "Send one statement for each value of the sharding key.",
    )
}
