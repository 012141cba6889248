//! One time for all shards: what a statement over several of them asks for as `now()` is asked of one server and told to all.

use bytes::{BufMut, Bytes, BytesMut};
use pgsluice_sharding::copy::Times;

use crate::protocol::error::ErrorFields;
use crate::protocol::frame::{put_count, put_cstr, put_value};
use crate::protocol::frontend::Bind;
use crate::protocol::reply;

use super::arguments::Arguments;
use super::gather::{BINARY, bind_for_shard};
use super::{Conversation, Failure};

/// The type of the time: `timestamptz`.
pub(super) const TIME_TYPE: u32 = 1184;

/// What the time is asked for with.
const QUESTION: &str = "SELECT pg_catalog.now()";

/// The parts of [`Times`], in their order.
const TIMES: &str = "SELECT pg_catalog.to_char(t.own, 'YYYY-MM-DD HH24:MI:SS.US'), \
     pg_catalog.to_char(pg_catalog.timezone('UTC', t.at), 'YYYY-MM-DD HH24:MI:SS.US\"+00\"'), \
     t.at::pg_catalog.time::pg_catalog.text, t.at::pg_catalog.timetz::pg_catalog.text, pg_catalog.to_char(t.own, 'YYYY-MM-DD'), \
     pg_catalog.to_char(t.own OPERATOR(pg_catalog.+) '1 day'::pg_catalog.interval, 'YYYY-MM-DD'), \
     pg_catalog.to_char(t.own OPERATOR(pg_catalog.-) '1 day'::pg_catalog.interval, 'YYYY-MM-DD') \
     FROM (SELECT pg_catalog.now(), pg_catalog.now()::pg_catalog.timestamp) t(at, own)";

impl Conversation {
    /// The arguments with one more behind the `params` that a statement names: the time at which the transaction began, as server `id`
    /// has it, or the one that was first to join the client's transaction.
    pub(super) async fn timed(&mut self, arguments: &Arguments, params: u16, id: u64) -> Result<Arguments, Failure> {
        arguments.check_count(params)?;
        let time = self.transaction_time(id).await?;
        arguments.with(&time)
    }

    /// When the transaction began, in PostgreSQL's binary form: as server `id` has it, or the one that was first to join the client's.
    pub(super) async fn transaction_time(&mut self, id: u64) -> Result<Bytes, Failure> {
        let i = self.keeper_of_time(id)?;
        let nothing = Arguments::none(QUESTION);
        let bind = nothing.bind()?;
        let put = |out: &mut BytesMut, portal: &[u8]| {
            bind_for_shard(out, portal, "", &bind, &[BINARY]);
            Ok(())
        };
        let answer = self.ask_bound(i, QUESTION, &[], put).await?;
        let cell = answer.rows().find_map(|row| reply::data_row(row).ok()?.next()?.ok()?);
        let time = cell.map(Bytes::copy_from_slice);
        answer.into_result(self)?;
        time.ok_or_else(no_time)
    }

    /// What `now` and the like mean in the data of a COPY, as the same server has it.
    pub(super) async fn copied_times(&mut self, id: u64) -> Result<Times, Failure> {
        let i = self.keeper_of_time(id)?;
        let answer = self.ask(i, TIMES).await?;
        let row = answer.rows().next().and_then(|row| reply::data_row(row).ok());
        let cells: Option<Vec<String>> = row.and_then(|row| {
            row.map(|cell| cell.ok()?.map(|text| String::from_utf8_lossy(text).into_owned())).collect()
        });
        answer.into_result(self)?;
        let cells = cells.and_then(|cells| <[String; 7]>::try_from(cells).ok()).ok_or_else(no_time)?;
        let [timestamp, timestamptz, time, timetz, today, tomorrow, yesterday] = cells;
        Ok(Times { timestamp, timestamptz, time, timetz, today, tomorrow, yesterday })
    }

    /// Whose time counts: that of the server that was first to join the client's transaction, else that of server `id`.
    fn keeper_of_time(&self, id: u64) -> Result<usize, Failure> {
        match self.links.iter().position(|link| link.joined) {
            Some(first) => Ok(first),
            None => self.position(id),
        }
    }
}

fn no_time() -> Failure {
    ErrorFields::error("08P01", "the server did not say what time it is").into()
}

/// The body of a Bind message with more values behind the others, in binary.
pub(super) fn bind_with(bind: &Bind<'_>, values: &[Option<&[u8]>]) -> Bytes {
    let mut out = BytesMut::new();
    put_cstr(&mut out, bind.portal);
    put_cstr(&mut out, bind.statement);
    put_count(&mut out, bind.values.count() + values.len());
    bind.parameters().for_each(|(format, _)| out.put_i16(format));
    values.iter().for_each(|_| out.put_i16(BINARY));
    put_count(&mut out, bind.values.count() + values.len());
    bind.values.iter().for_each(|value| put_value(&mut out, value));
    values.iter().for_each(|value| put_value(&mut out, *value));
    put_count(&mut out, bind.result_formats.count());
    bind.result_formats.codes().for_each(|code| out.put_i16(code));
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_more_value() {
        let body = b"p\0s\0\0\x01\0\x01\0\x02\0\0\0\x01a\xff\xff\xff\xff\0\x01\0\x01";
        let bind = Bind::read(body).expect("is well formed");
        let more = bind_with(&bind, &[Some(b"xyz")]);
        let more = Bind::read(&more).expect("is well formed");
        let parameters: Vec<(i16, Option<&[u8]>)> = more.parameters().collect();
        assert_eq!(parameters, [(1, Some(&b"a"[..])), (1, None), (1, Some(&b"xyz"[..]))]);
        assert_eq!(more.result_formats.of(7), 1);
    }
}
