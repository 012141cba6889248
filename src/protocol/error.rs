//! Errors and notices as PostgreSQL sends them.

use std::borrow::Cow;

use pgsluice_sharding::Refusal;

/// How bad it is, in the words of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    Error,
    /// The connection ends.
    Fatal,
    Warning,
    Notice,
}

/// The fields of an ErrorResponse or NoticeResponse that the router itself sends.
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
        }
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

impl From<Refusal> for ErrorFields {
    fn from(refusal: Refusal) -> Self {
        Self {
            severity: Severity::Error,
            sqlstate: refusal.sqlstate.into(),
            message: refusal.message,
            detail: refusal.detail,
            hint: refusal.hint,
            context: None,
            position: refusal.position,
        }
    }
}
