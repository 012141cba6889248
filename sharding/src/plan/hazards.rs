//! Triggers and rules of tables that would do harm over several shards: what they are, and the refusal of what would wake them.

use super::bind::Binder;
use super::code_of_trigger::{TriggerCode, reason_against};
use super::reasons;
use super::scope::{Found, Names};
use crate::catalog::{Catalog, Event, Hazard, Relation, TableKind};
use crate::refusal::Refusal;
use crate::sql::tree::{Dml, TableRef};

/// The hazard that a trigger is for its table, if it is one.
pub fn of_trigger(catalog: &Catalog, (schema, table): (&str, &str), name: &str, code: &TriggerCode) -> Option<Hazard> {
    let found = match code.is_instead() {
        true => None,
        false => Some(spread_table(catalog, schema, table)?),
    };
    let reason = match found {
        Some(found) => reason_against(catalog, found, code)?,
        None => "runs in the place of statements that the router sees".to_owned(),
    };
    let reason = format!("its function {}() {reason}", code.function);
    Some(Hazard { what: format!("trigger \"{name}\""), events: code.events(), reason })
}

/// The hazard that a rule with something to do is for its table, if that is not on one shard.
pub fn of_rule(catalog: &Catalog, (schema, table): (&str, &str), name: &str, event: Event) -> Option<Hazard> {
    spread_table(catalog, schema, table)?;
    let reason = "it writes other statements into those that the router sees".to_owned();
    Some(Hazard { what: format!("rule \"{name}\""), events: vec![event], reason })
}

fn spread_table<'c>(catalog: &'c Catalog, schema: &str, table: &str) -> Option<&'c crate::catalog::Table> {
    let found = catalog.tables.get(schema)?.get(table)?;
    (found.relation == Relation::Table && !matches!(found.kind, TableKind::Local(_))).then_some(found)
}

/// Why a statement may not write what it writes.
pub(super) fn check(binder: &Binder<'_>, dml: &Dml) -> Result<(), Refusal> {
    let events: &[Event] = match dml {
        _ if binder.targets > 1 => &[Event::Insert, Event::Update, Event::Delete],
        Dml::Insert(insert) if insert.conflict.as_ref().is_none_or(|conflict| conflict.set.is_empty()) => {
            &[Event::Insert]
        }
        Dml::Insert(_) => &[Event::Insert, Event::Update],
        Dml::Update(_) => &[Event::Update],
        Dml::Delete(_) => &[Event::Delete],
        Dml::Query(_) | Dml::Merge(_) => &[Event::Insert, Event::Update, Event::Delete],
    };
    let found = binder.hazards.iter().find(|(_, hazard)| hazard.events.iter().any(|event| events.contains(event)));
    match found {
        Some((table, hazard)) => Err(reasons::hazard(table, &hazard.what, &hazard.reason)),
        None => Ok(()),
    }
}

/// Why rows may not be copied into a table.
pub(super) fn check_copied(names: &Names<'_>, table: &TableRef) -> Result<(), Refusal> {
    // COPY passes rules over.
    let wakes = |hazard: &&Hazard| hazard.events.contains(&Event::Insert) && hazard.what.starts_with("trigger");
    match of_table(names, table).find(|(_, hazard)| wakes(hazard)) {
        Some((name, hazard)) => Err(reasons::hazard(name, &hazard.what, &hazard.reason)),
        None => Ok(()),
    }
}

/// Whether something acts when an INSERT stores rows in a table, or updates those that are there.
pub(super) fn wakes_by_insert(names: &Names<'_>, table: &TableRef) -> bool {
    of_table(names, table).any(|(_, hazard)| hazard.events.iter().any(|event| *event != Event::Delete))
}

fn of_table<'c>(names: &Names<'c>, table: &TableRef) -> impl Iterator<Item = (&'c str, &'c Hazard)> {
    let found = match names.find(table) {
        Found::Table { schema, name, .. } => {
            let hazards = names.catalog.hazards.get(schema).and_then(|tables| tables.get(name));
            hazards.map(|hazards| (name, hazards))
        }
        Found::System | Found::Unknown => None,
    };
    found.into_iter().flat_map(|(name, hazards)| hazards.iter().map(move |hazard| (name, hazard)))
}
