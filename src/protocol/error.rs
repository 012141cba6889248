//! Errors and notices as PostgreSQL sends them.

use std::borrow::Cow;

use pgsluice_sharding::Refusal;

use crate::protocol::reader::Reader;

/// How bad it is, in the words of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    Error,
    /// The connection ends.
    Fatal,
    Warning,
    Notice,
    /// The server goes down.
    Panic,
    Info,
    Log,
    Debug,
}

impl Severity {
    /// As it stands in the fields S and V.
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "ERROR",
            Self::Fatal => "FATAL",
            Self::Warning => "WARNING",
            Self::Notice => "NOTICE",
            Self::Panic => "PANIC",
            Self::Info => "INFO",
            Self::Log => "LOG",
            Self::Debug => "DEBUG",
        }
    }

    /// The severity of a field V; `None` for a word in another language (field S).
    pub fn from_name(name: &[u8]) -> Option<Self> {
        const ALL: [Severity; 8] = [
            Severity::Error,
            Severity::Fatal,
            Severity::Warning,
            Severity::Notice,
            Severity::Panic,
            Severity::Info,
            Severity::Log,
            Severity::Debug,
        ];
        ALL.into_iter().find(|severity| severity.name().as_bytes() == name)
    }
}

/// The fields of an ErrorResponse or NoticeResponse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorFields {
    pub severity: Severity,
    pub sqlstate: Cow<'static, str>,
    pub message: Cow<'static, str>,
    pub detail: Option<Cow<'static, str>>,
    pub hint: Option<Cow<'static, str>>,
    pub context: Option<Cow<'static, str>>,
    /// 1-based, in characters.
    pub position: Option<u32>,
    /// What only servers say, by its letter: schema `s`, table `t`, column `c`, constraint `n`, file `F`, line `L`, ...
    pub other: Vec<(u8, String)>,
}

impl ErrorFields {
    pub fn new(severity: Severity, sqlstate: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            severity,
            sqlstate: sqlstate.into(),
            message: message.into(),
            detail: None,
            hint: None,
            context: None,
            position: None,
            other: Vec::new(),
        }
    }

    /// What PostgreSQL says of a prepared statement that would give other rows than it was described with. Drivers know it by the name of the
    /// function (`R`) and prepare again.
    pub fn outdated_plan() -> Self {
        let mut fields = Self::error("0A000", "cached plan must not change result type");
        fields.other.push((b'R', "RevalidateCachedQuery".to_owned()));
        fields
    }

    /// Reads the body of an ErrorResponse or NoticeResponse.
    ///
    /// A peer may leave out or garble any field (the SQLSTATE too): what is missing is replaced, nothing is refused.
    pub fn parse(body: &[u8]) -> Self {
        let mut fields = Self::error("XX000", "the server sent an error without a message");
        let mut reader = Reader::new(body);
        let mut severity = None;
        while let Ok(letter @ 1..) = reader.u8() {
            let Ok(value) = reader.cstr() else { break };
            match letter {
                b'S' => severity = severity.or(Severity::from_name(value)),
                b'V' => severity = Severity::from_name(value).or(severity),
                b'C' if value.len() == 5 && value.iter().all(u8::is_ascii_alphanumeric) => {
                    fields.sqlstate = lossy(value).into();
                }
                b'C' => {}
                b'M' => fields.message = lossy(value).into(),
                b'D' => fields.detail = Some(lossy(value).into()),
                b'H' => fields.hint = Some(lossy(value).into()),
                b'W' => fields.context = Some(lossy(value).into()),
                b'P' => fields.position = lossy(value).parse().ok(),
                _ => fields.other.push((letter, lossy(value))),
            }
        }
        fields.severity = severity.unwrap_or(Severity::Error);
        fields
    }

    /// The fields with their letters, in PostgreSQL's order.
    pub(crate) fn to_wire(&self) -> Vec<(u8, String)> {
        let severity = self.severity.name().to_owned();
        let mut wire = vec![
            (b'S', severity.clone()),
            (b'V', severity),
            (b'C', self.sqlstate.to_string()),
            (b'M', self.message.to_string()),
        ];
        let optional = [(b'D', &self.detail), (b'H', &self.hint), (b'W', &self.context)];
        wire.extend(optional.into_iter().filter_map(|(letter, text)| Some((letter, text.as_ref()?.to_string()))));
        wire.extend(self.position.map(|position| (b'P', position.to_string())));
        wire.extend(self.other.iter().cloned());
        for (_, text) in &mut wire {
            // A NUL would end the field and turn the rest of the text into fields.
            if text.contains('\0') {
                *text = text.replace('\0', "\u{fffd}");
            }
        }
        wire
    }

    pub fn error(sqlstate: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Severity::Error, sqlstate, message)
    }

    pub fn fatal(sqlstate: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Severity::Fatal, sqlstate, message)
    }

    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.detail = Some(detail.into());
        self
    }
}

/// Where errors point in a text in which a name was replaced. All are counted in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shift {
    /// What stands in front of the server's text in the client's.
    pub before: u32,
    /// The position of the name in the server's text, counted from 1.
    pub name: u32,
    /// How much longer the client's name is.
    pub longer: i32,
}

impl Shift {
    /// The position in the client's text of what is at `position` in the server's.
    pub fn apply(self, position: u32) -> u32 {
        let longer = if position > self.name { self.longer } else { 0 };
        position.saturating_add(self.before).saturating_add_signed(longer)
    }
}

impl From<Refusal> for ErrorFields {
    fn from(refusal: Refusal) -> Self {
        Self {
            severity: Severity::Error,
            sqlstate: refusal.sqlstate.into(),
            message: refusal.message,
            detail: refusal.detail,
            hint: refusal.hint,
            context: refusal.context,
            position: refusal.position,
            other: Vec::new(),
        }
    }
}

fn lossy(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::backend;

    #[test]
    fn positions_point_into_the_clients_text() {
        // `SELECT 1; EXECUTE "a b"(nope)` has reached the server as `EXECUTE sluice(nope)`.
        let shift = Shift { before: 10, name: 9, longer: -1 };
        assert_eq!([shift.apply(9), shift.apply(16)], [19, 25]);
        assert_eq!(Shift { before: u32::MAX, name: 1, longer: i32::MIN }.apply(5), i32::MAX as u32);
    }

    #[test]
    fn an_error_without_sqlstate_is_still_an_error() {
        let fields = ErrorFields::parse(b"Moops\0\0");
        assert_eq!((&*fields.sqlstate, &*fields.message), ("XX000", "oops"));
        assert_eq!(fields.severity, Severity::Error);
        assert_eq!(ErrorFields::parse(b"C\0Mx\0").sqlstate, "XX000");
    }

    #[test]
    fn the_word_that_is_not_translated_wins() {
        assert_eq!(ErrorFields::parse(b"SFATAL\0VPANIC\0\0").severity, Severity::Panic);
        assert_eq!(ErrorFields::parse("SФАТАЛ\0VFATAL\0\0".as_bytes()).severity, Severity::Fatal);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            ErrorFields::parse(&body);
        }

        #[test]
        fn what_is_written_is_read(message in "[^\0]*", detail in proptest::option::of("[^\0]*"), table in "[^\0]+") {
            let mut fields = ErrorFields::fatal("57P01", message);
            fields.detail = detail.map(Into::into);
            fields.position = Some(12);
            fields.other.push((b't', table));
            let mut out = BytesMut::new();
            backend::error_response(&mut out, &fields);
            prop_assert_eq!(ErrorFields::parse(&out[5..]), fields);
        }
    }
}
