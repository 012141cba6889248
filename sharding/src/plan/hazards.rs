//! Triggers, rules and policies of tables that would do harm over several shards: what they are, and the refusal of what would wake them.

use super::bind::{Binder, Usage};
use super::code_of_trigger::{TriggerCode, reason_against};
use super::final_query::quoted;
use super::reasons;
use super::scope::{Found, Names};
use super::view::view_kind;
use crate::catalog::{Catalog, Event, Hazard, Relation, TableKind};
use crate::refusal::Refusal;
use crate::sql::tree::{Dml, TableRef};

/// What the names of rules begin with.
const RULE: &str = "rule";

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
    Some(hazard(format!("trigger \"{name}\""), code.events(), reason))
}

/// The hazard that a rule with something to do is for its table, if that is not on one shard.
pub fn of_rule(catalog: &Catalog, (schema, table): (&str, &str), name: &str, event: Event) -> Option<Hazard> {
    spread_table(catalog, schema, table)?;
    let reason = "it writes other statements into those that the router sees".to_owned();
    Some(hazard(format!("{RULE} \"{name}\""), vec![event], reason))
}

/// The hazard that a policy is for its table, if a condition of it looks at rows that may be elsewhere.
pub fn of_policy(
    catalog: &Catalog,
    (schema, table): (&str, &str),
    name: &str,
    conditions: &[String],
) -> Option<Hazard> {
    let found = catalog.tables.get(schema)?.get(table).filter(|found| found.relation == Relation::Table)?;
    let stays = |condition: &String| {
        let sql = format!("SELECT * FROM {}.{} WHERE {condition}", quoted(schema), quoted(table));
        match (found.kind, view_kind(catalog, &sql)) {
            (TableKind::Sharded { .. }, Some(TableKind::Sharded { .. }))
            | (TableKind::Reference, Some(TableKind::Reference)) => true,
            (TableKind::Local(own), Some(TableKind::Local(home))) => own == home,
            _ => false,
        }
    };
    if conditions.iter().all(stays) {
        return None;
    }
    let events = vec![Event::Select, Event::Insert, Event::Update, Event::Delete];
    let reason = "it looks at rows that may be on other shards".to_owned();
    Some(hazard(policy(name), events, reason))
}

fn hazard(what: String, events: Vec<Event>, reason: String) -> Hazard {
    Hazard { what, events, column: None, follows: None, reason }
}

fn refusal(table: &str, hazard: &Hazard) -> Refusal {
    reasons::hazard(hazard.follows.as_deref().unwrap_or(table), &hazard.what, &hazard.reason)
}

/// Refuses a policy of a table that looks at other shards.
pub(super) fn check_policy(catalog: &Catalog, (schema, table): &(String, String), name: &str) -> Result<(), Refusal> {
    let what = policy(name);
    let known = catalog.hazards.get(schema).and_then(|tables| tables.get(table));
    match known.and_then(|known| known.iter().find(|hazard| hazard.what == what)) {
        Some(hazard) => Err(refusal(table, hazard)),
        None => Ok(()),
    }
}

fn policy(name: &str) -> String {
    format!("policy \"{name}\"")
}

fn spread_table<'c>(catalog: &'c Catalog, schema: &str, table: &str) -> Option<&'c crate::catalog::Table> {
    let found = catalog.tables.get(schema)?.get(table)?;
    (found.relation == Relation::Table && !matches!(found.kind, TableKind::Local(_))).then_some(found)
}

/// Why a statement may not read or write what it does.
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
    // What is assigned, where that can be told.
    let set = match dml {
        _ if binder.targets > 1 => None,
        Dml::Update(update) => Some(&update.set),
        Dml::Insert(insert) => insert.conflict.as_ref().map(|conflict| &conflict.set),
        Dml::Query(_) | Dml::Delete(_) | Dml::Merge(_) => None,
    };
    let wakes = |hazard: &Hazard, usage: Usage| match usage {
        Usage::Target => {
            let is_set =
                |column: &String| set.is_none_or(|set| set.iter().any(|assigned| *assigned.column == **column));
            hazard.events.iter().any(|event| events.contains(event)) && hazard.column.as_ref().is_none_or(is_set)
        }
        Usage::Preserved | Usage::Nullable => hazard.events.contains(&Event::Select),
    };
    match binder.hazards.iter().find(|(_, hazard, usage)| wakes(hazard, *usage)) {
        Some((table, hazard, _)) => Err(refusal(table, hazard)),
        None => Ok(()),
    }
}

/// Why rows may not be copied into a table, or out of it.
pub(super) fn check_copied(names: &Names<'_>, table: &TableRef, event: Event) -> Result<(), Refusal> {
    // COPY passes rules over.
    let wakes = |hazard: &Hazard| hazard.events.contains(&event) && !hazard.what.starts_with(RULE);
    match of_table(names, table).find(|(_, hazard)| wakes(hazard)) {
        Some((name, hazard)) => Err(refusal(name, hazard)),
        None => Ok(()),
    }
}

/// Whether something acts when an INSERT stores rows in a table, or updates those that are there.
pub(super) fn wakes_by_insert(names: &Names<'_>, table: &TableRef) -> bool {
    let wakes = |hazard: &Hazard| hazard.follows.is_none() && hazard.events.iter().any(|event| *event != Event::Delete);
    of_table(names, table).any(|(_, hazard)| wakes(hazard))
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
