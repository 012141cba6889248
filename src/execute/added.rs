//! What the router adds to rows that a query gives: ids from blocks, and defaults that are the same for all rows.

use std::collections::HashMap;

use pgsluice_sharding::copy::{CopyFormat, CopyFrom, FieldCell, FieldValue, Splitter};
use pgsluice_sharding::plan::{AddedValue, SelectedRows, Sequence, Sequences};

use crate::protocol::error::ErrorFields;
use crate::protocol::frame::Header;

use super::computed::random_uuid;
use super::selected::{Fixed, Route, RowValue, Sorted};
use super::{Conversation, Failure};

/// The fields that COPY puts in front of each row.
pub(super) struct AddedFields {
    fields: Vec<Source>,
    /// The sequences of those that have one.
    sequences: Vec<String>,
}

/// Where one field comes from.
enum Source {
    Next,
    Uuid,
    Fixed(FieldCell),
}

impl Conversation {
    /// The defaults that all rows of an INSERT get alike, when its query has so many columns.
    pub(super) async fn fixed_values(&mut self, insert: &SelectedRows, columns: usize) -> Result<Vec<Fixed>, Failure> {
        let mut fixed = Vec::new();
        let Some(added) = &insert.added else { return Ok(fixed) };
        for column in added.of(columns) {
            if let AddedValue::Once(sql) = &column.value {
                let (value, sql) = self.evaluate_once(sql).await?;
                fixed.push(Fixed { value, sql });
            }
        }
        Ok(fixed)
    }

    /// Takes the ids for `rows`, whole DataRow messages.
    pub(super) async fn give_ids(
        &mut self,
        mut rows: &[u8],
        route: &Route<'_>,
        sorted: &mut Sorted,
    ) -> Result<(), Failure> {
        let names: Vec<&str> = route
            .added
            .iter()
            .filter_map(|value| match value {
                RowValue::Next(name) => Some(name.as_str()),
                RowValue::Uuid => None,
            })
            .collect();
        let mut count = 0;
        while let (false, Ok(Some(header))) = (names.is_empty(), Header::parse(rows)) {
            count += 1;
            rows = rows.get(header.total..).unwrap_or_default();
        }
        sorted.given.extend(self.next_for_rows(&names, count).await?);
        Ok(())
    }

    /// The next value of each of these sequences for each of so many rows, row by row; one may be named more than once.
    pub(super) async fn next_for_rows(&mut self, names: &[&str], rows: usize) -> Result<Vec<i64>, Failure> {
        if rows == 0 || names.is_empty() {
            return Ok(Vec::new());
        }
        let mut taken = HashMap::new();
        for name in names {
            if taken.contains_key(name) {
                continue;
            }
            let sequence = self.sequence(name)?;
            let uses = names.iter().filter(|other| *other == name).count();
            let values = self.take_next(&sequence, rows * uses).await?;
            taken.insert(*name, values.into_iter());
        }
        let next = (0..rows).flat_map(|_| names).filter_map(|name| taken.get_mut(name)?.next());
        Ok(next.collect())
    }

    fn sequence(&self, name: &str) -> Result<Sequence, Failure> {
        let catalog = self.catalog()?;
        Ok(Sequences { catalog: &catalog, search_path: self.session.search_path() }.named(name))
    }

    /// What a COPY adds to its rows: found out before it begins, because then no server answers questions.
    pub(super) async fn added_fields(&mut self, copy: &CopyFrom) -> Result<AddedFields, Failure> {
        let mut added = AddedFields { fields: Vec::new(), sequences: Vec::new() };
        for field in &copy.added {
            added.fields.push(match &field.value {
                FieldValue::Next { sequence, .. } => {
                    if !self.has_blocks(&self.sequence(sequence)?) {
                        return Err(not_at_hand(&field.name));
                    }
                    added.sequences.push(sequence.clone());
                    Source::Next
                }
                FieldValue::Uuid => Source::Uuid,
                FieldValue::Once(sql) => {
                    let binary = copy.format == CopyFormat::Binary;
                    Source::Fixed(if binary {
                        self.evaluate_cell(sql).await?
                    } else {
                        FieldCell::Text(self.evaluate_once(sql).await?.0)
                    })
                }
            });
        }
        Ok(added)
    }

    /// Gives a splitter the fields of so many rows.
    pub(super) async fn give_fields(
        &mut self,
        added: &AddedFields,
        rows: usize,
        splitter: &mut Splitter,
    ) -> Result<(), Failure> {
        if rows == 0 || added.fields.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = added.sequences.iter().map(String::as_str).collect();
        let mut ids = self.next_for_rows(&names, rows).await?.into_iter();
        let mut cells = Vec::with_capacity(rows * added.fields.len());
        for _ in 0..rows {
            for field in &added.fields {
                cells.push(match field {
                    Source::Next => match ids.next() {
                        Some(id) => FieldCell::Id(id),
                        None => return Err(ErrorFields::error("XX000", "a sequence gave too few values").into()),
                    },
                    Source::Uuid => FieldCell::Uuid(random_uuid()?),
                    Source::Fixed(cell) => cell.clone(),
                });
            }
        }
        splitter.give(cells);
        Ok(())
    }
}

fn not_at_hand(column: &str) -> Failure {
    let message =
        format!("COPY cannot fill column \"{column}\" in a transaction that has changed its sequence or tables");
    ErrorFields::error("0A000", message)
        .with_hint("Commit before, or write the values of the column into the data.")
        .into()
}
