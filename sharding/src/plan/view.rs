//! Views: where the rows of one are, by its definition, and statements with the definitions in the place of the names.

use std::ops::Range;

use super::bind::Binder;
use super::final_query::{Mentioned, quoted};
use super::phases::Phase;
use super::route::Place;
use super::scope::Names;
use super::{Node, Shards, build, decide::Context};
use crate::catalog::{Catalog, TableKind};
use crate::sql::parse::{self, Parsed};
use crate::sql::tree::{Dml, Expr, Query, Stmt};
use crate::sql::walk::{self, Visited};
use crate::sql::{Limits, spans};

/// Views over views are followed this deep; PostgreSQL itself cannot make a cycle.
const DEPTH_MAX: usize = 32;

/// A statement that grows longer with its views is not looked into.
const TEXT_BYTES_MAX: usize = 256 << 10;

/// The place of a view's rows, if each of them follows from rows of one shard alone, so that the view over all shards is what the shards'
/// own views show together. All names in `definition` have their schema.
pub fn view_kind(catalog: &Catalog, definition: &str) -> Option<TableKind> {
    placed(catalog, None, definition).map(|(kind, _)| kind)
}

/// The place of the rows of a query, as far as each of them follows from rows of one shard, and the names of its columns.
pub(super) fn placed(
    catalog: &Catalog,
    search_path: Option<&str>,
    definition: &str,
) -> Option<(TableKind, Vec<Option<Box<str>>>)> {
    let limits = Limits::default();
    let parsed = parse::parse(definition, &[], &limits).ok()?;
    let [parsed] = parsed.as_slice() else { return None };
    let Stmt::Dml(Dml::Query(query)) = &parsed.stmt else { return None };
    let mut binder = Binder::new(Names::new(catalog, search_path));
    let seen = binder.query(query);
    binder.finish();
    let facts = &binder.facts;
    if binder.problem.is_some() || facts.reader.is_some() || facts.home.is_some() {
        return None;
    }
    let same_everywhere = facts.volatile.is_none() && facts.clock.is_none() && facts.clocks == 0 && !facts.time_word;
    if facts.unknown_table || facts.opaque || facts.locking > 0 || facts.pin.is_some() || !same_everywhere {
        return None;
    }
    if binder.occurrences.is_empty() {
        return match binder.place().ok()? {
            Place::Known(Shards::Any) => Some((TableKind::Reference, Vec::new())),
            Place::Known(Shards::One(home)) => Some((TableKind::Local(home), Vec::new())),
            _ => None,
        };
    }
    let outputs = seen.outputs.clone()?;
    let context = Context { catalog, search_path, text: definition, phases: &Phase::ALL };
    let gather = build::gather(context, &mut binder, query, &seen, Shards::All, parsed).ok()?;
    let plain = gather.helpers == 0 && gather.tree == Node::Append { input: Box::new(Node::Route) };
    let root = binder.partition(&seen.roots).ok()?;
    let key = binder.occurrences[root].key;
    let shows_key =
        |output: &super::bind::Output| output.carries && output.term.is_some_and(|term| binder.terms.same(term, key));
    let column = outputs.iter().position(shows_key).filter(|_| plain && binder.locals.is_empty() && !binder.system)?;
    let names = outputs.into_iter().map(|output| output.name).collect();
    Some((TableKind::Sharded { column, key_type: binder.occurrences[root].key_type }, names))
}

/// Whether the query of a view means the same wherever it is written: every table has its schema, and no function without one could be
/// taken for one of a user's.
pub fn can_stand_for_view(catalog: &Catalog, definition: &str) -> bool {
    let Ok(parsed) = parse::parse(definition, &[], &Limits::default()) else { return false };
    let [Parsed { stmt: Stmt::Dml(Dml::Query(query)), .. }] = parsed.as_slice() else { return false };
    let mut binder = Binder::new(Names::new(catalog, Some("")));
    binder.query(query);
    let facts = &binder.facts;
    let mut clear = !binder.system && !facts.unknown_table && !facts.opaque && facts.locking == 0;
    walk::query(query, &mut |visited| {
        if let Visited::Expr(Expr::Func(call)) = visited {
            clear &= call.schema.is_some() || !catalog.functions.contains_key(&*call.name);
        }
    });
    clear
}

/// A query whose views have given way to their definitions, with its text; none if one of them cannot be written in its place.
pub(super) fn without_views(context: Context<'_>, span: &Range<usize>) -> Option<(String, Parsed)> {
    let mut text = context.text[span.clone()].to_owned();
    for _ in 0..DEPTH_MAX {
        let parsed = parse::parse(&text, &[], &Limits::default()).ok()?.pop()?;
        let Stmt::Dml(Dml::Query(query)) = &parsed.stmt else { return None };
        let mut binder = Binder::new(Names::new(context.catalog, context.search_path));
        binder.query(query);
        if binder.views.is_empty() {
            return Some((text, parsed));
        }
        text = look_through(&binder, query, &text, &parsed.span)?;
        if text.len() > TEXT_BYTES_MAX {
            return None;
        }
    }
    None
}

impl Binder<'_> {
    /// The edits that leave schemas out before a table's columns: a subquery in its place has none.
    pub(super) fn schemas_before(&self, text: &str, span: &Range<usize>, rel: usize) -> Vec<(Range<usize>, String)> {
        let rel = &self.rels[rel];
        let is_table = rel.written.is_some_and(|written| !written.aliased);
        let schema = self.names.schema_of(rel.schema.as_deref(), &rel.name).filter(|_| is_table);
        let places = schema.map(|schema| spans::schemas_of_columns(text, span, schema, &rel.name));
        places.into_iter().flatten().map(|place| (place, String::new())).collect()
    }
}

/// The text with the definitions of the views that stand in it; those may have views again.
fn look_through(binder: &Binder<'_>, query: &Query, text: &str, span: &Range<usize>) -> Option<String> {
    let mentioned = Mentioned::of_query(query);
    let mut edits = Vec::new();
    for view in &binder.views {
        let (rel, definition) = (&binder.rels[view.rel], view.definition?);
        let written = rel.written?;
        let is_column = || binder.rels.iter().any(|other| other.position(&rel.name).is_some());
        // A row of a subquery is no row of the view's type.
        if mentioned.is_used_freely(&rel.name) && !is_column() {
            return None;
        }
        let place = spans::table(text, span, written.at, written.only)?;
        let alias = if written.aliased { String::new() } else { format!(" AS {}", quoted(&rel.name)) };
        let command = spans::table_command(text, span, &place);
        let select = if command.is_some() { "SELECT * FROM " } else { "" };
        edits.push((command.unwrap_or(place.start)..place.end, format!("{select}({definition}){alias}")));
        edits.extend(binder.schemas_before(text, span, view.rel));
    }
    Some(spans::spliced(text, 0..text.len(), edits))
}
