//! LISTEN, UNLISTEN, and the way of a notification to its client. The session's channels are heard by
//! a connection that all clients of the database share.

use std::sync::Arc;

use bytes::BytesMut;
use pgsluice_sharding::sql::Command;

use crate::listening::{Lost, Notification};
use crate::protocol::backend::{self, Field};
use crate::protocol::error::ErrorFields;
use crate::session::transaction::ListenChange;

use super::{Conversation, End, Failure};

impl Conversation {
    pub(super) async fn listen(&mut self, command: &Command) -> Result<(), Failure> {
        let (change, tag) = match command {
            Command::Listen(channel) => (ListenChange::Listen(channel.clone()), "LISTEN"),
            Command::Unlisten(Some(channel)) => (ListenChange::Unlisten(channel.clone()), "UNLISTEN"),
            _ => (ListenChange::UnlistenAll, "UNLISTEN"),
        };
        if self.session.transaction.is_idle() {
            self.begin_to_listen(std::slice::from_ref(&change)).await?;
            self.settle_listens(vec![change], true);
        } else {
            self.session.transaction.change_listens(change);
        }
        self.complete(tag);
        Ok(())
    }

    /// The rows of pg_listening_channels().
    pub(super) fn listening_channels(&mut self) {
        for channel in &self.session.listens {
            backend::data_row(&mut self.client.out, &[Some(channel)]);
        }
        let count = self.session.listens.len();
        self.complete(&format!("SELECT {count}"));
    }

    pub(super) fn is_listening(&self) -> bool {
        self.subscription.as_ref().is_some_and(|subscription| subscription.is_listening())
    }

    /// Before the commit: from then on nothing may be missed.
    pub(super) async fn begin_to_listen(&mut self, changes: &[ListenChange]) -> Result<(), Failure> {
        for change in changes {
            let ListenChange::Listen(channel) = change else { continue };
            let id = self.presence.id;
            let subscription = self.subscription.get_or_insert_with(|| Box::new(self.served.listening.subscribe(id)));
            if let Err(reason) = subscription.listen(channel).await {
                let message = format!("cannot listen to \"{channel}\": {reason}");
                let hint = "Notifications are heard by a connection of the router's own; see the first [[user]].";
                return Err(ErrorFields::error("08006", message).with_hint(hint).into());
            }
        }
        Ok(())
    }

    /// After the commit, or after it has failed: what the session listens to is what the changes say,
    /// or what it was.
    pub(super) fn settle_listens(&mut self, changes: Vec<ListenChange>, committed: bool) {
        for change in changes {
            match (change, committed) {
                (ListenChange::Listen(channel), true) => drop(self.session.listens.insert(channel)),
                (ListenChange::Unlisten(channel), true) => drop(self.session.listens.remove(&channel)),
                (ListenChange::UnlistenAll, true) => self.session.listens.clear(),
                (_, false) => {}
            }
        }
        let Some(subscription) = &mut self.subscription else { return };
        subscription.keep_only(&self.session.listens);
        if !subscription.is_listening() {
            self.subscription = None;
        }
    }

    /// A client that listens hears what it has notified itself before it hears that this is done, as
    /// PostgreSQL does it.
    pub(super) async fn catch_up(&mut self) -> Result<(), Failure> {
        if !self.links.iter().any(|link| link.wrote) {
            return Ok(());
        }
        let speaker = self.speaker.take();
        let Some(subscription) = &mut self.subscription else {
            if speaker.is_some() {
                // If it cannot be known, nobody has heard under whose id it was.
                let _ = self.served.listening.catch_up().await;
            }
            return Ok(());
        };
        if subscription.catch_up().await.is_err() {
            return Err(End::Fatal(lost()).into());
        }
        while let Some(heard) = self.subscription.as_mut().and_then(|subscription| subscription.heard()) {
            self.pass_notification(&heard)?;
        }
        Ok(())
    }

    /// NOTIFY is about to run on server `i`: whoever listens is to learn the client's own process id.
    pub(super) async fn announce(&mut self, i: usize) {
        if self.speaker.is_none() && self.served.listening.is_used() {
            let server = self.links[i].server.cancel_handle().key().pid;
            self.speaker = self.served.listening.announce(server, self.presence.pid).await;
        }
    }

    /// Notifications go out with the commit, not before.
    pub(super) async fn catch_up_when_idle(&mut self) -> Result<(), Failure> {
        match self.session.transaction.is_idle() {
            true => self.catch_up().await,
            false => Ok(()),
        }
    }

    /// What came while nothing was asked.
    pub(super) async fn heard(&mut self, heard: Result<Arc<Notification>, Lost>) -> Result<(), End> {
        let Ok(heard) = heard else { return Err(End::Fatal(lost())) };
        self.pass_notification(&heard)?;
        while let Some(heard) = self.subscription.as_mut().and_then(|subscription| subscription.heard()) {
            self.pass_notification(&heard)?;
        }
        self.client.flush().await
    }

    /// Clients tell their own notifications from others' by the process id they were greeted with.
    fn pass_notification(&mut self, heard: &Notification) -> Result<(), End> {
        let own = self.links.iter().any(|link| link.server.cancel_handle().key().pid == heard.pid);
        let pid = if own { self.presence.pid } else { heard.pid };
        if !self.understands(&heard.channel) || !self.understands(&heard.payload) {
            let message = "a notification cannot be converted to the client's encoding";
            let fields = ErrorFields::fatal("0A000", message).with_hint("Set client_encoding to UTF8.");
            return Err(End::Fatal(fields));
        }
        backend::notification_response(&mut self.client.out, pid, &heard.channel, &heard.payload);
        Ok(())
    }
}

/// The one column of pg_listening_channels().
pub(super) fn describe(out: &mut BytesMut, name: &str) {
    backend::row_description(out, &[Field::text(name)]);
}

fn lost() -> ErrorFields {
    ErrorFields::fatal("08006", "the connection that listens for notifications was lost")
        .with_hint("Some notifications may have been missed: connect and LISTEN again.")
}
