//! A catalog from the text of a schema, for tests and for EXPLAIN without a server.

use super::bind::Binder;
use super::ddl::{created_columns, created_kind};
use super::decide::Context;
use super::scope::{Columns, Names};
use super::view::view_kind;
use crate::catalog::{
    Catalog, Column, ColumnDefault, Crossing, Identity, Origin, Reading, Relation, SequenceName, Table, TableRules,
};
use crate::refusal::Refusal;
use crate::sql::parse::{Parsed, parse};
use crate::sql::tree::{Constraint, CreateTable, Query, Stmt};
use crate::sql::{Limits, spans};

impl Catalog {
    /// The catalog of a database with the tables and views that `sql` creates; other statements in
    /// it are passed over.
    ///
    /// # Errors
    /// The text does not parse, or a rule asks for what cannot be.
    pub fn from_ddl(sql: &str, rules: &TableRules, shards: u16) -> Result<Self, Refusal> {
        let search_path = vec!["$user".to_owned(), "public".to_owned()];
        let mut catalog = Self { version: 1, shards, search_path, rules: rules.clone(), ..Self::default() };
        for Parsed { stmt, span, .. } in parse(sql, &[], &Limits::default()).map_err(|refusal| *refusal)? {
            let context = Context { catalog: &catalog, search_path: None, text: sql, phases: &[] };
            let names = Names::new(&catalog, None);
            let (table, columns, relation) = match &stmt {
                Stmt::CreateTable(create) => (&create.table, created_columns(context, &names, create), Relation::Table),
                Stmt::CreateView { table, query: Some(query) } => {
                    (table, view_columns(&catalog, query), Relation::View)
                }
                _ => continue,
            };
            let (schema, name) = (names.creation_schema(table).to_owned(), table.name.to_string());
            let mut columns = columns;
            if let Stmt::CreateTable(create) = &stmt {
                give_defaults(&sql[span.clone()], &schema, create, &mut columns);
                note_primary(create, &mut columns);
            }
            let kind = match &stmt {
                Stmt::CreateTable(create) => created_kind(context, &names, create, &columns)?,
                _ => catalog.rules.kind_of(&schema, &name, &columns)?,
            };
            let table = Table { kind, relation, columns };
            catalog.tables.entry(schema.clone()).or_default().insert(name.clone(), table);
            if relation == Relation::View
                && let Some(definition) = spans::view_query(sql, &span)
            {
                catalog.look_through(schema, name, &sql[definition]);
            }
        }
        Ok(catalog)
    }

    /// What is known of a view by its definition; what the operator has said of it counts more.
    fn look_through(&mut self, schema: String, name: String, definition: &str) {
        let rules = &self.rules.tables;
        if rules.contains_key(&name) || rules.contains_key(&format!("{schema}.{name}")) {
            return;
        }
        let kind = view_kind(self, definition);
        if let Some(kind) = kind
            && let Some(view) = self.tables.get_mut(&schema).and_then(|tables| tables.get_mut(&name))
        {
            (view.kind, view.relation) = (kind, Relation::KnownView);
        } else {
            self.views.entry(schema).or_default().insert(name, definition.to_owned());
        }
    }
}

fn note_primary(create: &CreateTable, columns: &mut [Column]) {
    for constraint in &create.constraints {
        if let Constraint::Unique { primary: true, columns: key } = constraint {
            let is_key = |column: &&mut Column| key.iter().any(|name| **name == *column.name);
            columns.iter_mut().filter(is_key).for_each(|column| column.primary = true);
        }
    }
}

/// What the columns of a CREATE TABLE hold where an INSERT says nothing of them.
fn give_defaults(text: &str, schema: &str, create: &CreateTable, columns: &mut [Column]) {
    for defined in &create.columns {
        let Some(column) = columns.iter_mut().find(|column| column.name == *defined.name) else { continue };
        let name = format!("{}_{}_seq", create.table.name, defined.name);
        let sequence = SequenceName { schema: schema.to_owned(), name };
        if defined.target.name.ends_with("serial") || defined.target.name.starts_with("serial") {
            column.default = ColumnDefault::Sequence { sequence, identity: Identity::No };
        } else if let Some(default) = spans::column_default(text, &defined.name) {
            column.default = match text[default.clone()].split_whitespace().next() {
                Some(word) if word.eq_ignore_ascii_case("always") => {
                    ColumnDefault::Sequence { sequence, identity: Identity::Always }
                }
                Some(word) if word.eq_ignore_ascii_case("by") => {
                    ColumnDefault::Sequence { sequence, identity: Identity::ByDefault }
                }
                _ => ColumnDefault::Expression(text[default].to_owned()),
            };
        }
    }
}

/// The columns of a view that show a column of a table.
fn view_columns(catalog: &Catalog, query: &Query) -> Vec<Column> {
    let mut binder = Binder::new(Names::new(catalog, None));
    let outputs = binder.query(query).outputs.unwrap_or_default();
    let column = |name: Option<&str>, found: Option<Column>| {
        let mut column = found.unwrap_or(Column {
            name: String::new(),
            type_oid: 0,
            typmod: -1,
            not_null: false,
            primary: false,
            origin: Origin::Given,
            reading: Reading::Clock,
            collation: catalog.default_collation,
            crossing: Crossing::default(),
            default: ColumnDefault::None,
        });
        column.name = name.unwrap_or_default().to_owned();
        column
    };
    let columns = outputs.iter().map(|output| {
        let found = output.term.and_then(|term| {
            let rel = &binder.rels[binder.terms.owner(term)];
            let position = rel.terms.iter().find(|(_, found)| **found == term).map(|(position, _)| *position)?;
            match rel.columns {
                Columns::Table(table) => table.columns.get(position).cloned(),
                Columns::Derived(_) | Columns::Unknown => None,
            }
        });
        column(output.name.as_deref(), found)
    });
    columns.collect()
}
