//! What the router adds to rows that a query gives: ids from blocks, and defaults that are the same for all rows.

use std::collections::HashMap;

use pgsluice_sharding::plan::{AddedValue, SelectedRows, Sequences};

use crate::protocol::frame::Header;

use super::selected::{Fixed, Route, RowValue, Sorted};
use super::{Conversation, Failure};

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
            let sequence = {
                let catalog = self.catalog()?;
                Sequences { catalog: &catalog, search_path: self.session.search_path() }.named(name)
            };
            let uses = names.iter().filter(|other| *other == name).count();
            let values = self.take_next(&sequence, rows * uses).await?;
            taken.insert(*name, values.into_iter());
        }
        let next = (0..rows).flat_map(|_| names).filter_map(|name| taken.get_mut(name)?.next());
        Ok(next.collect())
    }
}
