//! The types of a statement's parameters, told to other servers than the one that named them.
//!
//! PostgreSQL's own types have the same number everywhere. A type that somebody has made has another one on every shard, so its name is told:
//! a CTE, which nothing reads, gives a parameter its type before anything else in the statement does.

use std::borrow::Cow;

use bytes::BytesMut;
use pgsluice_sharding::sql::with_cte;

use crate::protocol::error::ErrorFields;
use crate::protocol::reply;

use super::arguments::Arguments;
use super::gather::bind_for_shard;
use super::{Conversation, Failure};

/// The lowest number of a type that did not come with PostgreSQL.
const FIRST_OWN_TYPE: u32 = 16384;

/// The name of the CTE, with more of the last letter where a statement has this name itself.
const CTE: &str = "sluice_types";

/// The types of parameters in a form that every shard understands.
#[derive(Clone, Debug, Default)]
pub(crate) struct ParameterTypes {
    /// 0 for a type that is told by its name.
    numbers: Vec<u32>,
    /// The others: number of the parameter, counted from 0, and name of the type.
    named: Vec<(usize, String)>,
}

impl ParameterTypes {
    /// As the client has declared them; the server finds out the rest.
    pub(super) fn declared(numbers: &[u32]) -> Self {
        Self { numbers: numbers.to_vec(), named: Vec::new() }
    }

    pub(super) fn numbers(&self) -> &[u32] {
        &self.numbers
    }

    /// A SELECT in which the parameters have their types.
    pub(super) fn settle<'t>(&self, sql: &'t str) -> Cow<'t, str> {
        if self.named.is_empty() {
            return sql.into();
        }
        let casts: Vec<String> = self.named.iter().map(|(n, name)| format!("${}::{name}", n + 1)).collect();
        let casts = casts.join(", ");
        let mut name = CTE.to_owned();
        while sql.contains(&name) {
            name.push('s');
        }
        with_cte(sql, &format!("{name} AS (SELECT {casts})")).into()
    }

    /// The name of a parameter's type, if it is told by its name; counted from 0.
    pub(super) fn name_of(&self, param: usize) -> Option<&str> {
        self.named.iter().find(|(n, _)| *n == param).map(|(_, name)| &**name)
    }

    pub(super) fn push(&mut self, number: u32) {
        self.numbers.push(number);
    }

    /// Of types that server has named so: number and name each.
    fn new(numbers: Vec<u32>, names: &[(u32, String)]) -> Self {
        let name_of = |number: &u32| names.iter().find(|(found, _)| found == number).map(|(_, name)| name.clone());
        let named = numbers.iter().enumerate().filter_map(|(n, number)| Some((n, name_of(number)?))).collect();
        let is_named = |number: u32| names.iter().any(|(found, _)| *found == number);
        let numbers = numbers.into_iter().map(|number| if is_named(number) { 0 } else { number }).collect();
        Self { numbers, named }
    }
}

impl Conversation {
    /// The types in a ParameterDescription of server `i`.
    pub(super) async fn parameter_types(&mut self, i: usize, described: &[u8]) -> Result<ParameterTypes, Failure> {
        let numbers = reply::parameter_description(described).map_err(ErrorFields::from)?;
        let own = numbers.iter().filter(|number| **number >= FIRST_OWN_TYPE);
        let own: Vec<String> = own.map(u32::to_string).collect();
        if own.is_empty() {
            return Ok(ParameterTypes::new(numbers, &[]));
        }
        let question = format!(
            "SELECT t.oid, pg_catalog.quote_ident(n.nspname) OPERATOR(pg_catalog.||) '.' \
             OPERATOR(pg_catalog.||) pg_catalog.quote_ident(t.typname) FROM pg_catalog.pg_type t \
             JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) t.typnamespace \
             WHERE t.oid OPERATOR(pg_catalog.=) ANY ('{{{}}}'::pg_catalog.oid[])",
            own.join(",")
        );
        let nothing = Arguments::none(&question);
        let bind = nothing.bind()?;
        let put = |out: &mut BytesMut, portal: &[u8]| {
            bind_for_shard(out, portal, "", &bind, &[]);
            Ok(())
        };
        let answer = self.ask_bound(i, &question, &[], put).await?;
        let name = |row: &[u8]| {
            let mut cells = reply::data_row(row).ok()?.map(|cell| std::str::from_utf8(cell.ok()??).ok());
            Some((cells.next()??.parse().ok()?, cells.next()??.to_owned()))
        };
        let names: Vec<(u32, String)> = answer.rows().filter_map(name).collect();
        answer.into_result(self)?;
        Ok(ParameterTypes::new(numbers, &names))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_types_are_told_by_name() {
        let names = [(16390, "public.mood".to_owned())];
        let types = ParameterTypes::new(vec![23, 16390, 25, 16390], &names);
        assert_eq!(types.numbers(), [23, 0, 25, 0]);
        let cte = "sluice_types AS (SELECT $2::public.mood, $4::public.mood)";
        assert_eq!(types.settle("SELECT 1"), format!("WITH {cte} SELECT 1"));
        assert_eq!(types.settle("with a as (select 1) table a"), format!("with {cte}, a as (select 1) table a"));
        assert_eq!(types.settle("/* */ WITH Recursive a"), format!("/* */ WITH Recursive {cte}, a"));
        let again = types.settle("SELECT 1 FROM sluice_types").into_owned();
        assert!(again.starts_with("WITH sluice_typess AS (SELECT $2::public.mood"), "{again}");
        assert_eq!(ParameterTypes::new(vec![23], &names).settle("SELECT 1"), "SELECT 1");
    }
}
