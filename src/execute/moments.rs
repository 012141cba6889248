//! One time for all shards where a parameter says `now` or `today`: every server would read another time in it, so one of them reads it for all.

use std::borrow::Cow;

use pgsluice_sharding::plan::row_arrays::ArrayValue;
use pgsluice_sharding::sql::Access;
use pgsluice_sharding::sql::moments::is_moment;

use crate::protocol::error::ErrorFields;
use crate::protocol::reply;

use super::arguments::Arguments;
use super::gather::{BINARY, bind_for_shard};
use super::{Conversation, Failure};

/// `date`, `time`, `timestamp`, `timestamptz` and `timetz`.
const TYPES: [(u32, &str); 5] =
    [(1082, "date"), (1083, "time"), (1114, "timestamp"), (1184, "timestamptz"), (1266, "timetz")];

impl Conversation {
    /// The arguments of a write with such parameters as the times that they mean, as the server has it that was first to join the client's
    /// transaction; none if there are no such parameters.
    pub(super) async fn with_moments(&mut self, arguments: &Arguments) -> Result<Option<Arguments>, Failure> {
        let says = |(format, value): &(i16, Option<&[u8]>)| {
            *format == 0 && value.is_some_and(|value| std::str::from_utf8(value).is_ok_and(is_moment))
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
        let types = description.parameter_types.numbers();
        let mut values: Vec<(i16, Option<Cow<'_, [u8]>>)> = Vec::new();
        for (n, (format, value)) in arguments.bind()?.parameters().enumerate() {
            let known = TYPES.iter().find(|(oid, _)| types.get(n) == Some(oid));
            match (known, value) {
                (Some((oid, name)), Some(text)) if says(&(format, value)) => {
                    values.push((BINARY, Some(self.moment(id, text, (*oid, name)).await?.into())));
                }
                _ => values.push((format, value.map(Cow::Borrowed))),
            }
        }
        Ok(Some(arguments.with_values(&values)?))
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
