//! Writes of reference tables whose values would be others on every shard: the first shard runs the statement, and the others get the rows
//! as it leaves them.

use super::bind::Binder;
use super::computed::open_defaults;
use super::decide::Context;
use super::draft::Sequences;
use super::final_query::quoted;
use super::scope::Columns;
use super::texts_of_time::text_of_time;
use super::undetermined::undetermined;
use super::{Mirror, reasons};
use crate::catalog::{Column, CrossingForm, Origin, Relation, Table, element_type};
use crate::map::ShardId;
use crate::refusal::Refusal;
use crate::sql::calls::{self, CallKind};
use crate::sql::parse::Parsed;
use crate::sql::tree::{Dml, Insert};
use crate::value::oid;

/// The names within the texts.
const ROWS: &str = "sluice_rows";
const COPY: &str = "sluice_copy";
const NEW: &str = "sluice_new";

/// What of a statement the shards would find different values for, if anything.
pub(super) fn varying(context: Context<'_>, binder: &Binder<'_>, dml: &Dml) -> Option<String> {
    let facts = &binder.facts;
    let function = facts.volatile.as_ref().or(facts.home.as_ref()).map(|name| format!("{name}()"));
    let word = facts.time_word.then(|| "the string 'now', 'today', 'tomorrow' or 'yesterday'".to_owned());
    let default = || open_defaults(context, dml).map(|open| format!("the default of \"{}\"", open.column));
    let order = || undetermined(binder, dml);
    let text = || text_of_time(binder, dml);
    function.or_else(|| facts.clock.clone()).or(word).or_else(text).or_else(default).or_else(order)
}

/// How the copies are written by a statement with something that varies.
///
/// # Errors
/// The rows that it changes could not be found on the other shards.
pub(super) fn mirror(
    context: Context<'_>,
    binder: &Binder<'_>,
    dml: &Dml,
    parsed: &Parsed,
    varies: &str,
) -> Result<Mirror, Refusal> {
    check_sequences(context, parsed)?;
    let name = binder.reference_writes.first().map_or("", String::as_str);
    let unclear = || reasons::copies_differ(name, varies);
    let (rel, found) = binder.rels.iter().find_map(|rel| written(binder, rel, dml)).ok_or_else(unclear)?;
    if found.table.relation != Relation::Table {
        return Err(unclear());
    }
    let (change, returns) = found.change(dml, varies)?;
    let columns = found.columns();
    let shown: Vec<String> = columns.iter().map(|column| shown(&quoted(rel), column)).collect();
    let comma = if returns { ",\n" } else { "\nRETURNING " };
    let returning = format!("{comma}{}, {}", shown.join(", "), is_told(&quoted(rel), &columns));
    let mut elements: Vec<u32> = columns.iter().map(|column| element(column).1).collect();
    elements.push(oid::BOOL);
    let sql = found.sql(&columns, &change);
    let counted = open_defaults(context, dml).is_some_and(|open| open.counted);
    Ok(Mirror { returning, elements, sql, moves_sequences: binder.facts.moves_sequences || counted })
}

/// The first shard gives out the values of a sequence only if that is its home.
fn check_sequences(context: Context<'_>, parsed: &Parsed) -> Result<(), Refusal> {
    let sequences = Sequences { catalog: context.catalog, search_path: context.search_path };
    for call in calls::find(context.text, parsed.span.clone()) {
        let is_home = |name: &str| {
            let known = sequences.named(name).known;
            let home = known.and_then(|known| context.catalog.sequences.get(&known.schema)?.get(&known.name).copied());
            home.is_none_or(|home| home == ShardId(0))
        };
        match &call.kind {
            CallKind::Unread => return Err(reasons::sequence_by_name(call.kind.name())),
            CallKind::Next(name) if !is_home(name) => return Err(reasons::differs(&context.text[call.place.clone()])),
            _ => {}
        }
    }
    Ok(())
}

/// The table that a statement writes.
struct Written<'a> {
    table: &'a Table,
    /// In SQL, with its schema.
    named: String,
    name: &'a str,
}

/// By which name the statement calls the table that it writes.
fn written<'a>(binder: &'a Binder<'_>, rel: &'a super::scope::Rel<'_>, dml: &Dml) -> Option<(&'a str, Written<'a>)> {
    let target = match dml {
        Dml::Insert(insert) => &insert.table,
        Dml::Update(update) => &update.table,
        Dml::Delete(delete) => &delete.table,
        Dml::Query(_) | Dml::Merge(_) => return None,
    };
    let Columns::Table(table) = rel.columns else { return None };
    let is_target = rel.written.is_some_and(|written| written.at == target.at.0 as usize);
    if !is_target || !rel.renamed.is_empty() {
        return None;
    }
    let super::scope::Found::Table { schema, name, .. } = binder.names.find(target) else { return None };
    Some((&rel.name, Written { table, named: [quoted(schema), quoted(name)].join("."), name }))
}

impl Written<'_> {
    /// Those that have values of their own.
    fn columns(&self) -> Vec<&Column> {
        self.table.columns.iter().filter(|column| column.origin == Origin::Given).collect()
    }

    fn key(&self, varies: &str) -> Result<Vec<&Column>, Refusal> {
        let key: Vec<&Column> = self.table.columns.iter().filter(|column| column.primary).collect();
        if key.is_empty() || key.iter().any(|column| column.origin == Origin::Generated) {
            return Err(reasons::copies_without_key(self.name, varies));
        }
        Ok(key)
    }

    /// What the other shards do with the rows, and whether the client's statement gives some back.
    fn change(&self, dml: &Dml, varies: &str) -> Result<(String, bool), Refusal> {
        let named = &self.named;
        match dml {
            Dml::Insert(insert) => Ok((self.insert(insert, varies)?, !insert.returning.is_empty())),
            Dml::Update(update) => {
                let set: Vec<&str> = update.set.iter().map(|assignment| &*assignment.column).collect();
                let key = self.unchanged_key(&set, varies)?;
                let set = self.assigned(&set, ROWS);
                let sql = format!(
                    "UPDATE {named} AS {COPY} SET {} FROM {ROWS} WHERE {}",
                    set.join(", "),
                    self.found_by(&key)
                );
                Ok((sql, !update.returning.is_empty()))
            }
            Dml::Delete(delete) => {
                let key = self.key(varies)?;
                let sql = format!("DELETE FROM {named} AS {COPY} USING {ROWS} WHERE {}", self.found_by(&key));
                Ok((sql, !delete.returning.is_empty()))
            }
            Dml::Query(_) | Dml::Merge(_) => Err(reasons::copies_differ(self.name, varies)),
        }
    }

    fn insert(&self, insert: &Insert, varies: &str) -> Result<String, Refusal> {
        let columns: Vec<String> = self.columns().iter().map(|column| quoted(&column.name)).collect();
        let rows: Vec<String> = (1..=columns.len()).map(|number| format!("{ROWS}.c{number}")).collect();
        let mut sql = format!(
            "INSERT INTO {} AS {COPY} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {ROWS}",
            self.named,
            columns.join(", "),
            rows.join(", ")
        );
        // Rows that were passed over do not come.
        let set = insert.conflict.as_ref().map_or(&[][..], |conflict| &conflict.set);
        if !set.is_empty() {
            let set: Vec<&str> = set.iter().map(|assignment| &*assignment.column).collect();
            let key = self.unchanged_key(&set, varies)?;
            let key: Vec<String> = key.iter().map(|column| quoted(&column.name)).collect();
            let set: Vec<String> = set.iter().map(|name| format!("{0} = excluded.{0}", quoted(name))).collect();
            // Behind a WHERE no ON is taken for that of a join.
            sql = format!("{sql} WHERE true ON CONFLICT ({}) DO UPDATE SET {}", key.join(", "), set.join(", "));
        }
        Ok(sql)
    }

    fn unchanged_key(&self, set: &[&str], varies: &str) -> Result<Vec<&Column>, Refusal> {
        let key = self.key(varies)?;
        match key.iter().find(|column| set.contains(&&*column.name)) {
            Some(column) => Err(reasons::copies_lose_key(self.name, &column.name, varies)),
            None => Ok(key),
        }
    }

    /// Assignments of these columns from the rows.
    fn assigned(&self, set: &[&str], rows: &str) -> Vec<String> {
        let columns = self.columns().into_iter().enumerate();
        let assigned = columns.filter(|(_, column)| set.contains(&&*column.name));
        assigned.map(|(at, column)| format!("{} = {rows}.c{}", quoted(&column.name), at + 1)).collect()
    }

    fn found_by(&self, key: &[&Column]) -> String {
        let columns = self.columns().into_iter().enumerate();
        let same = columns
            .filter(|(_, column)| key.iter().any(|key| key.name == column.name))
            .map(|(at, column)| format!("{COPY}.{} OPERATOR(pg_catalog.=) {ROWS}.c{}", quoted(&column.name), at + 1));
        same.collect::<Vec<_>>().join(" AND ")
    }

    /// Changes a copy by the rows and tells: how many rows that were, how many of those are now otherwise than they came, and how many have
    /// not come as they were.
    fn sql(&self, columns: &[&Column], change: &str) -> String {
        let arrays: Vec<String> = columns
            .iter()
            .enumerate()
            .map(|(n, column)| format!("pg_catalog.unnest(${}::{}[])", n + 1, element(column).0))
            .collect();
        let names: Vec<String> = (1..=columns.len()).map(|number| format!("c{number}")).collect();
        let value =
            |(column, name): (&&Column, &String)| match crosses_as_text(column) || column.crossing.domain.is_some() {
                true => format!("{name}::{} AS {name}", type_name(column)),
                false => name.clone(),
            };
        let values: Vec<String> = columns.iter().zip(&names).map(value).collect();
        let own: Vec<String> = columns.iter().map(|column| format!("{COPY}.{}", quoted(&column.name))).collect();
        let of = |rel: &str| names.iter().map(|name| format!("{rel}.{name}")).collect::<Vec<_>>().join(", ");
        format!(
            "WITH {ROWS} AS MATERIALIZED (SELECT {values}, told FROM ROWS FROM ({arrays}, pg_catalog.unnest(${last}::pg_catalog.bool[])) \
             AS arrays({names}, told)), {NEW}({names}) AS ({change} RETURNING {own}) \
             SELECT (SELECT pg_catalog.count(*) FROM {NEW}), \
             (SELECT pg_catalog.count(*) FROM {NEW} AS n WHERE NOT EXISTS (SELECT FROM {ROWS} AS r \
             WHERE ROW({new})::pg_catalog.record OPERATOR(pg_catalog.*=) ROW({old})::pg_catalog.record)), \
             (SELECT pg_catalog.count(*) FROM {ROWS} AS r WHERE NOT r.told)",
            values = values.join(", "),
            arrays = arrays.join(", "),
            last = columns.len() + 1,
            names = names.join(", "),
            own = own.join(", "),
            new = of("n"),
            old = of("r"),
        )
    }
}

/// How values of a column cross: as elements of an array of this type, which has this number.
fn element(column: &Column) -> (String, u32) {
    let binary = element_type(column.type_oid).filter(|_| column.crossing.form == CrossingForm::Binary);
    match binary {
        Some(name) => (name, column.type_oid),
        None => ("pg_catalog.text".to_owned(), oid::TEXT),
    }
}

fn crosses_as_text(column: &Column) -> bool {
    column.type_oid != oid::TEXT && element(column).1 == oid::TEXT
}

/// The type of a column in SQL.
fn type_name(column: &Column) -> &str {
    column.crossing.domain.as_ref().unwrap_or(&column.crossing.type_name)
}

/// A column of a changed row, as it crosses.
fn shown(rel: &str, column: &Column) -> String {
    let cast = if crosses_as_text(column) { "::pg_catalog.text" } else { "" };
    format!("{rel}.{}{cast}", quoted(&column.name))
}

/// Whether the texts of a row say all of the values: under some settings numbers lose digits, and times their zone.
fn is_told(rel: &str, columns: &[&Column]) -> String {
    let texts: Vec<&&Column> = columns.iter().filter(|column| crosses_as_text(column)).collect();
    if texts.is_empty() {
        return "true".to_owned();
    }
    let own: Vec<String> = texts.iter().map(|column| format!("{rel}.{}", quoted(&column.name))).collect();
    let read: Vec<String> =
        texts.iter().zip(&own).map(|(column, own)| format!("{own}::pg_catalog.text::{}", type_name(column))).collect();
    format!(
        "ROW({})::pg_catalog.record OPERATOR(pg_catalog.*=) ROW({})::pg_catalog.record",
        read.join(", "),
        own.join(", ")
    )
}
