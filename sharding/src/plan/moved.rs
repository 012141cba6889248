//! An UPDATE of the sharding key: which rows it concerns, and what becomes of those that go to another shard.

use super::bind::Binder;
use super::decide::Context;
use super::final_query::quoted;
use super::scope::Columns;
use super::{KeyColumn, MovedRows, Plan, RowColumns, SelectedRows, Shards, TargetColumn, Write, reasons};
use crate::catalog::{Column, Origin, TableKind};
use crate::refusal::Refusal;
use crate::sql::parse::Parsed;
use crate::sql::rows::UpdateSpans;
use crate::sql::spans;
use crate::sql::tree::{Expr, Update};

/// Where the two arrays stand that say which rows are meant, in the texts while they are made.
struct Chosen {
    /// The numbers of the parameters.
    ctids: usize,
    marks: usize,
    /// The table's name in the statement.
    name: String,
}

impl Chosen {
    /// `ctid` finds a row quickly, but means one in each partition.
    fn condition(&self) -> String {
        let Self { ctids, marks, name } = self;
        format!(
            "{name}.ctid = ANY (${ctids}::pg_catalog.tid[]) AND {} = ANY (${marks}::pg_catalog.text[])",
            self.mark()
        )
    }

    fn mark(&self) -> String {
        let name = &self.name;
        format!("({name}.tableoid::pg_catalog.text || {name}.ctid::pg_catalog.text)")
    }
}

/// The plan of an UPDATE that sets the key.
pub(super) fn moved(
    context: Context<'_>,
    binder: &mut Binder<'_>,
    update: &Update,
    parsed: &Parsed,
) -> Result<Write, Refusal> {
    if let Some(problem) = &binder.problem {
        return Err(problem.clone());
    }
    let [occurrence] = binder.occurrences.as_slice() else { return Err(unclear()) };
    let rel = &binder.rels[occurrence.rel];
    let Columns::Table(table) = rel.columns else { return Err(unclear()) };
    let TableKind::Sharded { column: key, key_type } = table.kind else { return Err(unclear()) };
    check(binder, update)?;
    let timed = binder.facts.clocks > 0;
    if timed && spans::clocks(context.text, &parsed.span) != binder.facts.clocks {
        return Err(reasons::differs("CURRENT_TIMESTAMP"));
    }
    let found = UpdateSpans::of(context.text, parsed.span.start, parsed.span.end).ok_or_else(unclear)?;
    let in_returning = found.returning.as_ref().map_or(0, |returning| spans::clocks(context.text, returning));
    if found.values.len() != update.set.len() || in_returning > 0 || !rel.renamed.is_empty() {
        return Err(unclear());
    }
    let piece = |range: &std::ops::Range<usize>| context.text[range.clone()].to_owned();
    let first = usize::from(parsed.params) + usize::from(timed) + 1;
    let chosen = Chosen { ctids: first, marks: first + 1, name: quoted(&rel.name) };
    let value_of = |name: &str| {
        let assigned = update.set.iter().position(|assignment| &*assignment.column == name);
        assigned.map(|at| format!("({})", &context.text[found.values[at].clone()]))
    };
    let key_name = &table.columns[key].name;
    let new_key = value_of(key_name).ok_or_else(unclear)?;
    let of = piece(&found.table);
    let filter = found.filter.as_ref().map(|filter| format!(" {}", piece(filter))).unwrap_or_default();
    let returning = found.returning.as_ref().map(|returning| format!(" {}", piece(returning))).unwrap_or_default();
    let type_name = &table.columns[key].crossing.type_name;
    let (mark, name) = (chosen.mark(), &chosen.name);
    // A generated column is computed anew where the row is stored.
    let given: Vec<&Column> = table.columns.iter().filter(|column| column.origin == Origin::Given).collect();
    let key_given = given.iter().position(|column| column.name == *key_name).ok_or_else(unclear)?;
    let values: Vec<String> = given
        .iter()
        .map(|column| value_of(&column.name).unwrap_or_else(|| format!("{name}.{}", quoted(&column.name))))
        .collect();
    let clocked = |sql: String| {
        if timed { spans::with_clock(&sql, usize::from(parsed.params) + 1) } else { sql }
    };
    let find = format!("SELECT {name}.ctid, {mark}, {new_key}::{type_name} FROM {of}{filter} FOR UPDATE OF {name}");
    let change = format!("UPDATE {of} SET {} WHERE {}{returning}", piece(&found.set), chosen.condition());
    let delete = format!("DELETE FROM {of} WHERE {} RETURNING {}", chosen.condition(), values.join(", "));
    let where_named = [quoted(&occurrence.schema), quoted(&occurrence.table)].join(".");
    Ok(Write::Moved(MovedRows {
        target: binder.keys_of(occurrence).unwrap_or(Shards::All),
        find: clocked(find),
        update: clocked(change),
        delete: clocked(delete),
        insert: SelectedRows {
            shards: Shards::All,
            text: String::new(),
            source: Plan::Session,
            around: stored(&given, &where_named, name, &returning),
            columns: RowColumns::Filled {
                columns: given.iter().map(|column| TargetColumn::of(column)).collect(),
                key: key_given,
            },
            added: None,
            key_type,
            key_column: KeyColumn { table: occurrence.table.as_str().into(), column: key_name.as_str().into() },
            stored_in: table.columns[key].characters_max(),
            at_once: true,
            params: parsed.params,
        },
        hindrances: hindrances(&where_named),
        timed,
    }))
}

/// What stands around the rows that are stored.
fn stored(columns: &[&Column], named: &str, name: &str, returning: &str) -> [String; 2] {
    let columns: Vec<String> = columns.iter().map(|column| quoted(&column.name)).collect();
    let columns = columns.join(", ");
    [format!("INSERT INTO {named} AS {name} ({columns}) OVERRIDING SYSTEM VALUE "), returning.to_owned()]
}

/// Where a row that is deleted and inserted is something else than one that is updated: triggers see it, and so do other tables.
fn hindrances(named: &str) -> String {
    let class = format!("'{}'::pg_catalog.regclass", named.replace('\'', "''"));
    format!(
        "SELECT 'trigger ' OPERATOR(pg_catalog.||) pg_catalog.quote_ident(tgname) FROM pg_catalog.pg_trigger \
         WHERE tgrelid OPERATOR(pg_catalog.=) {class} AND NOT tgisinternal \
         UNION ALL SELECT 'foreign key ' OPERATOR(pg_catalog.||) pg_catalog.quote_ident(conname) \
         FROM pg_catalog.pg_constraint WHERE confrelid OPERATOR(pg_catalog.=) {class} AND contype OPERATOR(pg_catalog.=) 'f' \
         AND NOT (confupdtype IN ('a', 'r') AND confdeltype IN ('a', 'r'))"
    )
}

fn check(binder: &Binder<'_>, update: &Update) -> Result<(), Refusal> {
    let facts = &binder.facts;
    if let Some(function) = facts.volatile.as_ref().or(facts.home.as_ref()).or(facts.reader.as_ref()) {
        return Err(reasons::differs(&format!("{function}()")));
    }
    if let Some(clock) = &facts.clock {
        return Err(reasons::differs(clock));
    }
    if facts.time_word {
        return Err(reasons::differs("the string 'now', 'today', 'tomorrow' or 'yesterday'"));
    }
    if let Some(column) = &facts.system_column {
        return Err(reasons::differs(&format!("system column {column}")));
    }
    let default = update.set.iter().any(|assignment| assignment.value == Expr::Default);
    let other = !binder.locals.is_empty() || binder.system || facts.opaque || facts.unknown_table || facts.sampled;
    if default || other || update.with.is_some() || !update.from.is_empty() || binder.targets > 1 {
        return Err(unclear());
    }
    Ok(())
}

fn unclear() -> Refusal {
    reasons::moves_unclear()
}
