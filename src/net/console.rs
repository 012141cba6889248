//! One client of the console from its login to its end.

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;
use tracing::{debug, info};

use crate::admin::{self, Console, Operator};
use crate::config::Role;
use crate::net::cancel::CancelKey;
use crate::net::client::refuse;
use crate::net::startup::Accepted;
use crate::protocol::backend::{self, TransactionStatus};
use crate::protocol::error::ErrorFields;

/// What drivers want to know of a server.
const PARAMETERS: [(&str, &str); 7] = [
    ("server_version", "17.0"),
    ("server_encoding", "UTF8"),
    ("client_encoding", "UTF8"),
    ("standard_conforming_strings", "on"),
    ("integer_datetimes", "on"),
    ("DateStyle", "ISO, MDY"),
    ("TimeZone", "UTC"),
];

/// Serves the console to a client that has proved who it is, if its role allows that. Nobody gets in
/// who is not in the configuration, however clients are authenticated.
pub async fn serve(accepted: Accepted, key: &CancelKey, router: &impl Operator) {
    let Accepted { mut stream, buffer, user, role, .. } = accepted;
    if role < Role::Stats {
        info!(user, "refused at the console");
        let fields = ErrorFields::fatal("42501", format!("user \"{user}\" may not use the console"))
            .with_hint("The console is for a [[user]] with role = \"stats\" or role = \"admin\".");
        return refuse(stream, &fields).await;
    }
    let mut out = BytesMut::new();
    for (name, value) in PARAMETERS {
        backend::parameter_status(&mut out, name, value);
    }
    backend::backend_key_data(&mut out, key.pid(), key.secret());
    backend::ready_for_query(&mut out, TransactionStatus::Idle);
    let mut console = Console::new(&user, role);
    let work = async {
        stream.write_all_buf(&mut out).await?;
        stream.flush().await?;
        admin::serve(&mut stream, buffer, &mut console, router).await
    };
    match Box::pin(work).await {
        Ok(()) => debug!(user, "client left the console"),
        Err(error) => debug!(user, %error, "client of the console gone"),
    }
}
