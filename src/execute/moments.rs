//! One time for all shards where a parameter says `now` or `today`: every server would read another time in it, so one of them reads it for all.

use std::borrow::Cow;

use pgsluice_sharding::plan::row_arrays::ArrayValue;
use pgsluice_sharding::sql::Access;
use pgsluice_sharding::sql::moments::{holds_moment, is_moment};

use crate::protocol::error::ErrorFields;
use crate::protocol::reply;
use crate::session::settings::quote_literal;

use super::arguments::Arguments;
use super::gather::{BINARY, bind_for_shard};
use super::types::ParameterTypes;
use super::{Conversation, Failure};

/// Dates and times, and what PostgreSQL makes of them.
const TYPES: [(u32, &str); 16] = [
    (1082, "date"),
    (1083, "time"),
    (1114, "timestamp"),
    (1184, "timestamptz"),
    (1266, "timetz"),
    (1182, "_date"),
    (1183, "_time"),
    (1115, "_timestamp"),
    (1185, "_timestamptz"),
    (1270, "_timetz"),
    (3912, "daterange"),
    (3908, "tsrange"),
    (3910, "tstzrange"),
    (4535, "datemultirange"),
    (4533, "tsmultirange"),
    (4534, "tstzmultirange"),
];

impl Conversation {
    /// The arguments of a write with such parameters as the times that they mean, as the server has it that was first to join the client's
    /// transaction; none if there are no such parameters.
    pub(super) async fn with_moments(&mut self, arguments: &Arguments) -> Result<Option<Arguments>, Failure> {
        let says = |(format, value): &(i16, Option<&[u8]>)| {
            *format == 0
                && value.is_some_and(|value| {
                    std::str::from_utf8(value).is_ok_and(|text| is_moment(text) || holds_moment(text))
                })
        };
        if !arguments.bind()?.parameters().any(|parameter| says(&parameter)) {
            return Ok(None);
        }
        let first = self.links.iter().position(|link| link.joined);
        let i = match first {
            Some(first) => first,
            None => self.link(None, Access::Lock).await?,
        };
        let id = self.links[i].server.id.0;
        let description = self.write_description(id, arguments).await?;
        let types = &description.parameter_types;
        let mut values: Vec<(i16, Option<Cow<'_, [u8]>>)> = Vec::new();
        for (n, (format, value)) in arguments.bind()?.parameters().enumerate() {
            let told = match value.filter(|_| says(&(format, value))) {
                Some(text) => match self.type_of_time(id, types, n).await? {
                    Some(known) => Some(self.moment(id, text, known).await?),
                    None => None,
                },
                None => None,
            };
            values.push(match told {
                Some(told) => (BINARY, Some(told.into())),
                None => (format, value.map(Cow::Borrowed)),
            });
        }
        Ok(Some(arguments.with_values(&values)?))
    }

    /// The type of a parameter if it is one of time; what a domain over one stands for.
    async fn type_of_time(
        &mut self,
        id: u64,
        types: &ParameterTypes,
        param: usize,
    ) -> Result<Option<(u32, &'static str)>, Failure> {
        let known = |type_oid: u32| TYPES.iter().find(|(known, _)| *known == type_oid).copied();
        let Some(name) = types.name_of(param) else {
            return Ok(types.numbers().get(param).and_then(|number| known(*number)));
        };
        let name = quote_literal(name);
        let question = format!(
            "WITH RECURSIVE below(oid) AS (SELECT {name}::pg_catalog.regtype::pg_catalog.oid UNION ALL SELECT t.typbasetype \
             FROM pg_catalog.pg_type t JOIN below b ON b.oid OPERATOR(pg_catalog.=) t.oid \
             WHERE t.typtype OPERATOR(pg_catalog.=) 'd') SELECT b.oid FROM below b"
        );
        let i = self.position(id)?;
        let answer = self.ask(i, &question).await?;
        let found = answer.rows().find_map(|row| {
            let cell = reply::data_row(row).ok()?.next()?.ok()??;
            known(std::str::from_utf8(cell).ok()?.parse().ok()?)
        });
        answer.into_result(self)?;
        Ok(found)
    }

    /// What a server reads in a text, in binary.
    async fn moment(&mut self, id: u64, text: &[u8], (oid, name): (u32, &str)) -> Result<Vec<u8>, Failure> {
        let question = format!("SELECT $1::pg_catalog.{name}");
        let value = ArrayValue { format: 0, bytes: text.to_vec() };
        let asked = Arguments::none(&question).replaced(&[value])?;
        let i = self.position(id)?;
        let put = |out: &mut bytes::BytesMut, portal: &[u8]| {
            bind_for_shard(out, portal, "", &asked.bind()?, &[BINARY]);
            Ok(())
        };
        let answer = self.ask_bound(i, &question, &[oid], put).await?;
        let cell = answer.rows().find_map(|row| reply::data_row(row).ok()?.next()?.ok()?);
        let time = cell.map(<[u8]>::to_vec);
        answer.into_result(self)?;
        time.ok_or_else(|| ErrorFields::error("08P01", "the server did not say what time it is").into())
    }
}
