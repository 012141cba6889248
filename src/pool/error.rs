//! Why a client gets no server.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::protocol::{ErrorFields, Severity};

/// Why a connection to an instance could not be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectError {
    /// No connection, or it broke before the login was complete. The text is for the log: it names the address.
    Unreachable {
        text: String,
    },
    Timeout {
        after: Duration,
    },
    /// The server refused the login; `body` is its ErrorResponse without the header.
    Server {
        sqlstate: String,
        body: Bytes,
    },
    /// The two sides could not agree on who is who: no password, a wrong server signature, an unknown method.
    Authentication {
        text: String,
    },
    /// The server does not speak the protocol.
    Protocol {
        text: &'static str,
    },
}

impl ConnectError {
    pub fn sqlstate(&self) -> &str {
        match self {
            Self::Unreachable { .. } | Self::Timeout { .. } => "08006",
            Self::Server { sqlstate, .. } => sqlstate,
            Self::Authentication { .. } => "28000",
            Self::Protocol { .. } => "08P01",
        }
    }

    /// Whether the same attempt may succeed later without anybody changing a setting.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Timeout { .. } => true,
            // Connection exceptions, insufficient resources (53300), operator intervention (57P01-57P03), system errors.
            Self::Server { sqlstate, .. } => ["08", "53", "57", "58"].iter().any(|class| sqlstate.starts_with(class)),
            Self::Authentication { .. } | Self::Protocol { .. } => false,
        }
    }
}

impl ConnectError {
    fn fields(&self) -> ErrorFields {
        match self {
            Self::Server { body, .. } => ErrorFields { severity: Severity::Error, ..ErrorFields::parse(body) },
            Self::Unreachable { .. } => ErrorFields::error("08006", "the server cannot be reached"),
            Self::Timeout { after } => {
                ErrorFields::error("08006", format!("the server did not let the router in within {after:.1?}"))
            }
            Self::Authentication { .. } => ErrorFields::error("28000", "the router could not log in to the server")
                .with_hint("See the router's log for the reason."),
            Self::Protocol { text } => ErrorFields::error("08P01", *text),
        }
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable { text } | Self::Authentication { text } => f.write_str(text),
            Self::Timeout { after } => write!(f, "no login within {after:?}"),
            Self::Server { sqlstate, body } => {
                write!(f, "{sqlstate}: {}", String::from_utf8_lossy(error_field(body, b'M').unwrap_or_default()))
            }
            Self::Protocol { text } => f.write_str(text),
        }
    }
}

impl std::error::Error for ConnectError {}

/// Why a waiter got no server.
#[derive(Clone, Debug)]
pub enum Refusal {
    WaitTimeout {
        waited: Duration,
        /// What stands in the way of new servers, if that is known.
        last_error: Option<Arc<ConnectError>>,
    },
    TooManyWaiting {
        max: u32,
    },
    Disabled,
    Connect(Arc<ConnectError>),
}

impl Refusal {
    pub fn sqlstate(&self) -> &str {
        match self {
            Self::WaitTimeout { .. } | Self::TooManyWaiting { .. } => "53300",
            Self::Disabled => "57P03",
            Self::Connect(error) => error.sqlstate(),
        }
    }

    /// What the client is told. A server's own error keeps its code and words; the client's connection stays, so it is an ERROR.
    /// No text of the router names hosts.
    pub fn into_fields(self) -> ErrorFields {
        match self {
            Self::WaitTimeout { waited, last_error } => {
                let fields = ErrorFields::error("53300", format!("no server became free within {waited:.1?}"))
                    .with_hint("Raise pool.size or pool.wait_timeout, or make transactions shorter.");
                match last_error {
                    Some(error) => {
                        fields.with_detail(format!("The last new connection failed ({}).", error.sqlstate()))
                    }
                    None => fields,
                }
            }
            Self::TooManyWaiting { max } => {
                ErrorFields::error("53300", format!("{max} clients already wait for a server of this pool"))
                    .with_hint("Raise pool.waiting_max or pool.size.")
            }
            Self::Disabled => ErrorFields::error("57P03", "the database is disabled"),
            Self::Connect(error) => error.fields(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WaitTimeout { waited, .. } => write!(f, "no server within {waited:?}"),
            Self::TooManyWaiting { max } => write!(f, "{max} clients already wait"),
            Self::Disabled => f.write_str("the database is disabled"),
            Self::Connect(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Refusal {}

/// One field of the body of an ErrorResponse or NoticeResponse.
pub fn error_field(body: &[u8], code: u8) -> Option<&[u8]> {
    let fields = body.split(|&b| b == 0).take_while(|f| !f.is_empty());
    fields.filter_map(|f| f.split_first()).find(|&(&c, _)| c == code).map(|(_, value)| value)
}
