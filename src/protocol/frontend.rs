//! Messages of a client: views of what clients send, and writers for what the router sends to servers.
//!
//! Text stays bytes: a client may speak another encoding than UTF-8.

use bytes::{BufMut, BytesMut};

use crate::protocol::frame::{put_count, put_cstr, put_message, put_sized, put_value};
use crate::protocol::reader::{Malformed, Reader};
use crate::protocol::startup::{CANCEL_REQUEST, PROTOCOL_3_0, SSL_REQUEST};

/// Format codes as a Bind sends them: none (all text), one (for all), or one for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Formats<'a>(&'a [u8]);

impl<'a> Formats<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        let count = usize::from(reader.u16()?);
        reader.bytes(2 * count).map(Self)
    }

    /// How many codes were sent.
    pub fn count(&self) -> usize {
        self.0.len() / 2
    }

    /// The codes as sent.
    pub fn codes(&self) -> impl Iterator<Item = i16> + 'a {
        self.0.chunks_exact(2).map(|code| i16::from_be_bytes([code[0], code[1]]))
    }

    /// The code that holds for item `index`: 0 text, 1 binary. Beyond the codes sent it is text.
    pub fn of(&self, index: usize) -> i16 {
        let index = if self.count() == 1 { 0 } else { index };
        self.codes().nth(index).unwrap_or(0)
    }
}

/// Parameter values, checked to lie within the message.
#[derive(Clone, Debug)]
pub struct Values<'a> {
    count: usize,
    reader: Reader<'a>,
}

impl<'a> Values<'a> {
    /// Walks over the values once, leaving `reader` behind them.
    fn read(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        let count = usize::from(reader.u16()?);
        let values = Self { count, reader: reader.clone() };
        for _ in 0..count {
            reader.value()?;
        }
        Ok(values)
    }

    pub fn count(&self) -> usize {
        self.count
    }

    /// The values in order, `None` for NULL.
    pub fn iter(&self) -> impl Iterator<Item = Option<&'a [u8]>> + use<'a> {
        let mut reader = self.reader.clone();
        (0..self.count).map_while(move |_| reader.value().ok())
    }
}

/// A simple query; may hold several statements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query<'a> {
    pub sql: &'a [u8],
}

impl<'a> Query<'a> {
    /// # Errors
    /// The body has another layout, as for all views of this file.
    pub fn read(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        let query = Self { sql: reader.cstr()? };
        reader.end()?;
        Ok(query)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parse<'a> {
    pub name: &'a [u8],
    pub sql: &'a [u8],
    types: &'a [u8],
}

impl<'a> Parse<'a> {
    /// # Errors
    /// See [`Query::read`].
    pub fn read(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        let (name, sql) = (reader.cstr()?, reader.cstr()?);
        let count = usize::from(reader.u16()?);
        let types = reader.bytes(4 * count)?;
        reader.end()?;
        Ok(Self { name, sql, types })
    }

    /// The parameter types that the client states; 0 leaves one to the server, and so does a missing one.
    pub fn types(&self) -> impl ExactSizeIterator<Item = u32> + use<'a> {
        self.types.chunks_exact(4).map(|oid| u32::from_be_bytes([oid[0], oid[1], oid[2], oid[3]]))
    }

    /// The same types as they came: equal bytes are equal types.
    pub fn type_bytes(&self) -> &'a [u8] {
        self.types
    }
}

#[derive(Clone, Debug)]
pub struct Bind<'a> {
    pub portal: &'a [u8],
    pub statement: &'a [u8],
    pub formats: Formats<'a>,
    pub values: Values<'a>,
    pub result_formats: Formats<'a>,
}

impl<'a> Bind<'a> {
    /// # Errors
    /// See [`Query::read`]; also when there are several formats but another number of values.
    pub fn read(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        let (portal, statement) = (reader.cstr()?, reader.cstr()?);
        let formats = Formats::read(&mut reader)?;
        let values = Values::read(&mut reader)?;
        check_formats("bind", formats, &values)?;
        let result_formats = Formats::read(&mut reader)?;
        reader.end()?;
        Ok(Self { portal, statement, formats, values, result_formats })
    }

    /// Each value with its format.
    pub fn parameters(&self) -> impl Iterator<Item = (i16, Option<&'a [u8]>)> + use<'a> {
        let formats = self.formats;
        self.values.iter().enumerate().map(move |(index, value)| (formats.of(index), value))
    }
}

fn check_formats(message: &str, formats: Formats<'_>, values: &Values<'_>) -> Result<(), Malformed> {
    if formats.count() > 1 && formats.count() != values.count() {
        return Err(Malformed(format!(
            "{message} message has {} parameter formats but {} parameters",
            formats.count(),
            values.count()
        )));
    }
    Ok(())
}

/// What a Describe or Close names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Statement,
    Portal,
}

impl Kind {
    pub fn byte(self) -> u8 {
        match self {
            Self::Statement => b'S',
            Self::Portal => b'P',
        }
    }

    fn from_byte(byte: u8, message: &str) -> Result<Self, Malformed> {
        match byte {
            b'S' => Ok(Self::Statement),
            b'P' => Ok(Self::Portal),
            _ => Err(Malformed(format!("invalid {message} message subtype {byte}"))),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Describe<'a> {
    pub kind: Kind,
    pub name: &'a [u8],
}

impl<'a> Describe<'a> {
    /// # Errors
    /// See [`Query::read`]; also for a kind other than `S` and `P`.
    pub fn read(body: &'a [u8]) -> Result<Self, Malformed> {
        let (kind, name) = read_named(body, "DESCRIBE")?;
        Ok(Self { kind, name })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Close<'a> {
    pub kind: Kind,
    pub name: &'a [u8],
}

impl<'a> Close<'a> {
    /// # Errors
    /// See [`Describe::read`].
    pub fn read(body: &'a [u8]) -> Result<Self, Malformed> {
        let (kind, name) = read_named(body, "CLOSE")?;
        Ok(Self { kind, name })
    }
}

fn read_named<'a>(body: &'a [u8], message: &str) -> Result<(Kind, &'a [u8]), Malformed> {
    let mut reader = Reader::new(body);
    let kind = Kind::from_byte(reader.u8()?, message)?;
    let name = reader.cstr()?;
    reader.end()?;
    Ok((kind, name))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Execute<'a> {
    pub portal: &'a [u8],
    /// 0 or less for all rows.
    pub max_rows: i32,
}

impl<'a> Execute<'a> {
    /// # Errors
    /// See [`Query::read`].
    pub fn read(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        let execute = Self { portal: reader.cstr()?, max_rows: reader.i32()? };
        reader.end()?;
        Ok(execute)
    }
}

/// The fast-path call of a function by its oid.
#[derive(Clone, Debug)]
pub struct FunctionCall<'a> {
    pub function: u32,
    pub formats: Formats<'a>,
    pub values: Values<'a>,
    pub result_format: i16,
}

impl<'a> FunctionCall<'a> {
    /// # Errors
    /// See [`Bind::read`].
    pub fn read(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        let function = reader.u32()?;
        let formats = Formats::read(&mut reader)?;
        let values = Values::read(&mut reader)?;
        check_formats("function call", formats, &values)?;
        let result_format = reader.i16()?;
        reader.end()?;
        Ok(Self { function, formats, values, result_format })
    }
}

/// The client gives up a COPY, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyFail<'a> {
    pub reason: &'a [u8],
}

impl<'a> CopyFail<'a> {
    /// # Errors
    /// See [`Query::read`].
    pub fn read(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        let fail = Self { reason: reader.cstr()? };
        reader.end()?;
        Ok(fail)
    }
}

pub fn query(out: &mut BytesMut, sql: &[u8]) {
    put_message(out, b'Q', |out| put_cstr(out, sql));
}

pub fn parse(out: &mut BytesMut, name: &[u8], sql: &[u8], types: &[u32]) {
    put_message(out, b'P', |out| {
        put_cstr(out, name);
        put_cstr(out, sql);
        put_count(out, types.len());
        for &oid in types {
            out.put_u32(oid);
        }
    });
}

/// A Bind of its own making: all values in one format, all results in one format.
pub fn bind<V: AsRef<[u8]>>(
    out: &mut BytesMut,
    portal: &[u8],
    statement: &[u8],
    format: i16,
    values: &[Option<V>],
    result_format: i16,
) {
    put_message(out, b'B', |out| {
        put_cstr(out, portal);
        put_cstr(out, statement);
        out.put_u16(1);
        out.put_i16(format);
        put_count(out, values.len());
        for value in values {
            put_value(out, value.as_ref().map(AsRef::as_ref));
        }
        out.put_u16(1);
        out.put_i16(result_format);
    });
}

/// The client's Bind with other names; what follows the names is copied undecoded.
///
/// # Errors
/// `body` has no two names. The rest is not looked at: the server checks it.
pub fn bind_renamed(
    out: &mut BytesMut,
    body: &[u8],
    new_portal: Option<&[u8]>,
    new_statement: Option<&[u8]>,
) -> Result<(), Malformed> {
    let mut reader = Reader::new(body);
    let (portal, statement) = (reader.cstr()?, reader.cstr()?);
    put_message(out, b'B', |out| {
        put_cstr(out, new_portal.unwrap_or(portal));
        put_cstr(out, new_statement.unwrap_or(statement));
        out.put_slice(reader.rest());
    });
    Ok(())
}

/// A Bind of a statement that does not exist: it fails, and with it the transaction it is part of.
pub fn bind_nothing(out: &mut BytesMut, statement: &[u8]) {
    bind::<&[u8]>(out, b"", statement, 0, &[], 0);
}

pub fn copy_done(out: &mut BytesMut) {
    put_message(out, b'c', |_| {});
}

pub fn describe(out: &mut BytesMut, kind: Kind, name: &[u8]) {
    put_message(out, b'D', |out| {
        out.put_u8(kind.byte());
        put_cstr(out, name);
    });
}

pub fn close(out: &mut BytesMut, kind: Kind, name: &[u8]) {
    put_message(out, b'C', |out| {
        out.put_u8(kind.byte());
        put_cstr(out, name);
    });
}

pub fn execute(out: &mut BytesMut, portal: &[u8], max_rows: i32) {
    put_message(out, b'E', |out| {
        put_cstr(out, portal);
        out.put_i32(max_rows);
    });
}

pub fn sync(out: &mut BytesMut) {
    put_message(out, b'S', |_| {});
}

pub fn flush(out: &mut BytesMut) {
    put_message(out, b'H', |_| {});
}

pub fn terminate(out: &mut BytesMut) {
    put_message(out, b'X', |_| {});
}

pub fn copy_fail(out: &mut BytesMut, reason: &[u8]) {
    put_message(out, b'f', |out| put_cstr(out, reason));
}

/// PasswordMessage: the password or its md5.
pub fn password(out: &mut BytesMut, password: &[u8]) {
    put_message(out, b'p', |out| put_cstr(out, password));
}

pub fn sasl_initial_response(out: &mut BytesMut, mechanism: &str, data: &[u8]) {
    put_message(out, b'p', |out| {
        put_cstr(out, mechanism.as_bytes());
        put_value(out, Some(data));
    });
}

pub fn sasl_response(out: &mut BytesMut, data: &[u8]) {
    put_message(out, b'p', |out| out.put_slice(data));
}

pub fn ssl_request(out: &mut BytesMut) {
    put_sized(out, |out| out.put_u32(SSL_REQUEST));
}

pub fn cancel_request(out: &mut BytesMut, pid: i32, secret: &[u8]) {
    put_sized(out, |out| {
        out.put_u32(CANCEL_REQUEST);
        out.put_i32(pid);
        out.put_slice(secret);
    });
}

/// The first message to a server, in protocol 3.0.
pub fn startup_message<'a>(
    out: &mut BytesMut,
    user: &'a str,
    database: &'a str,
    parameters: impl IntoIterator<Item = (&'a str, &'a str)>,
) {
    put_sized(out, |out| {
        out.put_u32(PROTOCOL_3_0);
        for (name, value) in [("user", user), ("database", database)].into_iter().chain(parameters) {
            put_cstr(out, name.as_bytes());
            put_cstr(out, value.as_bytes());
        }
        out.put_u8(0);
    });
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::Header;

    fn body(out: &BytesMut) -> &[u8] {
        let (_, body, rest) = Header::split(out).expect("a sane length").expect("a whole message");
        assert!(rest.is_empty());
        body
    }

    #[test]
    fn formats_follow_the_rule_of_none_one_or_each() {
        assert_eq!(Formats(b"").of(3), 0);
        assert_eq!(Formats(b"\0\x01").of(3), 1);
        assert_eq!((Formats(b"\0\x01\0\0").of(0), Formats(b"\0\x01\0\0").of(1)), (1, 0));
    }

    #[test]
    fn hostile_bodies_are_refused() {
        // A count of values beyond the end, a value beyond the end, a length below -1, bytes left over.
        for bad in [&b"\0\0\0\0\xff\xff"[..], b"\0\0\0\0\0\x01\0\0\0\x09x\0\0", b"\0\0\0\0\0\x01\xff\xff\xff\xfe\0\0"] {
            assert!(Bind::read(bad).is_err(), "{bad:?}");
        }
        assert!(Bind::read(b"\0\0\0\0\0\0\0\0").is_ok());
        assert!(Bind::read(b"\0\0\0\0\0\0\0\0!").is_err());
        let error = Bind::read(b"\0\0\0\x02\0\0\0\0\0\x01\xff\xff\xff\xff\0\0").expect_err("two formats, one value");
        assert_eq!(error.0, "bind message has 2 parameter formats but 1 parameters");
        assert_eq!(Describe::read(b"X\0").expect_err("no such kind").0, "invalid DESCRIBE message subtype 88");
        assert!(Query::read(b"select 1").is_err());
        assert!(Parse::read(b"\0\0\xff\xff").is_err());
    }

    #[test]
    fn a_startup_message_reads_as_postgresql_wants_it() {
        let mut out = BytesMut::new();
        startup_message(&mut out, "u", "d", [("a", "b")]);
        assert_eq!(&out[..], b"\0\0\0\x1f\0\x03\0\0user\0u\0database\0d\0a\0b\0\0");
        out.clear();
        cancel_request(&mut out, 1, &[1, 2, 3, 4]);
        assert_eq!(&out[..], b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x01\x01\x02\x03\x04");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(body in vec(any::<u8>(), 0..200)) {
            drop(Query::read(&body));
            drop(Parse::read(&body).map(|parse| parse.types().count()));
            drop(Bind::read(&body).map(|bind| bind.parameters().count()));
            drop(Describe::read(&body));
            drop(Close::read(&body));
            drop(Execute::read(&body));
            drop(FunctionCall::read(&body));
            drop(CopyFail::read(&body));
            drop(bind_renamed(&mut BytesMut::new(), &body, None, Some(b"s")));
        }

        #[test]
        fn a_parse_round_trips(name in vec(1u8.., 0..20), sql in vec(1u8.., 0..50), types in vec(any::<u32>(), 0..9)) {
            let mut out = BytesMut::new();
            parse(&mut out, &name, &sql, &types);
            let read = Parse::read(body(&out)).expect("what was written");
            prop_assert_eq!((read.name, read.sql), (&name[..], &sql[..]));
            prop_assert_eq!(read.types().collect::<Vec<_>>(), types);
        }

        #[test]
        fn a_bind_keeps_all_but_its_names(
            portal in vec(1u8.., 0..20),
            values in vec(option::of(vec(any::<u8>(), 0..20)), 0..9),
            format in 0i16..2,
        ) {
            let (mut first, mut second) = (BytesMut::new(), BytesMut::new());
            bind(&mut first, &portal, b"old", format, &values, 1 - format);
            bind_renamed(&mut second, body(&first), None, Some(b"a longer name")).expect("a Bind");
            let read = Bind::read(body(&second)).expect("a Bind");
            prop_assert_eq!((read.portal, read.statement), (&portal[..], &b"a longer name"[..]));
            let expected: Vec<_> = values.iter().map(|value| (format, value.as_deref())).collect();
            prop_assert_eq!(read.parameters().collect::<Vec<_>>(), expected);
            prop_assert_eq!(read.result_formats.of(7), 1 - format);
        }
    }
}
