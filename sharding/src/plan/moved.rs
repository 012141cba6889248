//! An UPDATE of the sharding key: which rows it concerns, and what becomes of those that go to another shard.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::bind::{Binder, Occurrence};
use super::decide::Context;
use super::final_query::{self, quoted};
use super::hindrances::{HARMLESS_CODE, SOURCE_OF_CODE, literal};
use super::scope::Columns;
use super::targets::parts;
use super::{
    FinalQuery, KeyColumn, MovedApart, MovedRows, Plan, RowColumns, SelectedRows, Shards, TargetColumn, Write,
    computed, reasons,
};
use crate::catalog::{Catalog, Column, ColumnDefault, Origin, Table, TableKind};
use crate::refusal::Refusal;
use crate::sql::parse::Parsed;
use crate::sql::rows::UpdateSpans;
use crate::sql::spans;
use crate::sql::tree::{Dml, Expr, Update};

/// How rows of the table are told apart in the texts while they are made.
struct Marks {
    /// The table's name in the statement.
    name: String,
    /// The new key in SQL, of the key's type.
    key: String,
}

impl Marks {
    /// Which row, in whichever partition.
    fn of_row(&self) -> String {
        let name = &self.name;
        format!("({name}.tableoid::pg_catalog.text || {name}.ctid::pg_catalog.text)")
    }

    /// And where it goes: should that change between the steps, or be another one for another row of FROM, the row is not meant.
    fn with_key(&self) -> String {
        format!("({} || '=' || ({})::pg_catalog.text)", self.of_row(), self.key)
    }

    /// That a row is among those of the two arrays with these parameters. `ctid` finds it quickly, but means one in each partition.
    fn among(&self, mark: &str, first: usize) -> String {
        let (name, second) = (&self.name, first + 1);
        format!("{name}.ctid = ANY (${first}::pg_catalog.tid[]) AND {mark} = ANY (${second}::pg_catalog.text[])")
    }
}

/// The plan of an UPDATE that sets the key.
pub(super) fn moved(
    context: Context<'_>,
    binder: &mut Binder<'_>,
    update: &Update,
    parsed: &Parsed,
    dml: &Dml,
) -> Result<Write, Refusal> {
    if let Some(problem) = &binder.problem {
        return Err(problem.clone());
    }
    let target = binder.occurrences.iter().position(|occurrence| occurrence.target).ok_or_else(unclear)?;
    check(binder, update, target)?;
    let clocks = binder.facts.clocks;
    if clocks > 0 && spans::clocks(context.text, &parsed.span) != clocks {
        return Err(reasons::differs("CURRENT_TIMESTAMP"));
    }
    let written = UpdateSpans::of(context.text, parsed.span.start, parsed.span.end).ok_or_else(unclear)?;
    check_returning(context, binder, update, target, written.returning.as_ref())?;
    let query = final_query::beside(context, binder, dml, (&[target], None), Shards::All, parsed)?;
    let found = UpdateSpans::of(&query.sql, 0, query.sql.len()).ok_or_else(unclear)?;
    if found.values.len() != update.set.len() || written.values.len() != update.set.len() {
        return Err(unclear());
    }
    texts(binder, update, parsed, target, (query, &found))
}

/// Puts the steps together from the parts of the statement in which inputs stand for other tables.
fn texts(
    binder: &Binder<'_>,
    update: &Update,
    parsed: &Parsed,
    target: usize,
    (query, found): (FinalQuery, &UpdateSpans),
) -> Result<Write, Refusal> {
    let occurrence = &binder.occurrences[target];
    let rel = &binder.rels[occurrence.rel];
    let Columns::Table(table) = rel.columns else { return Err(unclear()) };
    let TableKind::Sharded { column: key, .. } = table.kind else { return Err(unclear()) };
    let piece = |range: &Range<usize>| query.sql[range.clone()].to_owned();
    let mut values: BTreeMap<&str, String> = BTreeMap::new();
    for (assignment, place) in update.set.iter().zip(&found.values) {
        let column = table.columns.iter().find(|column| *column.name == *assignment.column).ok_or_else(unclear)?;
        let value = if assignment.value == Expr::Default { default_of(column)? } else { piece(place) };
        values.insert(&column.name, format!("({value})"));
    }
    let key_column = &table.columns[key];
    let new_key = values.get(&*key_column.name).ok_or_else(unclear)?;
    let type_name = &key_column.crossing.type_name;
    let marks = Marks { name: quoted(&rel.name), key: format!("{new_key}::{type_name}") };
    let name = &marks.name;
    // A generated column is computed anew where the row is stored.
    let given: Vec<&Column> = table.columns.iter().filter(|column| column.origin == Origin::Given).collect();
    let as_it_is = |column: &Column| format!("{name}.{}", quoted(&column.name));
    let new_row: Vec<String> =
        given.iter().map(|column| values.get(&*column.name).cloned().unwrap_or_else(|| as_it_is(column))).collect();
    let own_row: Vec<String> = given.iter().map(|column| as_it_is(column)).collect();
    let arrays: usize = query.inputs.iter().map(|input| input.source.types.len()).sum();
    let own = usize::from(parsed.params) + usize::from(query.timed) + 1;
    let (of, set) = (piece(&found.table), piece(&found.set));
    let with = found.with.as_ref().map(|with| format!("{} ", piece(with))).unwrap_or_default();
    let returning = found.returning.as_ref().map(|returning| format!(" {}", piece(returning))).unwrap_or_default();
    let beside = |word: &str| found.from.as_ref().map(|from| format!(" {word} {}", piece(from))).unwrap_or_default();
    let filter = found.filter.as_ref().map(&piece);
    // What only another column's value needs of the inputs is mentioned for its type.
    let types = query.inputs.iter().flat_map(|input| &input.source.types).enumerate();
    let mentions: String =
        types.map(|(n, type_name)| format!(" AND (${}::{type_name}[] IS NULL OR true)", own + n)).collect();
    let all = match &filter {
        Some(filter) if mentions.is_empty() => format!(" WHERE {filter}"),
        None if mentions.is_empty() => String::new(),
        filter => format!(" WHERE ({}){mentions}", filter.as_deref().unwrap_or("true")),
    };
    // Without other tables the arrays say which rows are meant; a text that gets inputs has to mention them.
    let is_tied = found.from.is_some() || !query.inputs.is_empty();
    let tied = filter.filter(|_| is_tied).map(|filter| format!("({filter}) AND ")).unwrap_or_default();
    let (row, mark) = (marks.of_row(), marks.with_key());
    let chosen = format!("{tied}{}", marks.among(&mark, own + arrays));
    let (from, using) = (beside("FROM"), beside("USING"));
    let joined = found.from.as_ref().map(|from| format!(", {}", piece(from))).unwrap_or_default();
    let change = format!("{with}UPDATE {of} SET {set}{from} WHERE {chosen}");
    let where_named = [quoted(&occurrence.schema), quoted(&occurrence.table)].join(".");
    Ok(Write::Moved(MovedRows {
        target: binder.keys_of(occurrence).unwrap_or(Shards::All),
        find: format!("{with}SELECT {name}.ctid, {mark}, {} FROM {of}{joined}{all} FOR UPDATE OF {name}", marks.key),
        delete: format!("{with}DELETE FROM {of}{using} WHERE {chosen} RETURNING {}", new_row.join(", ")),
        apart: Box::new(MovedApart {
            update: format!("{change} RETURNING {name}.ctid, {row}"),
            delete: format!("DELETE FROM {of} WHERE {} RETURNING {}", marks.among(&row, own), own_row.join(", ")),
        }),
        update: format!("{change}{returning}"),
        insert: stored(occurrence, table, &given, around(&given, &where_named, name, &returning), parsed)
            .ok_or_else(unclear)?,
        hindrances: hindrances(&where_named, &key_column.name),
        rereads: !binder.reference_reads.is_empty(),
        query: Arc::new(query),
    }))
}

/// What DEFAULT means for a column, in SQL.
fn default_of(column: &Column) -> Result<String, Refusal> {
    let nothing = Catalog::default();
    match &column.default {
        ColumnDefault::None if column.crossing.domain.is_none() && column.origin == Origin::Given => Ok("NULL".into()),
        ColumnDefault::Expression(sql) => {
            let context = Context { catalog: &nothing, search_path: None, text: sql, phases: &[] };
            let nature = computed::nature_of(context, sql).ok_or_else(unclear)?;
            let is_fixed = !nature.volatile && !nature.bound && nature.clocks == 0;
            if is_fixed {
                Ok(sql.clone())
            } else {
                Err(reasons::differs(&format!("the default of \"{}\"", column.name)))
            }
        }
        ColumnDefault::None | ColumnDefault::Sequence { .. } => {
            Err(reasons::differs(&format!("the default of \"{}\"", column.name)))
        }
    }
}

/// How rows are stored that move.
fn stored(
    occurrence: &Occurrence,
    table: &Table,
    given: &[&Column],
    around: [String; 2],
    parsed: &Parsed,
) -> Option<SelectedRows> {
    let TableKind::Sharded { column, key_type } = table.kind else { return None };
    let key = &table.columns[column];
    Some(SelectedRows {
        shards: Shards::All,
        text: String::new(),
        source: Plan::Session,
        around,
        columns: RowColumns::Filled {
            columns: given.iter().map(|column| TargetColumn::of(column)).collect(),
            key: given.iter().position(|column| column.name == key.name)?,
        },
        added: None,
        key_type,
        key_column: KeyColumn { table: occurrence.table.as_str().into(), column: key.name.as_str().into() },
        stored_in: key.characters_max(),
        at_once: true,
        params: parsed.params,
    })
}

/// What stands around the rows that are stored.
fn around(columns: &[&Column], named: &str, name: &str, returning: &str) -> [String; 2] {
    let columns: Vec<String> = columns.iter().map(|column| quoted(&column.name)).collect();
    let columns = columns.join(", ");
    [format!("INSERT INTO {named} AS {name} ({columns}) OVERRIDING SYSTEM VALUE "), returning.to_owned()]
}

/// Who can tell a row that is deleted and inserted from one that is updated. Triggers that act on UPDATE alone, before it, and look at their own
/// row only are content with a row that is updated before it is deleted; so are foreign keys that cascade on DELETE alone. But such a row has its new key
/// on its old shard for a moment, where a foreign key of the table would not find the row it refers to.
const QUESTION: &str = "WITH RECURSIVE kin(class) AS (
  SELECT $class UNION SELECT i.inhrelid FROM kin k JOIN pg_catalog.pg_inherits i ON i.inhparent = k.class)
SELECT CASE WHEN t.tgtype & 95 = 19 AND $harmless THEN 'unless' ELSE 'always' END, 'trigger ' || pg_catalog.quote_ident(t.tgname)
FROM pg_catalog.pg_trigger t
JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
JOIN pg_catalog.pg_language l ON l.oid = p.prolang,
  LATERAL (SELECT $source AS source) code
WHERE NOT t.tgisinternal AND t.tgenabled <> 'D' AND t.tgtype & 28 <> 0 AND t.tgrelid IN (SELECT class FROM kin)
UNION ALL
SELECT 'always', 'rule ' || pg_catalog.quote_ident(rulename) FROM pg_catalog.pg_rewrite
WHERE ev_type <> '1' AND ev_class IN (SELECT class FROM kin)
UNION ALL
SELECT 'always', 'row security' WHERE pg_catalog.row_security_active($class)
UNION ALL
SELECT CASE WHEN confupdtype IN ('a', 'r') THEN 'unless' ELSE 'always' END, 'foreign key ' || pg_catalog.quote_ident(conname)
FROM pg_catalog.pg_constraint WHERE confrelid IN (SELECT class FROM kin) AND contype = 'f'
  AND NOT (confupdtype IN ('a', 'r') AND confdeltype IN ('a', 'r'))
UNION ALL
SELECT 'if', 'foreign key ' || pg_catalog.quote_ident(c.conname) FROM pg_catalog.pg_constraint c
JOIN pg_catalog.pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = ANY (c.conkey) AND a.attname = $key
WHERE c.conrelid IN (SELECT class FROM kin) AND c.contype = 'f' AND NOT c.condeferred";

fn hindrances(named: &str, key: &str) -> String {
    QUESTION
        .replace("$class", &format!("{}::pg_catalog.regclass::pg_catalog.oid", literal(named)))
        .replace("$key", &literal(key))
        .replace("$harmless", HARMLESS_CODE)
        .replace("$source", SOURCE_OF_CODE)
        .replace(" = ", " OPERATOR(pg_catalog.=) ")
        .replace(" || ", " OPERATOR(pg_catalog.||) ")
}

fn check(binder: &Binder<'_>, update: &Update, target: usize) -> Result<(), Refusal> {
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
    let renamed = !binder.rels[binder.occurrences[target].rel].renamed.is_empty();
    let own = update.set.iter().any(|assignment| matches!(assignment.value, Expr::Opaque));
    if renamed || own || binder.targets > 1 {
        return Err(unclear());
    }
    Ok(())
}

/// RETURNING also stands behind the INSERT of rows that move, where it sees nothing but them.
fn check_returning(
    context: Context<'_>,
    binder: &Binder<'_>,
    update: &Update,
    target: usize,
    place: Option<&Range<usize>>,
) -> Result<(), Refusal> {
    let Some(place) = place else { return Ok(()) };
    let sharded = binder.occurrences.iter().filter(|occurrence| !occurrence.target);
    let sharded = sharded.map(|occurrence| Some(occurrence.written.at));
    let local = binder.locals.iter().map(|local| binder.rels[local.rel].written.map(|written| written.at));
    let reads_there = sharded.chain(local).any(|at| at.is_none_or(|at| place.contains(&at)));
    if reads_there || spans::clocks(context.text, place) > 0 {
        return Err(reasons::moves_returning());
    }
    if update.from.is_empty() && update.with.is_none() {
        return Ok(());
    }
    let rel = &binder.rels[binder.occurrences[target].rel];
    let is_own = |expr: &Expr| match expr {
        Expr::Column(names) => match &**names {
            [name] => rel.position(name).is_some(),
            [table, _] => *table == rel.name,
            _ => false,
        },
        Expr::Star(names) => {
            matches!(&**names, [table] if *table == rel.name) || names.is_empty() && update.from.is_empty()
        }
        Expr::Sublink(_) | Expr::Opaque => false,
        _ => true,
    };
    if update.returning.iter().flat_map(|target| parts(&target.expr)).all(is_own) {
        Ok(())
    } else {
        Err(reasons::moves_returning())
    }
}

fn unclear() -> Refusal {
    reasons::moves_unclear()
}
