//! Triggers, rules and policies of tables -> what forbids to read or write which tables, and which pass rows over. Pure.

use std::collections::HashMap;

use pgsluice_sharding::catalog::{Catalog, Event, Hazard};
use pgsluice_sharding::plan::{TriggerCode, hazards};

use super::builder::ViewRow;

/// Schema and name.
pub(super) type TableName = (String, String);

/// What acts when a table is written.
#[derive(Debug)]
pub(super) struct Actor {
    pub(super) table: TableName,
    pub(super) name: String,
    pub(super) act: Act,
}

#[derive(Debug)]
pub(super) enum Act {
    Trigger(TriggerCode),
    Rule(Event),
    /// Its conditions.
    Policy(Vec<String>),
}

/// A column that a foreign key refers to, and by which rows of another table follow.
#[derive(Debug)]
pub(super) struct Cascade {
    /// Whose rows follow.
    pub(super) table: TableName,
    pub(super) other: TableName,
    pub(super) column: String,
    /// What is done with the rows that follow when one is deleted, or when the column is updated.
    pub(super) on_delete: Option<Event>,
    pub(super) on_update: Option<Event>,
}

/// Who wakes whom.
#[derive(Debug)]
pub(super) struct Ties<'a> {
    /// Of each child, its name first.
    pub(super) parents: &'a [[TableName; 2]],
    pub(super) cascades: &'a [Cascade],
    pub(super) views: &'a [ViewRow],
}

/// Finds those that would do harm. Those of a child act for its parents too, those of a table for the views over it, and those of a table
/// whose rows follow others by a foreign key for the table of these.
pub(super) fn find_hazards(catalog: &mut Catalog, actors: &[Actor], ties: &Ties<'_>) {
    let mut found: HashMap<String, HashMap<String, Vec<Hazard>>> = HashMap::new();
    for Actor { table: (schema, table), name, act } in actors {
        let own = (schema.as_str(), table.as_str());
        let hazard = match act {
            Act::Trigger(code) => hazards::of_trigger(catalog, own, name, code),
            Act::Rule(event) => hazards::of_rule(catalog, own, name, *event),
            Act::Policy(conditions) => hazards::of_policy(catalog, own, name, conditions),
        };
        let Some(hazard) = hazard else { continue };
        let cascades = if matches!(act, Act::Policy(_)) { &[][..] } else { ties.cascades };
        for ((schema, table), hazard) in concerned(own, hazard, &Ties { cascades, ..*ties }, actors) {
            let known = found.entry(schema.to_owned()).or_default().entry(table.to_owned()).or_default();
            if !known.contains(&hazard) {
                known.push(hazard);
            }
        }
    }
    catalog.hazards = found;
}

/// Finds the tables with triggers that pass rows over: those of a child act for its parents too, those of a table for the views over it.
pub(super) fn find_passing(catalog: &mut Catalog, actors: &[Actor], ties: &Ties<'_>) {
    for Actor { table, act, .. } in actors {
        let Act::Trigger(code) = act else { continue };
        if !code.passes_over() {
            continue;
        }
        let mut all = vec![table];
        let mut next = 0;
        while let Some(table) = all.get(next).copied() {
            let above = ties.parents.iter().filter(|[child, _]| child == table).map(|[_, parent]| parent);
            let new: Vec<_> = above.filter(|parent| !all.contains(parent)).collect();
            all.extend(new);
            next += 1;
        }
        let shows = |view: &&ViewRow| all.iter().any(|(_, table)| view.definition.contains(table));
        let views = ties.views.iter().filter(shows).map(|view| (&view.schema, &view.name));
        for (schema, name) in all.iter().map(|(schema, name)| (schema, name)).chain(views) {
            code.events().into_iter().for_each(|event| catalog.note_passing(schema, name, event));
        }
    }
}

/// The hazard for each table and view whose reading or writing wakes it.
fn concerned<'a>(
    own: (&'a str, &'a str),
    hazard: Hazard,
    ties: &Ties<'a>,
    actors: &[Actor],
) -> Vec<((&'a str, &'a str), Hazard)> {
    let mut all = vec![(own, hazard)];
    let mut next = 0;
    while let Some((table, hazard)) = all.get(next).cloned() {
        let is = |name: &TableName| name.0 == table.0 && name.1 == table.1;
        let above = ties.parents.iter().filter(|[child, _]| is(child)).map(|[_, parent]| (parent, hazard.clone()));
        let followed = ties.cascades.iter().filter(|cascade| is(&cascade.table));
        let followed = followed.flat_map(|cascade| cascade.wakes(own.1, &hazard, actors));
        for ((schema, name), hazard) in
            above.chain(followed).map(|((schema, name), hazard)| ((&**schema, &**name), hazard))
        {
            if !all.iter().any(|(known, has)| *known == (schema, name) && *has == hazard) {
                all.push(((schema, name), hazard));
            }
        }
        next += 1;
    }
    let names = |view: &ViewRow, table: &str| view.definition.contains(table);
    let mut over = Vec::new();
    for view in ties.views {
        // A view may show the column by another name.
        let seen = all.iter().filter(|((_, table), _)| names(view, table));
        let seen = seen.map(|(_, hazard)| ((&*view.schema, &*view.name), Hazard { column: None, ..hazard.clone() }));
        over.extend(seen);
    }
    all.extend(over);
    all
}

impl Cascade {
    /// How a hazard of the table whose rows follow, or of one whose rows follow those, is one for the table that they follow.
    fn wakes(&self, own: &str, hazard: &Hazard, actors: &[Actor]) -> Vec<(&TableName, Hazard)> {
        let hazard =
            Hazard { follows: Some(hazard.follows.clone().unwrap_or_else(|| own.to_owned())), ..hazard.clone() };
        let acts = |event: Option<Event>| event.is_some_and(|event| hazard.events.contains(&event));
        let mut woken = Vec::new();
        if acts(self.on_delete) {
            woken.push((&self.other, Hazard { events: vec![Event::Delete], column: None, ..hazard.clone() }));
        }
        if acts(self.on_update) {
            // A trigger may set a column that the statement does not name.
            let sets = |actor: &Actor| match &actor.act {
                Act::Trigger(code) => actor.table == self.other && code.sets_row(),
                Act::Rule(_) | Act::Policy(_) => false,
            };
            let column = (!actors.iter().any(sets)).then(|| self.column.clone());
            woken.push((&self.other, Hazard { events: vec![Event::Update], column, ..hazard }));
        }
        woken
    }
}
