//! The clear "no": why a statement is not answered and what would work instead.

use std::borrow::Cow;
use std::fmt;

/// A statement that is not answered, with what the client is told.
///
/// Mostly SQLSTATE `0A000` (feature not supported): the statement is valid, but its answer over
/// several shards is not proved exact. Errors that PostgreSQL itself would give (a syntax error, a
/// value out of range) use PostgreSQL's SQLSTATE and words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Five characters, as in PostgreSQL's errcodes.
    pub sqlstate: &'static str,
    /// One sentence without a full stop, lower case, as PostgreSQL writes its messages.
    pub message: Cow<'static, str>,
    /// More about the reason, a full sentence.
    pub detail: Option<Cow<'static, str>>,
    /// What would work, a full sentence.
    pub hint: Option<Cow<'static, str>>,
    /// Where it happened, as in PostgreSQL's field `W`: `COPY users, line 3, column id: "abc"`.
    pub context: Option<Cow<'static, str>>,
    /// 1-based position in the statement text, in characters, as in PostgreSQL's field `P`.
    pub position: Option<u32>,
}

impl Refusal {
    /// Whether PostgreSQL would have done it.
    pub fn is_unsupported(&self) -> bool {
        self.sqlstate == "0A000"
    }

    /// A refusal with `0A000` and a way out.
    pub fn unsupported(message: impl Into<Cow<'static, str>>, hint: impl Into<Cow<'static, str>>) -> Self {
        Self {
            sqlstate: "0A000",
            message: message.into(),
            detail: None,
            hint: Some(hint.into()),
            context: None,
            position: None,
        }
    }

    /// An error that PostgreSQL would give, with its SQLSTATE.
    pub fn error(sqlstate: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self { sqlstate, message: message.into(), detail: None, hint: None, context: None, position: None }
    }

    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    #[must_use]
    pub fn with_context(mut self, context: impl Into<Cow<'static, str>>) -> Self {
        self.context = Some(context.into());
        self
    }

    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.sqlstate, self.message)?;
        if let Some(detail) = &self.detail {
            write!(f, "\nDETAIL: {detail}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\nHINT: {hint}")?;
        }
        if let Some(context) = &self.context {
            write!(f, "\nCONTEXT: {context}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Refusal {}
