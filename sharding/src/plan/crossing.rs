//! How the columns of one table get from the shards to a final query: as arrays of their values, or, where values cannot be elements of an
//! array or would fall apart in it, within rows of the table's own type.

use super::Source;
use super::final_query::quoted;
use super::scope::Rel;
use crate::catalog::{Column, CrossingForm, Table};

/// What of a table crosses.
pub(super) struct Crossing<'a> {
    table: &'a Table,
    /// The type of its rows in SQL.
    row_type: String,
    /// Positions of columns, in the order in which they are shown.
    chosen: Vec<usize>,
}

impl<'a> Crossing<'a> {
    /// The columns for which `wanted` is true; one column if there is none, so that rows are counted.
    pub(super) fn new(table: &'a Table, row_type: String, wanted: impl Fn(&Column) -> bool) -> Self {
        let all = 0..table.columns.len();
        let mut chosen: Vec<usize> = all.filter(|position| wanted(&table.columns[*position])).collect();
        if chosen.is_empty() && !table.columns.is_empty() {
            let crosses = |column: &Column| column.crossing.form != CrossingForm::Never;
            chosen.push(table.columns.iter().position(crosses).unwrap_or(0));
        }
        Self { table, row_type, chosen }
    }

    pub(super) fn columns(&self) -> Vec<&'a Column> {
        self.chosen.iter().map(|position| &self.table.columns[*position]).collect()
    }

    /// A column that cannot cross.
    pub(super) fn hindrance(&self) -> Option<&'a Column> {
        self.columns().into_iter().find(|column| column.crossing.form == CrossingForm::Never)
    }

    /// How many arrays there are.
    pub(super) fn arrays(&self) -> usize {
        self.single().count() + usize::from(self.has_rows())
    }

    /// What every shard is asked for.
    pub(super) fn targets(&self, rel: &Rel<'_>) -> String {
        let name = |position: usize| {
            let own = &*self.table.columns[position].name;
            quoted(rel.renamed.get(position).map_or(own, |name| name))
        };
        let single = self.single().map(|position| match self.form(position) {
            CrossingForm::Text => format!("{}::pg_catalog.text", name(position)),
            _ => name(position),
        });
        let mut targets: Vec<String> = single.collect();
        if self.has_rows() {
            // A domain may forbid NULL.
            let is_there = |position: usize| {
                let crossing = &self.table.columns[position].crossing;
                self.chosen.contains(&position) && crossing.form == CrossingForm::Row || crossing.domain.is_some()
            };
            let value = |position: usize| if is_there(position) { name(position) } else { "NULL".to_owned() };
            let values: Vec<String> = (0..self.table.columns.len()).map(value).collect();
            targets.push(format!("ROW({})::{}", values.join(", "), self.row_type));
        }
        targets.join(", ")
    }

    /// The positions of columns that are arrays of their values as they are, each with the number of its array.
    pub(super) fn as_they_are(&self) -> Vec<(usize, usize)> {
        let single = self.single().enumerate().map(|(number, position)| (position, number));
        single.filter(|(position, _)| self.form(*position) == CrossingForm::Binary).collect()
    }

    /// Where the rows are found again, in arrays that are parameters from number `first` on.
    pub(super) fn source(&self, first: usize) -> Source {
        let (mut types, mut columns, mut names) = (Vec::new(), Vec::new(), Vec::new());
        for position in self.single() {
            types.push(match self.form(position) {
                CrossingForm::Text => "pg_catalog.text".to_owned(),
                _ => self.table.columns[position].crossing.type_name.clone(),
            });
            columns.push(format!("c{}", types.len()));
            names.push(format!("c{}", types.len()));
        }
        if self.has_rows() {
            types.push(self.row_type.clone());
            columns.push(format!("(c{}).*", types.len()));
            names.extend((0..self.table.columns.len()).map(|position| format!("r{}", position + 1)));
        }
        let arrays = types.iter().enumerate();
        let arrays: Vec<String> =
            arrays.map(|(n, name)| format!("pg_catalog.unnest(${}::{name}[])", first + n)).collect();
        let alias = format!(" AS sluice_input({})", names.join(", "));
        Source {
            arrays: format!("ROWS FROM({}){alias}", arrays.join(", ")),
            table: [format!("(SELECT {} FROM ", columns.join(", ")), format!("){alias}")],
            types,
        }
    }

    /// The columns as the table has them, out of the source.
    pub(super) fn shown(&self) -> String {
        let mut single = (1..).map(|number| format!("c{number}"));
        let shown = self.chosen.iter().map(|position| {
            let name = match self.form(*position) {
                CrossingForm::Row => format!("r{}", position + 1),
                _ => single.next().unwrap_or_default(),
            };
            self.column(*position, &name)
        });
        shown.collect::<Vec<_>>().join(", ")
    }

    /// A column with the type, collation and name that it has in the table.
    fn column(&self, position: usize, name: &str) -> String {
        let Column { name: own, crossing, .. } = &self.table.columns[position];
        let cast =
            if crossing.form == CrossingForm::Text { format!("::{}", crossing.type_name) } else { String::new() };
        let domain = crossing.domain.as_ref().filter(|_| crossing.form != CrossingForm::Row);
        let domain = domain.map(|name| format!("::{name}")).unwrap_or_default();
        let collate = crossing.collation.as_ref().map(|name| format!(" COLLATE {name}")).unwrap_or_default();
        format!("{name}{cast}{domain}{collate} AS {}", quoted(own))
    }

    fn form(&self, position: usize) -> CrossingForm {
        self.table.columns[position].crossing.form
    }

    /// The positions of columns that cross as arrays of their own.
    fn single(&self) -> impl Iterator<Item = usize> + '_ {
        self.chosen.iter().copied().filter(|position| self.form(*position) != CrossingForm::Row)
    }

    fn has_rows(&self) -> bool {
        self.chosen.iter().any(|position| self.form(*position) == CrossingForm::Row)
    }
}
