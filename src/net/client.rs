//! One client from its login to its end.

use std::rc::Rc;

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;
use tracing::{debug, info};

use crate::execute::presence::{Origin, Presence};
use crate::execute::worker::{Served, Worker};
use crate::execute::{Client, Conversation, End};
use crate::net::cancel::{CancelKey, CancelKeys};
use crate::net::startup::Accepted;
use crate::protocol::backend::{self, TransactionStatus};
use crate::protocol::error::ErrorFields;
use crate::session::Session;
use crate::session::settings::Settings;
use crate::transport::stream::Stream;

/// Serves a client that has proved who it is, over the database it asked for.
pub async fn serve(accepted: Box<Accepted>, id: u64, served: Rc<Served>, worker: Rc<Worker>, keys: &CancelKeys) {
    let user = accepted.user.clone();
    let key = keys.enter(worker.index, accepted.minor);
    let presence = Presence::new(id, key.pid(), Origin::of(&accepted.stream), served.clone());
    let presence = Rc::new(presence);
    worker.clients.borrow_mut().insert(key.number(), Rc::downgrade(&presence));
    let end = converse(accepted, served, &worker, &presence, &key).await;
    keys.leave(&key);
    worker.clients.borrow_mut().remove(&key.number());
    match end {
        End::ClientLeft => debug!(user, "client left"),
        End::Told => info!(user, "client closed with its server"),
        End::ClientGone(error) => info!(user, %error, "client gone"),
        End::Fatal(fields) => info!(user, sqlstate = %fields.sqlstate, reason = %fields.message, "client closed"),
    }
}

/// The login, and then everything else; what the login needed is let go of in between.
async fn converse(
    accepted: Box<Accepted>,
    served: Rc<Served>,
    worker: &Rc<Worker>,
    presence: &Rc<Presence>,
    key: &CancelKey,
) -> End {
    let logged_in = presence.unless_killed(Box::pin(log_in(accepted, served, worker, presence, key))).await;
    let conversation = match logged_in {
        Some(Ok(conversation)) => conversation,
        Some(Err(end)) => return end,
        None => return End::Fatal(ErrorFields::fatal("57P01", "killed at its login")),
    };
    conversation.run().await
}

/// Tells a client why it is not served, and closes.
pub async fn refuse(mut stream: Stream, fields: &ErrorFields) {
    let mut out = BytesMut::new();
    backend::error_response(&mut out, fields);
    // The client may have gone; there is nobody else to tell.
    drop(stream.write_all(&out).await);
    drop(stream.shutdown().await);
}

/// From AuthenticationOk to the first ReadyForQuery.
async fn log_in(
    accepted: Box<Accepted>,
    served: Rc<Served>,
    worker: &Rc<Worker>,
    presence: &Rc<Presence>,
    key: &CancelKey,
) -> Result<Box<Conversation>, End> {
    let Accepted { stream, buffer, user, database, parameters, .. } = *accepted;
    served.stats.client_logins.add(1);
    let settings =
        worker.intern(Settings::of_startup(parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()))));
    let shards = u16::try_from(served.shards.len()).unwrap_or(u16::MAX);
    let statements_max = worker.limits().statements_per_client_max;
    let session = Session::new(user.into(), database.into(), settings, shards, statements_max);
    let client = Client::new(stream, &buffer, worker.clone());
    let mut conversation = Conversation::new(client, session, served, worker.clone(), presence.clone());
    let greeting = match conversation.greeting().await {
        Ok(greeting) => greeting,
        Err(end) => return Err(conversation.end(end).await),
    };
    let out = conversation.out();
    for (name, value) in greeting.iter() {
        backend::parameter_status(out, name, value);
    }
    let application = parameters.iter().find(|(name, _)| name.eq_ignore_ascii_case("application_name"));
    backend::parameter_status(out, "application_name", application.map_or("", |(_, name)| name));
    backend::backend_key_data(out, key.pid(), key.secret());
    backend::ready_for_query(out, TransactionStatus::Idle);
    Ok(Box::new(conversation))
}
