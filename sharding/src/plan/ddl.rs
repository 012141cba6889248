//! Everything that is not a query: DDL, COPY, LOCK, maintenance.

use std::sync::Arc;

use super::bind::Binder;
use super::bind_query::Seen;
use super::computed::check_none;
use super::decide::{Context, Decided, access_of, anywhere, can_be_many, first_shard, refused};
use super::route::Place;
use super::scope::{Found, Names};
use super::scope::{is_sharded, is_view};
use super::{Broadcast, NewIndex, Node, Plan, Shards, build, code_of_ddl, copy_plan, hazards, reasons, stored};
use crate::catalog::{Column, Event, Relation, Table, TableKind, column_of};
use crate::copy::CopyQuery;
use crate::refusal::Refusal;
use crate::sql::code::pin_of_code;
use crate::sql::lex::{Lexer, TokenKind};
use crate::sql::parse::Parsed;
use crate::sql::spans;
use crate::sql::tree::{Change, Constraint, Copy, CreateTable, Dml, Query, Stmt, TableRef};
use crate::sql::{Access, Command, Pin};

pub(super) fn decide(context: Context<'_>, stmt: &Stmt) -> Decided {
    let names = Names::new(context.catalog, context.search_path);
    match stmt {
        Stmt::Lock { tables } => Decided::new(Command::Other, Access::Lock, lock(&names, tables)),
        Stmt::Call { procedure } => {
            let known = context.catalog.functions.get(&**procedure);
            code("a procedure", known.and_then(|function| function.pin))
        }
        Stmt::Do { code: body, plpgsql } => decide_do(context, body, *plpgsql),
        Stmt::Load => {
            Decided::new(Command::Other, Access::Write, Plan::Broadcast(Broadcast::Loosely)).pinned(Pin::Load)
        }
        Stmt::Maintenance { transactional } => {
            Decided::new(Command::Other, Access::Write, Plan::Broadcast(in_one_step(*transactional)))
        }
        Stmt::Analyze => Decided::new(Command::Other, Access::Write, Plan::Broadcast(Broadcast::Loosely)),
        Stmt::SetConstraints => Decided::new(Command::Other, Access::Lock, Plan::Broadcast(Broadcast::InBlock)),
        Stmt::AtHome => Decided::new(Command::Ddl, Access::Write, first_shard()),
        _ => decide_ddl(context, &names, stmt),
    }
}

/// Whatever runs procedural code: which rows it touches cannot be known.
fn code(what: &str, pin: Option<Pin>) -> Decided {
    let hint = "Run the statements of its body, each with the sharding key.";
    let mut decided = Decided::new(Command::Other, Access::Write, refused(reasons::utility(what, hint)));
    decided.effects.pin = pin;
    decided
}

/// A DO block of nothing but DDL does on every shard what its statements would do by themselves.
fn decide_do(context: Context<'_>, body: &str, plpgsql: bool) -> Decided {
    let pin = pin_of_code(body);
    let plan = match plpgsql.then(|| code_of_ddl::changes_schema_only(context, body)) {
        Some(Ok(true)) => Plan::Broadcast(Broadcast::Checked),
        Some(Err(refusal)) => refused(refusal),
        Some(Ok(false)) | None => return code("a DO block", pin),
    };
    let mut decided = Decided::new(Command::Other, Access::Write, plan);
    decided.effects.changes_catalog = true;
    decided.effects.pin = pin;
    decided
}

/// Whether what a text creates may be the session's own though the tree does not say so: types,
/// functions and sequences.
pub(super) fn may_be_temporary(context: Context<'_>) -> bool {
    /// What may stand between CREATE and TEMPORARY.
    const BETWEEN: [&str; 6] = ["create", "local", "global", "or", "replace", "recursive"];
    let is_own =
        |text: &str| text.trim_start_matches('"').get(..7).is_some_and(|word| word.eq_ignore_ascii_case("pg_temp"));
    let (mut after_create, mut after_own) = (false, false);
    let creates = Lexer::new(context.text).any(|token| {
        let text = &context.text[token.start..token.end];
        let is =
            |words: &[&str]| token.kind == TokenKind::Word && words.iter().any(|word| text.eq_ignore_ascii_case(word));
        let found = after_create && is(&["temp", "temporary"]) || after_own && text == ".";
        after_create = is(&BETWEEN);
        // As a schema, not in the search path of a function.
        after_own = matches!(token.kind, TokenKind::Word | TokenKind::Quoted) && is_own(text);
        found
    });
    let in_path = |path: &str| path.as_bytes().windows(7).any(|word| word.eq_ignore_ascii_case(b"pg_temp"));
    creates || context.search_path.is_some_and(in_path)
}

fn in_one_step(transactional: bool) -> Broadcast {
    if transactional { Broadcast::Together } else { Broadcast::Apart }
}

fn decide_ddl(context: Context<'_>, names: &Names<'_>, stmt: &Stmt) -> Decided {
    let hidden = may_be_temporary(context);
    let plan = match ddl_plan(context, names, stmt) {
        Ok(_) if hidden && context.catalog.shards > 1 => refused(reasons::temporary()),
        Ok(how) => Plan::Broadcast(how),
        Err(refusal) => refused(refusal),
    };
    let mut decided = Decided::new(Command::Ddl, Access::Write, plan);
    let temporary = match stmt {
        Stmt::CreateTable(create) => create.table.temporary,
        Stmt::CreateTableAs { table, .. } | Stmt::CreateView { table, .. } => table.temporary,
        _ => false,
    };
    if temporary || hidden {
        let vanishes = matches!(stmt, Stmt::CreateTable(create) if create.dropped_at_commit);
        decided.effects.pin = Some(if vanishes { Pin::UntilCommit } else { Pin::TempTable });
    }
    decided.effects.changes_catalog = !temporary && !matches!(stmt, Stmt::Truncate);
    decided
}

/// How the DDL may run on all shards; or why it would break a promise.
pub(super) fn ddl_plan(context: Context<'_>, names: &Names<'_>, stmt: &Stmt) -> Result<Broadcast, Refusal> {
    match stmt {
        Stmt::CreateTable(create) => {
            check_create(context, names, create)?;
            return Ok(Broadcast::Checked);
        }
        Stmt::CreateTableAs { table, .. } if table.temporary => return Err(reasons::temporary()),
        Stmt::CreateTableAs { table, view, empty, columns, .. } => {
            let filled = stored::Filled { table, view: *view, empty: *empty, columns };
            return stored::check(context, names, &filled);
        }
        Stmt::Refresh { table, concurrently } => return stored::check_refresh(names, table, *concurrently),
        Stmt::Rule { table } => return check_rule(names, table),
        Stmt::Unread => return Ok(Broadcast::Checked),
        Stmt::Rename { table, name, schema } => check_rename(names, table, name.as_deref(), schema.as_deref())?,
        Stmt::RenameSchema { schema, name } => check_rename_schema(context, schema, name)?,
        Stmt::CreateView { table, .. } if table.temporary => return Err(reasons::temporary()),
        Stmt::CreateIndex { table, unique, concurrently, columns, name, if_not_exists } => {
            if *unique && let Some((key, _)) = key_of(names, table) {
                check_contains("a unique index", table, key, columns.iter().filter_map(Option::as_deref))?;
            }
            let index = NewIndex {
                schema: table.schema.as_deref().map(str::to_owned),
                table: table.name.to_string(),
                name: name.as_deref().map(str::to_owned),
                if_not_exists: *if_not_exists,
            };
            return Ok(match (concurrently, unique) {
                (true, _) => Broadcast::Index(Box::new(index)),
                (false, true) => Broadcast::Checked,
                (false, false) => Broadcast::Together,
            });
        }
        Stmt::AlterTable { table, changes, transactional } => {
            check_changes(names, table, changes)?;
            return Ok(if *transactional { Broadcast::Checked } else { Broadcast::Apart });
        }
        Stmt::RenameColumn { table, column } => {
            if let Some((key, _)) = key_of(names, table)
                && key.name == **column
            {
                return Err(reasons::key_column("renaming", column));
            }
            return Ok(Broadcast::Checked);
        }
        Stmt::Ddl { transactional } => return Ok(in_one_step(*transactional)),
        _ => {}
    }
    Ok(Broadcast::Together)
}

/// Rows stay where they are when their table gets another name, so the configuration must place it as before.
fn check_rename(names: &Names<'_>, table: &TableRef, name: Option<&str>, schema: Option<&str>) -> Result<(), Refusal> {
    let Found::Table { schema: old_schema, table: found, name: old_name } = names.find(table) else { return Ok(()) };
    let (schema, name) = (schema.unwrap_or(old_schema), name.unwrap_or(old_name));
    let rules = &names.catalog.rules;
    if found.relation != Relation::Table {
        let has_rule = |schema: &str, name| names.has_rule(Some(schema), name);
        let stays = !has_rule(old_schema, old_name) && !has_rule(schema, name);
        return if stays { Ok(()) } else { Err(reasons::renamed(old_name, name)) };
    }
    match rules.kind_of(schema, name, &found.columns) {
        Ok(kind) if kind == found.kind => Ok(()),
        // Partitions lie where their table does, whatever they are called.
        _ if !names.has_rule(Some(old_schema), old_name)
            && !names.has_rule(Some(schema), name)
            && is_sharded(found) =>
        {
            Ok(())
        }
        _ => Err(reasons::renamed(old_name, name)),
    }
}

fn check_rename_schema(context: Context<'_>, schema: &str, name: &str) -> Result<(), Refusal> {
    let rules = &context.catalog.rules.tables;
    let concerns = |rule: &String| rule.split_once('.').is_some_and(|(before, _)| before == schema || before == name);
    match rules.keys().find(|rule| concerns(rule)) {
        Some(_) if context.catalog.tables.contains_key(schema) => Err(reasons::renamed(schema, name)),
        _ => Ok(()),
    }
}

/// A rule writes other statements into those of clients, which were placed without it.
fn check_rule(names: &Names<'_>, table: &TableRef) -> Result<Broadcast, Refusal> {
    match names.find(table) {
        Found::Table { table, .. } if matches!(table.kind, TableKind::Local(_)) && !is_view(table) => {
            Ok(Broadcast::Together)
        }
        Found::Table { name, .. } => Err(reasons::rule(name)),
        Found::System | Found::Unknown => Ok(Broadcast::Together),
    }
}

fn key_of<'c>(names: &Names<'c>, table: &TableRef) -> Option<(&'c Column, &'c Table)> {
    let Found::Table { table, .. } = names.find(table) else { return None };
    let TableKind::Sharded { column, .. } = table.kind else { return None };
    Some((&table.columns[column], table))
}

fn check_contains<'a>(
    what: &str,
    table: &TableRef,
    key: &Column,
    mut columns: impl Iterator<Item = &'a str>,
) -> Result<(), Refusal> {
    if columns.any(|column| column == key.name) {
        return Ok(());
    }
    Err(reasons::unique_without_key(what, &table.name, &key.name))
}

fn check_create(context: Context<'_>, names: &Names<'_>, create: &CreateTable) -> Result<(), Refusal> {
    if create.table.temporary {
        return Err(reasons::temporary());
    }
    let columns = created_columns(context, names, create);
    let kind = created_kind(context, names, create, &columns)?;
    let key = match kind {
        TableKind::Sharded { column, .. } => columns.get(column),
        TableKind::Reference | TableKind::Local(_) => None,
    };
    for constraint in &create.constraints {
        check_constraint(names, &create.table, kind, key, constraint)?;
    }
    Ok(())
}

/// Where the rows of a table to be created will be: those of a partition where its table's are.
pub(crate) fn created_kind(
    context: Context<'_>,
    names: &Names<'_>,
    create: &CreateTable,
    columns: &[Column],
) -> Result<TableKind, Refusal> {
    let (rules, name) = (&context.catalog.rules, &*create.table.name);
    let schema = names.creation_schema(&create.table);
    let has_rule = rules.tables.contains_key(name) || rules.tables.contains_key(&format!("{schema}.{name}"));
    let mut keys = create.parents.iter().filter_map(|parent| key_of(names, parent));
    if let Some((key, parent)) = keys.next().filter(|_| !has_rule)
        && let Some(column) = columns.iter().position(|column| column.name == key.name)
        && let TableKind::Sharded { key_type, .. } = parent.kind
    {
        return Ok(TableKind::Sharded { column, key_type });
    }
    rules.kind_of(schema, name, columns)
}

/// The columns of a table to be created, those of LIKE, INHERITS and PARTITION OF included.
pub(crate) fn created_columns(context: Context<'_>, names: &Names<'_>, create: &CreateTable) -> Vec<Column> {
    let mut columns = Vec::new();
    for other in create.parents.iter().chain(&create.like) {
        if let Found::Table { table, .. } = names.find(other) {
            columns.extend(table.columns.iter().cloned());
        }
    }
    columns.extend(create.columns.iter().map(|column| column_of(column, context.catalog.default_collation)));
    columns
}

fn check_changes(names: &Names<'_>, table: &TableRef, changes: &[Change]) -> Result<(), Refusal> {
    let Found::Table { table: found, .. } = names.find(table) else { return Ok(()) };
    let key = key_of(names, table).map(|(key, _)| key);
    for change in changes {
        match (change, key) {
            (Change::AddConstraint(constraint), _) => check_constraint(names, table, found.kind, key, constraint)?,
            (Change::DropColumn(column), Some(key)) if **column == *key.name => {
                return Err(reasons::key_column("dropping", column));
            }
            (Change::AlterType(column), Some(key)) if **column == *key.name => {
                return Err(reasons::key_column("changing the type of", column));
            }
            _ => {}
        }
    }
    Ok(())
}

fn check_constraint(
    names: &Names<'_>,
    table: &TableRef,
    kind: TableKind,
    key: Option<&Column>,
    constraint: &Constraint,
) -> Result<(), Refusal> {
    match (constraint, key) {
        (Constraint::Unique { primary, columns }, Some(key)) => {
            let what = if *primary { "the primary key" } else { "a unique constraint" };
            check_contains(what, table, key, columns.iter().map(|column| &**column))
        }
        (Constraint::Exclusion { equal }, Some(key)) => {
            check_contains("an exclusion constraint", table, key, equal.iter().map(|column| &**column))
        }
        (Constraint::Foreign { columns, table: other, referenced, follows }, _) => {
            let found = names.find(other);
            if let (Found::Table { table: Table { kind: TableKind::Reference, .. }, .. }, Some(key), true) =
                (found, key, follows)
                && columns.iter().any(|column| **column == *key.name)
            {
                return Err(reasons::key_follows(&table.name, &key.name));
            }
            check_foreign(names, table, kind, key, columns, other, referenced)
        }
        _ => Ok(()),
    }
}

/// A foreign key is checked by each shard alone, so what it references must be there.
fn check_foreign(
    names: &Names<'_>,
    table: &TableRef,
    kind: TableKind,
    key: Option<&Column>,
    columns: &[Box<str>],
    other: &TableRef,
    referenced: &[Box<str>],
) -> Result<(), Refusal> {
    if other.name == table.name && other.schema == table.schema {
        let own = key.is_none_or(|key| {
            let position = |list: &[Box<str>]| list.iter().position(|column| **column == *key.name);
            position(columns).is_some_and(|own| position(referenced) == Some(own) || referenced.is_empty())
        });
        return if own { Ok(()) } else { Err(reasons::foreign_key(&table.name, &other.name)) };
    }
    let Found::Table { table: found, .. } = names.find(other) else { return Ok(()) };
    let holds = match (kind, found.kind) {
        (_, TableKind::Reference) => true,
        (TableKind::Local(home), TableKind::Local(other)) => home == other,
        (TableKind::Sharded { .. }, TableKind::Sharded { column, .. }) => {
            let own = key.and_then(|key| columns.iter().position(|column| **column == *key.name));
            let theirs = &found.columns[column].name;
            // Without a list the primary key is meant; where the key is in it shows when it has been done.
            let position = referenced.iter().position(|column| **column == **theirs);
            own.is_some() && (own == position || referenced.is_empty())
        }
        _ => false,
    };
    if holds { Ok(()) } else { Err(reasons::foreign_key(&table.name, &other.name)) }
}

/// LOCK TABLE: where the rows are.
fn lock(names: &Names<'_>, tables: &[TableRef]) -> Plan {
    let mut homes = tables.iter().map(|table| match names.find(table) {
        Found::Table { table, .. } => match table.kind {
            TableKind::Local(home) => Some(home),
            TableKind::Sharded { .. } | TableKind::Reference => None,
        },
        Found::System | Found::Unknown => None,
    });
    match homes.next().flatten() {
        Some(home) if homes.all(|other| other == Some(home)) => Plan::Route { shards: Shards::One(home), many: None },
        _ => Plan::Broadcast(Broadcast::InBlock),
    }
}

pub(super) fn decide_copy(context: Context<'_>, copy: &Copy, parsed: &Parsed) -> Decided {
    let (command, access) = match (copy.from, copy.stream, &copy.query) {
        (true, true, _) => (Command::CopyFromStdin, Access::Write),
        (false, true, None) => (Command::CopyToStdout, Access::Lock),
        (false, true, Some(query)) => return copy_query(context, copy, query, parsed),
        _ => (Command::Other, Access::Write),
    };
    let plan = if copy.stream {
        copy_table(&Names::new(context.catalog, context.search_path), copy)
    } else {
        refused(reasons::utility("COPY with a file of the server", "Use COPY FROM STDIN or COPY TO STDOUT."))
    };
    Decided::new(command, access, plan)
}

/// COPY (query) TO STDOUT.
fn copy_query(context: Context<'_>, copy: &Copy, dml: &Dml, parsed: &Parsed) -> Decided {
    let mut binder = Binder::new(Names::new(context.catalog, context.search_path));
    let query = if let Dml::Query(query) = dml { Some(&**query) } else { None };
    let seen = match query {
        Some(query) => binder.query(query),
        None => {
            binder.statement(dml);
            Seen::default()
        }
    };
    binder.finish();
    let access = access_of(&binder);
    let what = "COPY of a statement for which the router gets values";
    if let Err(refusal) = check_none(context, dml, parsed, &Plan::Session, what) {
        return Decided::new(Command::CopyToStdout, access, refused(refusal));
    }
    let plan = match (binder.place(), query) {
        (Err(refusal), None) => refused(refusal),
        (Err(_), Some(_)) => copy_printed(context, parsed, copy).unwrap_or_else(refused),
        (Ok(Place::Known(shards)), _) if !can_be_many(&shards) => Plan::Route { shards, many: None },
        (Ok(Place::Known(shards)), Some(query)) => match &shards {
            Shards::Home { .. } => copy_printed(context, parsed, copy).unwrap_or_else(refused),
            _ => copy_spread(context, &mut binder, query, &seen, shards.clone(), parsed, copy)
                .or_else(|_| copy_printed(context, parsed, copy))
                .unwrap_or_else(|refusal| Plan::Route { shards, many: Some(Box::new(refusal)) }),
        },
        (Ok(Place::Spread(None)), Some(query)) => {
            copy_spread(context, &mut binder, query, &seen, Shards::All, parsed, copy)
                .or_else(|_| copy_printed(context, parsed, copy))
                .unwrap_or_else(refused)
        }
        (Ok(Place::Spread(Some(_))), Some(_)) => copy_printed(context, parsed, copy).unwrap_or_else(refused),
        (Ok(Place::Known(shards)), None) => {
            Plan::Route { shards, many: Some(Box::new(reasons::spread("COPY of a query"))) }
        }
        (Ok(Place::Spread(_)), _) => refused(reasons::spread("COPY of a query")),
    };
    Decided::new(Command::CopyToStdout, access, plan)
}

/// The query is planned as a statement of its own, and the router prints its rows.
fn copy_printed(context: Context<'_>, parsed: &Parsed, copy: &Copy) -> Result<Plan, Refusal> {
    let form = copy_plan::print_form(copy)?;
    let span = spans::copied(context.text, &parsed.span).ok_or_else(|| reasons::spread("COPY of a query"))?;
    Ok(Plan::CopyQuery(Arc::new(CopyQuery { sql: context.text[span].to_owned(), form })))
}

/// Every shard copies its own rows of a query, where they are rows of the answer as they are.
fn copy_spread(
    context: Context<'_>,
    binder: &mut Binder<'_>,
    query: &Query,
    seen: &Seen,
    shards: Shards,
    parsed: &Parsed,
    copy: &Copy,
) -> Result<Plan, Refusal> {
    let no = || reasons::utility("COPY of a query whose rows are merged", "SELECT the rows, or leave out the order.");
    let span = spans::copied(context.text, &parsed.span).ok_or_else(no)?;
    let inner = Parsed { stmt: Stmt::Session(Box::new(Command::Empty)), span, params: parsed.params };
    let gather = build::gather(context, binder, query, seen, shards, &inner)?;
    let is_appended = matches!(&gather.tree, Node::Append { input } if **input == Node::Route);
    // COPY has no parameters by which shards could be told the time.
    if !is_appended || gather.helpers > 0 || gather.locks || gather.timed_sql.is_some() {
        return Err(no());
    }
    Ok(Plan::CopyTo { shards: gather.shards, header: copy_plan::has_header(copy) })
}

fn copy_table(names: &Names<'_>, copy: &Copy) -> Plan {
    let Some(table) = &copy.table else { return anywhere() };
    let (found, name) = match names.find(table) {
        Found::Table { table, name, .. } => (table, name),
        Found::System => return first_shard(),
        Found::Unknown if copy.from => return refused(reasons::unknown_target(&table.name)),
        Found::Unknown => return anywhere(),
    };
    let event = if copy.from { Event::Insert } else { Event::Select };
    if let Err(refusal) = hazards::check_copied(names, table, event) {
        return refused(refusal);
    }
    match (found.kind, copy.from) {
        (TableKind::Local(home), _) => Plan::Route { shards: Shards::One(home), many: None },
        (TableKind::Reference, false) => anywhere(),
        (TableKind::Sharded { .. }, false) => Plan::CopyTo { shards: Shards::All, header: copy_plan::has_header(copy) },
        (_, true) => match copy_plan::copy_from(found, name, table, copy) {
            Ok(plan) => Plan::CopyFrom(Arc::new(plan)),
            Err(refusal) => refused(refusal),
        },
    }
}
