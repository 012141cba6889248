//! What the console can do with the router.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pgsluice_sharding::sql::{Limits, Planner};
use tokio::time::sleep;

use super::explain;
use super::reload::NotSet;
use super::worker::Victims;
use super::{Database, Shared};
use crate::admin::{Control, List, Needs, Operator};
use crate::config::Written;
use crate::pool::budget::Mode;
use crate::pool::directory::Control as PoolControl;
use crate::protocol::ErrorFields;
use crate::view::View;

/// How often PAUSE looks whether all servers have come back.
const PAUSE_CHECK: Duration = Duration::from_millis(10);

/// How often WAIT_CLOSE looks; it asks all workers.
const CLOSE_CHECK: Duration = Duration::from_millis(50);

/// The router in an operator's hands.
pub(super) struct Operate(pub(super) Arc<Shared>);

impl Operator for Operate {
    async fn view(&self, needs: Needs) -> View {
        let view = self.0.view(needs).await;
        match needs.has(List::Locks) {
            true => View { lock_waits: self.0.clone().lock_waits().await, ..view },
            false => view,
        }
    }

    async fn control(&self, control: Control) -> Result<Vec<String>, ErrorFields> {
        match control {
            Control::Pause(database) => self.pause(database.as_deref()).await?,
            Control::Suspend => self.suspend().await?,
            Control::Resume(database) => {
                if database.is_none() {
                    self.0.suspend(false).await;
                }
                self.pools(database.as_deref(), PoolControl::Resume)?;
            }
            Control::Reconnect(database) => self.pools(database.as_deref(), PoolControl::Reconnect)?,
            Control::WaitClose(database) => self.wait_close(database.as_deref()).await?,
            Control::Disable(database) => {
                self.exists(&database)?;
                self.0.disabled().insert(database);
            }
            Control::Enable(database) => {
                self.exists(&database)?;
                self.0.disabled().remove(&database);
            }
            Control::Kill(database) => self.kill(database).await?,
            Control::KillClient(id) => self.kill_client(id).await?,
            Control::Reload => return self.reload().await,
            Control::Set { key, value } => self.set(key, value).await?,
            Control::Shutdown(how) => self.0.shutdown(how),
        }
        Ok(Vec::new())
    }

    async fn explain(&self, database: Option<String>, statement: String) -> Result<Vec<String>, ErrorFields> {
        let database = self.database(database.as_deref())?;
        let limits = self.0.config().limits.clone();
        let mut planner = Planner::new(Limits { statement_bytes_max: limits.statement_bytes_max, ..Limits::default() });
        let catalog = database.catalog.current();
        explain::lines(&mut planner, &catalog, &database.map, &database.shard_names(), &statement, false)
    }
}

impl Operate {
    fn database(&self, name: Option<&str>) -> Result<Arc<Database>, ErrorFields> {
        let databases = self.0.databases();
        match name {
            Some(name) => databases.get(name).cloned().ok_or_else(|| unknown(name)),
            None if databases.len() == 1 => {
                databases.values().next().cloned().ok_or_else(|| ErrorFields::error("3D000", "there is no database"))
            }
            None => Err(ErrorFields::error("42601", "there are several databases")
                .with_hint("Write EXPLAIN ROUTE FOR database statement.")),
        }
    }

    fn exists(&self, database: &str) -> Result<(), ErrorFields> {
        if self.0.databases().contains_key(database) { Ok(()) } else { Err(unknown(database)) }
    }

    fn pools(&self, database: Option<&str>, control: PoolControl) -> Result<(), ErrorFields> {
        database.map_or(Ok(()), |name| self.exists(name))?;
        self.0.directory.control(database, control);
        Ok(())
    }

    /// Returns when no server is left: all transactions have ended.
    async fn pause(&self, database: Option<&str>) -> Result<(), ErrorFields> {
        self.pools(database, PoolControl::Pause)?;
        loop {
            let pools = self.0.directory.snapshots(Instant::now());
            let mut concerned = pools.iter().filter(|(key, ..)| database.is_none_or(|name| *key.database == *name));
            if concerned.clone().any(|(_, mode, _)| *mode == Mode::Running) {
                return Err(ErrorFields::error("57014", "RESUME came before all transactions had ended"));
            }
            if concerned.all(|(_, _, pool)| pool.open == 0) {
                return Ok(());
            }
            sleep(PAUSE_CHECK).await;
        }
    }

    /// Returns when every client has its answer, or has not been heard since.
    async fn suspend(&self) -> Result<(), ErrorFields> {
        let mut busy = self.0.suspend(true).await;
        while busy > 0 {
            sleep(PAUSE_CHECK).await;
            if !self.0.suspended.load(std::sync::atomic::Ordering::Relaxed) {
                return Err(ErrorFields::error("57014", "RESUME came before all clients had their answers"));
            }
            busy = self.0.suspend(true).await;
        }
        Ok(())
    }

    /// Returns when no client and no server is left; new clients wait for RESUME.
    async fn kill(&self, database: Option<String>) -> Result<(), ErrorFields> {
        self.pools(database.as_deref(), PoolControl::Pause)?;
        let victims = database.clone().map_or(Victims::All, Victims::Database);
        self.0.kill(&victims).await;
        self.pause(database.as_deref()).await
    }

    async fn kill_client(&self, id: u64) -> Result<(), ErrorFields> {
        match self.0.kill(&Victims::Client(id)).await {
            0 => Err(ErrorFields::error("42704", format!("client {id} not found"))
                .with_hint("It is the column id of SHOW CLIENTS.")),
            _ => Ok(()),
        }
    }

    /// Returns when nobody uses a server any more that is to be replaced.
    async fn wait_close(&self, database: Option<&str>) -> Result<(), ErrorFields> {
        database.map_or(Ok(()), |name| self.exists(name))?;
        let needs = Needs(&[List::Servers]);
        loop {
            let view = self.0.view(needs).await;
            let mut concerned = view.servers.iter().filter(|row| database.is_none_or(|name| row.database == name));
            if !concerned.any(|row| row.close_needed) {
                return Ok(());
            }
            sleep(CLOSE_CHECK).await;
        }
    }

    async fn set(&self, key: String, value: Written) -> Result<(), ErrorFields> {
        let shared = self.0.clone();
        match self.0.control.spawn(async move { shared.set(key, value).await }).await {
            Ok(result) => result.map_err(not_set),
            Err(_) => Err(stopping()),
        }
    }

    async fn reload(&self) -> Result<Vec<String>, ErrorFields> {
        let failed = |problems: Vec<String>| {
            ErrorFields::error("F0000", "not reloaded: the router goes on with the configuration it has")
                .with_detail(problems.join("\n"))
        };
        // On the control thread: files are read, and tasks are begun there.
        let shared = self.0.clone();
        match self.0.control.spawn(async move { shared.reload().await }).await {
            Ok(result) => result.map_err(failed),
            Err(_) => Err(stopping()),
        }
    }
}

fn stopping() -> ErrorFields {
    ErrorFields::error("57P01", "the router is shutting down")
}

fn not_set(why: NotSet) -> ErrorFields {
    match why {
        NotSet::Fixed(key) => {
            ErrorFields::error("55P02", format!("parameter \"{key}\" cannot be changed without restarting the router"))
                .with_hint("Change it in the configuration file and start the router anew.")
        }
        NotSet::PlacesRows(key) => {
            ErrorFields::error("55P02", format!("parameter \"{key}\" says where rows are and cannot be changed"))
                .with_hint("Rows would be looked for where they are not.")
        }
        NotSet::Nothing(key) => ErrorFields::error("0A000", format!("there is no limit {key}"))
            .with_hint("Servers are limited by SET user.NAME.pool.size and database.NAME.pool.size, clients by listen.clients_max."),
        NotSet::Wrong(mut problems) => {
            let first = if problems.is_empty() { String::new() } else { problems.remove(0) };
            let fields = ErrorFields::error("22023", first);
            if problems.is_empty() { fields } else { fields.with_detail(problems.join("\n")) }
        }
    }
}

fn unknown(database: &str) -> ErrorFields {
    ErrorFields::error("3D000", format!("database \"{database}\" does not exist"))
}
