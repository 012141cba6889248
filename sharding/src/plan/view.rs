//! Where the rows of a view are, by its definition.

use super::bind::Binder;
use super::phases::Phase;
use super::route::Place;
use super::scope::Names;
use super::{Node, Shards, build, decide::Context};
use crate::catalog::{Catalog, TableKind};
use crate::sql::Limits;
use crate::sql::parse;
use crate::sql::tree::{Dml, Stmt};

/// The place of a view's rows, if each of them follows from rows of one shard alone, so that the view over all shards is what the shards'
/// own views show together. All names in `definition` have their schema.
pub fn view_kind(catalog: &Catalog, definition: &str) -> Option<TableKind> {
    let limits = Limits::default();
    let parsed = parse::parse(definition, &[], &limits).ok()?;
    let [parsed] = parsed.as_slice() else { return None };
    let Stmt::Dml(Dml::Query(query)) = &parsed.stmt else { return None };
    let mut binder = Binder::new(Names::new(catalog, None));
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
            Place::Known(Shards::Any) => Some(TableKind::Reference),
            Place::Known(Shards::One(home)) => Some(TableKind::Local(home)),
            _ => None,
        };
    }
    let outputs = seen.outputs.clone()?;
    let context = Context { catalog, search_path: None, text: definition, phases: &Phase::ALL };
    let gather = build::gather(context, &mut binder, query, &seen, Shards::All, parsed).ok()?;
    let plain = gather.helpers == 0 && gather.tree == Node::Append { input: Box::new(Node::Route) };
    let root = binder.partition(&seen.roots).ok()?;
    let key = binder.occurrences[root].key;
    let shows_key =
        |output: &super::bind::Output| output.carries && output.term.is_some_and(|term| binder.terms.same(term, key));
    let column = outputs.iter().position(shows_key).filter(|_| plain && binder.homes.is_empty() && !binder.system)?;
    Some(TableKind::Sharded { column, key_type: binder.occurrences[root].key_type })
}
