//! Relations, blocks and names: what a column or table name stands for where it is written.

use std::collections::HashMap;

use super::bind::Written;
use super::terms::Term;
use crate::catalog::{Catalog, Relation, Table, TableKind};
use crate::sql::functions::{self, Known, Precedence};
use crate::sql::tree::{Func, TableRef};

/// The relations of `information_schema`, whose names a user's tables may have too.
const INFORMATION_SCHEMA: &str = include_str!("../sql/tables/information_schema.txt");

/// An entry of a FROM clause, or the target of a write.
#[derive(Debug)]
pub(crate) struct Rel<'c> {
    pub name: Box<str>,
    pub schema: Option<Box<str>>,
    pub columns: Columns<'c>,
    /// New names for the first columns.
    pub renamed: Vec<Box<str>>,
    pub block: usize,
    /// Rows may be all NULL, because the relation is on the nullable side of an outer join.
    pub nullable: bool,
    /// Terms of the columns asked for so far, by position.
    pub terms: HashMap<usize, Term>,
    /// How it stands in the text, if it is a table.
    pub written: Option<Written>,
}

#[derive(Debug)]
pub(crate) enum Columns<'c> {
    Table(&'c Table),
    /// A subquery or CTE: names and the terms they carry.
    Derived(Vec<Option<Box<str>>>),
    /// A function, an unknown table: the router cannot say which columns there are.
    Unknown,
}

impl Rel<'_> {
    /// The position of a column by name; `None` when there is none or it cannot be known.
    pub(crate) fn position(&self, name: &str) -> Option<usize> {
        if let Some(position) = self.renamed.iter().position(|renamed| &**renamed == name) {
            return Some(position);
        }
        let found = match &self.columns {
            Columns::Table(table) => table.columns.iter().position(|column| column.name == name),
            Columns::Derived(names) => names.iter().position(|found| found.as_deref() == Some(name)),
            Columns::Unknown => None,
        }?;
        (found >= self.renamed.len()).then_some(found)
    }

    /// The names of all columns in order, when they are known.
    pub(crate) fn names(&self) -> Option<Vec<String>> {
        let own: Vec<String> = match &self.columns {
            Columns::Table(table) => table.columns.iter().map(|column| column.name.clone()).collect(),
            Columns::Derived(names) => {
                names.iter().map(|name| name.as_deref().map(str::to_owned)).collect::<Option<_>>()?
            }
            Columns::Unknown => return None,
        };
        let renamed = self.renamed.iter().map(ToString::to_string);
        Some(renamed.chain(own.into_iter().skip(self.renamed.len())).collect())
    }
}

/// What a table name stands for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Found<'c> {
    Table {
        schema: &'c str,
        table: &'c Table,
        name: &'c str,
    },
    /// `pg_catalog` and `information_schema`.
    System,
    /// A name the router does not know: PostgreSQL will say so, or it is a temporary table.
    Unknown,
}

/// Looks tables up along the search path.
#[derive(Debug)]
pub(crate) struct Names<'c> {
    pub catalog: &'c Catalog,
    pub path: Vec<String>,
}

impl<'c> Names<'c> {
    pub(crate) fn new(catalog: &'c Catalog, search_path: Option<&str>) -> Self {
        let path = search_path.map_or_else(|| catalog.search_path.clone(), parse_search_path);
        Self { catalog, path }
    }

    pub(crate) fn find(&self, table: &TableRef) -> Found<'c> {
        if let Some(schema) = &table.schema {
            if is_system_schema(schema) {
                return Found::System;
            }
            return self.find_in(schema, &table.name).unwrap_or(Found::Unknown);
        }
        // pg_catalog is searched first unless the path says otherwise; tables of users cannot be named pg_*.
        if table.name.starts_with("pg_") {
            return Found::System;
        }
        let found = |schema: &String| match schema.as_str() {
            "information_schema" if INFORMATION_SCHEMA.lines().any(|name| name == &*table.name) => Some(Found::System),
            schema => self.find_in(schema, &table.name),
        };
        self.path.iter().find_map(found).unwrap_or(Found::Unknown)
    }

    fn find_in(&self, schema: &str, name: &str) -> Option<Found<'c>> {
        if is_system_schema(schema) {
            return None;
        }
        let (schema, tables) = self.catalog.tables.get_key_value(schema)?;
        let (name, table) = tables.get_key_value(name)?;
        Some(Found::Table { schema, table, name })
    }

    /// What may be written in the place of a view.
    pub(crate) fn definition_of(&self, view: &TableRef) -> Option<&'c str> {
        let schema = self.schema_of(view.schema.as_deref(), &view.name)?;
        if self.precedence() == Precedence::Unclear {
            return None;
        }
        self.catalog.views.get(schema)?.get(&*view.name).map(String::as_str)
    }

    /// The function that a call means.
    pub(crate) fn function(&self, call: &Func) -> Option<Known> {
        functions::lookup(self.catalog, self.precedence(), call.schema.as_deref(), &call.name)
    }

    /// Where PostgreSQL's own names are looked up last, a user's can hide them.
    fn precedence(&self) -> Precedence {
        match self.path.iter().skip(1).any(|schema| schema == "pg_catalog") {
            true => Precedence::Unclear,
            false => Precedence::BuiltIn,
        }
    }

    /// The schema of a table with this name, which may stand in `schema`.
    pub(crate) fn schema_of<'a>(&'a self, schema: Option<&'a str>, name: &str) -> Option<&'a str> {
        schema.or_else(|| {
            let mut path = self.path.iter().map(String::as_str);
            path.find(|schema| self.find_in(schema, name).is_some())
        })
    }

    /// The schema in which a table without one would be created.
    pub(crate) fn creation_schema<'a>(&'a self, table: &'a TableRef) -> &'a str {
        match &table.schema {
            Some(schema) => schema,
            None => self.path.iter().find(|schema| *schema != "$user").map_or("public", String::as_str),
        }
    }

    /// Whether the operator has said what this view is.
    pub(crate) fn has_rule(&self, schema: Option<&str>, name: &str) -> bool {
        let rules = &self.catalog.rules.tables;
        rules.contains_key(name) || schema.is_some_and(|schema| rules.contains_key(&format!("{schema}.{name}")))
    }
}

/// Whether rows of this table come from somewhere the router did not look into.
pub(crate) fn is_view(table: &Table) -> bool {
    table.relation == Relation::View
}

pub(crate) fn is_sharded(table: &Table) -> bool {
    matches!(table.kind, TableKind::Sharded { .. })
}

fn is_system_schema(schema: &str) -> bool {
    matches!(schema, "pg_catalog" | "information_schema" | "pg_toast")
}

/// The schemas of a `search_path` setting.
pub(crate) fn parse_search_path(text: &str) -> Vec<String> {
    let mut path = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (name, after) = match rest.as_bytes()[0] {
            quote @ (b'"' | b'\'') => quoted(rest, char::from(quote)),
            _ => {
                let end = rest.find(',').unwrap_or(rest.len());
                (rest[..end].trim().to_lowercase(), &rest[end..])
            }
        };
        if !name.is_empty() {
            path.push(name);
        }
        rest = after.trim_start().strip_prefix(',').unwrap_or("").trim_start();
    }
    path
}

fn quoted(text: &str, quote: char) -> (String, &str) {
    let mut name = String::new();
    let mut characters = text.char_indices().skip(1).peekable();
    while let Some((at, character)) = characters.next() {
        if character != quote {
            name.push(character);
        } else if characters.peek().is_some_and(|(_, next)| *next == quote) {
            name.push(quote);
            characters.next();
        } else {
            return (name, &text[at + 1..]);
        }
    }
    (name, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn search_paths() {
        assert_eq!(parse_search_path("\"$user\", public"), ["$user", "public"]);
        assert_eq!(parse_search_path("App,  \"My \"\"x\"\"\" "), ["app", "My \"x\""]);
        assert_eq!(parse_search_path("'a', b"), ["a", "b"]);
        assert!(parse_search_path("").is_empty());
    }
}
