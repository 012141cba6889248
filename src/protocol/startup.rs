//! The first packets of a connection: a length, a code, no tag.
//!
//! They come from anybody who can reach the port, so everything about them is bounded.

use std::borrow::Cow;

use crate::protocol::error::ErrorFields;
use crate::protocol::reader::Reader;

/// Bytes after the length field, as in PostgreSQL (`MAX_STARTUP_PACKET_LENGTH`).
pub const STARTUP_BYTES_MAX: usize = 10_000;

/// Bytes of a cancel key, as in PostgreSQL 18 (`MAX_CANCEL_KEY_LENGTH`).
pub const CANCEL_SECRET_BYTES_MAX: usize = 256;

pub const PROTOCOL_3_0: u32 = 3 << 16;
/// The newest that the router speaks.
pub const PROTOCOL_LATEST: u32 = 3 << 16 | 2;
pub const CANCEL_REQUEST: u32 = 80_877_102;
pub const SSL_REQUEST: u32 = 80_877_103;
pub const GSSENC_REQUEST: u32 = 80_877_104;

/// What a client may begin with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    SslRequest,
    GssEncRequest,
    Cancel { pid: i32, secret: Vec<u8> },
    Startup(Startup),
}

/// A client that wants to log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Startup {
    /// The protocol that will be spoken: what the client asked for, or the newest that the router speaks.
    pub minor: u16,
    /// Set when the client must be told about another version or about `_pq_.` options that are not known.
    pub negotiate: Option<Negotiate>,
    pub user: String,
    pub database: String,
    /// Run-time parameters, those of `options` merged in; each name once.
    pub parameters: Vec<(String, String)>,
}

/// The content of a NegotiateProtocolVersion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negotiate {
    pub version: u32,
    pub unknown_options: Vec<String>,
}

/// A first packet that is not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadStartup {
    /// Whoever sent this does not speak the protocol: the connection is closed without a word, as PostgreSQL does.
    Drop(&'static str),
    /// The client is told.
    Fatal(Box<ErrorFields>),
}

impl From<Box<ErrorFields>> for BadStartup {
    fn from(fields: Box<ErrorFields>) -> Self {
        Self::Fatal(fields)
    }
}

impl From<ErrorFields> for BadStartup {
    fn from(fields: ErrorFields) -> Self {
        Self::Fatal(Box::new(fields))
    }
}

impl Packet {
    /// The packet at the start of `bytes` and its length, or `None` while it is not whole.
    /// Bad lengths are found as soon as the first four bytes are there.
    ///
    /// # Errors
    /// The packet is refused.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, BadStartup> {
        let Some(head) = bytes.first_chunk::<4>() else { return Ok(None) };
        let total = u32::from_be_bytes(*head) as usize;
        if !(8..=STARTUP_BYTES_MAX + 4).contains(&total) {
            return Err(BadStartup::Drop("invalid length of startup packet"));
        }
        let Some(packet) = bytes.get(4..total) else { return Ok(None) };
        Ok(Some((Self::parse_body(packet)?, total)))
    }

    /// `packet` is what follows the length, four bytes or more.
    fn parse_body(packet: &[u8]) -> Result<Self, BadStartup> {
        let mut reader = Reader::new(packet);
        let code = reader.u32().map_err(|_| BadStartup::Drop("invalid length of startup packet"))?;
        match code {
            SSL_REQUEST => Ok(Self::SslRequest),
            GSSENC_REQUEST => Ok(Self::GssEncRequest),
            CANCEL_REQUEST => {
                let pid = reader.i32().map_err(|_| BadStartup::Drop("invalid length of cancel request packet"))?;
                let secret = reader.rest();
                if !(1..=CANCEL_SECRET_BYTES_MAX).contains(&secret.len()) {
                    return Err(BadStartup::Drop("invalid length of cancel key in cancel request packet"));
                }
                Ok(Self::Cancel { pid, secret: secret.to_vec() })
            }
            version if version >> 16 == 3 => Startup::parse(version, reader.rest()).map(Self::Startup),
            version => Err(unsupported_version(version).into()),
        }
    }
}

/// What a client hears that asks for another major version (or for TLS a second time: PostgreSQL sees a version there).
pub fn unsupported_version(version: u32) -> ErrorFields {
    let (major, minor) = (version >> 16, version & 0xffff);
    ErrorFields::fatal(
        "0A000",
        format!("unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.{}", PROTOCOL_LATEST & 0xffff),
    )
}

/// What stands in the packet, sorted by who needs it.
#[derive(Default)]
struct Entries<'a> {
    user: Option<Cow<'a, str>>,
    database: Option<Cow<'a, str>>,
    options: Option<Cow<'a, str>>,
    parameters: Vec<(&'a str, &'a str)>,
    unknown_options: Vec<String>,
}

impl Startup {
    fn parse(version: u32, body: &[u8]) -> Result<Self, BadStartup> {
        let entries = Entries::read(body)?;
        let spoken = version.min(PROTOCOL_LATEST);
        let negotiate = (spoken != version || !entries.unknown_options.is_empty())
            .then_some(Negotiate { version: spoken, unknown_options: entries.unknown_options });
        let user = match entries.user {
            Some(user) if !user.is_empty() => user.into_owned(),
            _ => {
                return Err(ErrorFields::fatal("28000", "no PostgreSQL user name specified in startup packet").into());
            }
        };
        let database = match entries.database {
            Some(database) if !database.is_empty() => database.into_owned(),
            _ => user.clone(),
        };
        // PostgreSQL applies `options` first: a parameter of the packet wins.
        let mut parameters = match entries.options {
            Some(options) => parse_options(&options)?,
            None => Vec::new(),
        };
        for (name, value) in entries.parameters {
            set(&mut parameters, name.to_owned(), value.to_owned());
        }
        Ok(Self { minor: (spoken & 0xffff) as u16, negotiate, user, database, parameters })
    }
}

impl<'a> Entries<'a> {
    fn read(body: &'a [u8]) -> Result<Self, BadStartup> {
        let bad_layout = || {
            let text = "invalid startup packet layout: expected terminator as last byte";
            BadStartup::from(ErrorFields::fatal("08P01", text))
        };
        let mut entries = Self::default();
        let mut reader = Reader::new(body);
        loop {
            let name = text(reader.cstr().map_err(|_| bad_layout())?)?;
            if name.is_empty() {
                break;
            }
            let value = text(reader.cstr().map_err(|_| bad_layout())?)?;
            entries.sort_in(name, value)?;
        }
        if reader.rest().is_empty() { Ok(entries) } else { Err(bad_layout()) }
    }

    fn sort_in(&mut self, name: &'a str, value: &'a str) -> Result<(), BadStartup> {
        match name {
            "user" => self.user = Some(value.into()),
            "database" => self.database = Some(value.into()),
            "options" => self.options = Some(value.into()),
            "replication" => check_replication(value)?,
            _ if name.starts_with("_pq_.") => self.unknown_options.push(name.to_owned()),
            _ => self.parameters.push((name, value)),
        }
        Ok(())
    }
}

/// PostgreSQL's booleans: any unambiguous beginning of true, yes, on, false, no, off; 1; 0.
fn parse_bool(value: &str) -> Option<bool> {
    let value = value.to_ascii_lowercase();
    let begins = |word: &str, least: usize| value.len() >= least && word.starts_with(&value);
    if begins("true", 1) || begins("yes", 1) || begins("on", 2) || value == "1" {
        Some(true)
    } else if begins("false", 1) || begins("no", 1) || begins("off", 2) || value == "0" {
        Some(false)
    } else {
        None
    }
}

fn check_replication(value: &str) -> Result<(), BadStartup> {
    let wanted = if value == "database" { Some(true) } else { parse_bool(value) };
    match wanted {
        Some(false) => Ok(()),
        Some(true) => Err(ErrorFields::fatal("0A000", "replication connections are not supported by the router")
            .with_hint("Connect to the PostgreSQL server itself for replication.")
            .into()),
        None => Err(ErrorFields::fatal("22023", format!("invalid value for parameter \"replication\": \"{value}\""))
            .with_hint("Valid values are: \"false\", 0, \"true\", 1, \"database\".")
            .into()),
    }
}

fn text(bytes: &[u8]) -> Result<&str, BadStartup> {
    let message = "invalid byte sequence for encoding \"UTF8\" in startup packet";
    std::str::from_utf8(bytes).map_err(|_| ErrorFields::fatal("22021", message).into())
}

/// Gives `name` its value; names are equal whatever their case.
fn set(parameters: &mut Vec<(String, String)>, name: String, value: String) {
    match parameters.iter_mut().find(|(known, _)| known.eq_ignore_ascii_case(&name)) {
        Some((_, old)) => *old = value,
        None => parameters.push((name, value)),
    }
}

/// Names that mean something else in a startup packet. Were they let through as run-time parameters,
/// a client could choose the user that the router logs in as.
fn is_reserved(name: &str) -> bool {
    ["user", "database", "options", "replication"].iter().any(|reserved| name.eq_ignore_ascii_case(reserved))
        || name.starts_with("_pq_.")
}

/// The parameters in the command line that `options` is: `-c name=value`, `-cname=value`, `--name=value`.
///
/// # Errors
/// An argument is none of these, or has no value.
pub fn parse_options(options: &str) -> Result<Vec<(String, String)>, Box<ErrorFields>> {
    let mut parameters = Vec::new();
    let mut arguments = split_options(options).into_iter();
    while let Some(argument) = arguments.next() {
        let (switch, setting) = match argument.strip_prefix("-c") {
            Some("") => ("-c ", arguments.next().ok_or_else(|| bad_argument("-c"))?),
            Some(setting) => ("-c ", setting.to_owned()),
            None => match argument.strip_prefix("--") {
                Some(setting) if !setting.is_empty() => ("--", setting.to_owned()),
                _ => return Err(bad_argument(&argument).into()),
            },
        };
        let Some((name, value)) = setting.split_once('=') else {
            return Err(ErrorFields::fatal("42601", format!("{switch}{setting} requires a value")).into());
        };
        let name = name.replace('-', "_");
        if name.is_empty() || is_reserved(&name) {
            return Err(ErrorFields::fatal("42704", format!("unrecognized configuration parameter \"{name}\"")).into());
        }
        set(&mut parameters, name, value.to_owned());
    }
    Ok(parameters)
}

fn bad_argument(argument: &str) -> ErrorFields {
    ErrorFields::fatal("42601", format!("invalid command-line argument for server process: {argument}"))
        .with_hint("Only -c name=value and --name=value are understood.")
}

/// Splits at white space; a backslash takes the next character as it is.
fn split_options(options: &str) -> Vec<String> {
    let mut arguments = Vec::new();
    let mut current: Option<String> = None;
    let mut characters = options.chars();
    while let Some(c) = characters.next() {
        match c {
            ' ' | '\t' | '\n' | '\x0b' | '\x0c' | '\r' => arguments.extend(current.take()),
            '\\' => current.get_or_insert_default().extend(characters.next()),
            _ => current.get_or_insert_default().push(c),
        }
    }
    arguments.extend(current);
    arguments
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use bytes::{BufMut, BytesMut};
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::frame::{put_cstr, put_sized};
    use crate::protocol::frontend;

    /// A startup packet of `version` with these entries and a terminator.
    fn packet(version: u32, entries: &[(&str, &str)]) -> BytesMut {
        let mut out = BytesMut::new();
        put_sized(&mut out, |out| {
            out.put_u32(version);
            for (name, value) in entries {
                put_cstr(out, name.as_bytes());
                put_cstr(out, value.as_bytes());
            }
            out.put_u8(0);
        });
        out
    }

    fn startup(version: u32, entries: &[(&str, &str)]) -> Startup {
        match Packet::parse(&packet(version, entries)) {
            Ok(Some((Packet::Startup(startup), _))) => startup,
            other => panic!("{other:?}"),
        }
    }

    fn fatal(bytes: &[u8]) -> ErrorFields {
        match Packet::parse(bytes) {
            Err(BadStartup::Fatal(fields)) => *fields,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn absurd_lengths_are_dropped_at_once() {
        for length in [0u32, 1, 3, 4, 5, 7, 10_005, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff] {
            assert_eq!(
                Packet::parse(&length.to_be_bytes()),
                Err(BadStartup::Drop("invalid length of startup packet")),
                "{length}"
            );
        }
        assert!(matches!(Packet::parse(b"GET / HTTP/1.1\r\n\r\n"), Err(BadStartup::Drop(_))));
        assert_eq!(Packet::parse(&10_004u32.to_be_bytes()), Ok(None));
    }

    #[test]
    fn requests_without_a_body() {
        let mut out = BytesMut::new();
        frontend::ssl_request(&mut out);
        assert_eq!(Packet::parse(&out), Ok(Some((Packet::SslRequest, 8))));
        assert_eq!(Packet::parse(b"\0\0\0\x08\x04\xd2\x16\x30"), Ok(Some((Packet::GssEncRequest, 8))));
    }

    #[test]
    fn cancel_keys_have_1_to_256_bytes() {
        for (length, good) in [(0, false), (1, true), (4, true), (32, true), (256, true), (257, false)] {
            let (mut out, secret) = (BytesMut::new(), vec![7; length]);
            frontend::cancel_request(&mut out, -1, &secret);
            match Packet::parse(&out) {
                Ok(Some((Packet::Cancel { pid: -1, secret: read }, _))) if good => assert_eq!(read, secret),
                Err(BadStartup::Drop(_)) if !good => {}
                other => panic!("{length}: {other:?}"),
            }
        }
    }

    #[test]
    fn versions_are_negotiated_as_postgresql_does() {
        let user = [("user", "u")];
        assert_eq!((startup(PROTOCOL_3_0, &user).minor, startup(PROTOCOL_3_0, &user).negotiate), (0, None));
        assert_eq!((startup(PROTOCOL_LATEST, &user).minor, startup(PROTOCOL_LATEST, &user).negotiate), (2, None));
        let newer = startup(3 << 16 | 9999, &user);
        let negotiate = newer.negotiate.expect("a newer version is negotiated");
        assert_eq!((newer.minor, negotiate.version, negotiate.unknown_options.len()), (2, PROTOCOL_LATEST, 0));
        let option = startup(PROTOCOL_3_0, &[("user", "u"), ("_pq_.magic", "1")]);
        let expected = Negotiate { version: PROTOCOL_3_0, unknown_options: vec!["_pq_.magic".into()] };
        assert_eq!(option.negotiate, Some(expected));
        assert_eq!(option.parameters, []);
        let old = fatal(&packet(2 << 16, &user));
        assert_eq!(old.message, "unsupported frontend protocol 2.0: server supports 3.0 to 3.2");
        assert_eq!(old.sqlstate, "0A000");
    }

    #[test]
    fn the_database_defaults_to_the_user_and_the_user_is_needed() {
        assert_eq!(startup(PROTOCOL_3_0, &[("user", "u")]).database, "u");
        assert_eq!(startup(PROTOCOL_3_0, &[("database", "d"), ("user", "u")]).database, "d");
        assert_eq!(fatal(&packet(PROTOCOL_3_0, &[("database", "d")])).sqlstate, "28000");
        assert_eq!(fatal(&packet(PROTOCOL_3_0, &[("user", "")])).sqlstate, "28000");
    }

    #[test]
    fn a_packet_without_its_terminator_is_refused() {
        for body in [&b""[..], b"user\0u\0", b"user\0u", b"user\0", b"user\0u\0\0!", b"\0\0"] {
            let mut out = BytesMut::new();
            put_sized(&mut out, |out| {
                out.put_u32(PROTOCOL_3_0);
                out.put_slice(body);
            });
            assert_eq!(fatal(&out).sqlstate, "08P01", "{body:?}");
        }
    }

    #[test]
    fn replication_is_refused_and_its_absence_is_not() {
        for value in ["true", "on", "1", "database", "y"] {
            assert_eq!(fatal(&packet(PROTOCOL_3_0, &[("user", "u"), ("replication", value)])).sqlstate, "0A000");
        }
        startup(PROTOCOL_3_0, &[("user", "u"), ("replication", "false")]);
        assert_eq!(fatal(&packet(PROTOCOL_3_0, &[("user", "u"), ("replication", "o")])).sqlstate, "22023");
    }

    #[test]
    fn options_follow_the_rules_of_the_command_line() {
        let read = |options| {
            let pairs = parse_options(options)?;
            Ok::<_, Box<ErrorFields>>(pairs.iter().map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>().join("|"))
        };
        assert_eq!(read("  -c a=1 -cb=2\t--c-d=3  ").as_deref(), Ok("a=1|b=2|c_d=3"));
        assert_eq!(read(r"-c search_path=a,\ b\\c").as_deref(), Ok(r"search_path=a, b\c"));
        assert_eq!(read("-c a=1=2 -c A=3").as_deref(), Ok("a=3"));
        assert_eq!(read("-c a= -c b=\\").as_deref(), Ok("a=|b="));
        assert_eq!(read("").as_deref(), Ok(""));
        for (options, sqlstate) in [
            ("-c", "42601"),
            ("-c a", "42601"),
            ("-c=", "42704"),
            ("--", "42601"),
            ("--=x", "42704"),
            ("a=1", "42601"),
            ("-d 5", "42601"),
            ("-c user=postgres", "42704"),
            ("--Database=x", "42704"),
            ("--_pq_.x=1", "42704"),
        ] {
            assert_eq!(read(options).expect_err(options).sqlstate, sqlstate, "{options}");
        }
    }

    #[test]
    fn a_parameter_of_the_packet_beats_options() {
        let entries = [("user", "u"), ("DateStyle", "ISO"), ("options", "-c datestyle=German -c geqo=off")];
        let parameters = startup(PROTOCOL_3_0, &entries).parameters;
        assert_eq!(parameters, [("datestyle".into(), "ISO".into()), ("geqo".into(), "off".into())]);
    }

    #[test]
    fn hostile_options_take_bounded_time() {
        let began = Instant::now();
        for part in ["-c=", "-c= ", " ", "\\", "-", "--=", "-c a=b ", "-c\\ "] {
            drop(parse_options(&part.repeat(STARTUP_BYTES_MAX / part.len())));
        }
        let distinct: String = (0..1200).map(|i| format!("-ca{i}= ")).collect();
        assert_eq!(parse_options(&distinct).map(|p| p.len()), Ok(1200));
        assert!(began.elapsed() < Duration::from_secs(2));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            drop(Packet::parse(&bytes));
            let mut sized = BytesMut::new();
            put_sized(&mut sized, |out| {
                out.put_u32(PROTOCOL_3_0);
                out.put_slice(&bytes);
            });
            drop(Packet::parse(&sized));
        }

        #[test]
        fn arbitrary_options_never_panic(options in "\\PC*") {
            drop(parse_options(&options));
        }
    }
}
