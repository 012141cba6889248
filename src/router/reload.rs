//! The configuration read again: all of it takes effect, or nothing.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use super::Shared;
use super::database::Database;
use super::worker::Message;
use crate::admin::MAX_USER_CONNECTIONS;
use crate::config::{self, Config, Problem, Written, reload};
use crate::net::startup::Context;

/// Why a setting is not set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NotSet {
    /// Read once, at start.
    Fixed(String),
    /// It says where rows are.
    PlacesRows(String),
    /// A limit of PgBouncer that Sluice does not have.
    Nothing(String),
    /// What the check of a file says.
    Wrong(Vec<String>),
}

impl Shared {
    /// Reads the configuration again. Gives what takes effect only after a restart.
    ///
    /// Clients that are there stay; their next transaction is served by the new settings.
    ///
    /// # Errors
    /// What is wrong with it, one line each; everything stays as it was.
    pub(super) async fn reload(self: Arc<Self>) -> Result<Vec<String>, Vec<String>> {
        let _alone = self.reloading.lock().await;
        let result = self.reread().and_then(|new| self.take_over(new));
        match &result {
            Ok(later) => {
                tracing::info!("the configuration was read again");
                later.iter().for_each(|change| tracing::warn!("{change}"));
            }
            Err(problems) => problems.iter().for_each(|problem| tracing::error!("not reloaded: {problem}")),
        }
        let later = result?;
        self.refresh_catalogs().await;
        Ok(later)
    }

    /// Changes one setting until the next reload or restart; `key` is a name of SHOW CONFIG.
    ///
    /// # Errors
    /// Why not; everything stays as it was.
    pub(super) async fn set(self: Arc<Self>, key: String, value: Written) -> Result<(), NotSet> {
        let _alone = self.reloading.lock().await;
        let old = self.config();
        let name = Config::key_of(&key);
        if key == MAX_USER_CONNECTIONS {
            return Err(NotSet::Nothing(key));
        }
        if reload::places_rows(name) {
            return Err(NotSet::PlacesRows(key));
        }
        if reload::is_fixed(name) {
            return Err(NotSet::Fixed(key));
        }
        let texts = |problems: Vec<Problem>| problems.into_iter().map(|problem| problem.text).collect();
        let new = old.with(&key, &value).map_err(|problems| NotSet::Wrong(texts(problems)))?;
        self.take_over(new).map_err(NotSet::Wrong)?;
        if name.starts_with("database.") {
            self.refresh_catalogs().await;
        }
        Ok(())
    }

    /// Other rules make other plans: they hold when this returns.
    async fn refresh_catalogs(&self) {
        for database in self.database_list() {
            if let Err(error) = database.catalog.refresh_all().await {
                tracing::warn!(database = database.config.name, %error, "the catalog cannot be loaded from any shard");
            }
        }
    }

    fn reread(&self) -> Result<Config, Vec<String>> {
        match &self.reread {
            Some(reread) => reread(),
            None => Err(vec!["this router was started without a file that could be read again".to_owned()]),
        }
    }

    /// Gives what takes effect only after a restart.
    fn take_over(&self, mut new: Config) -> Result<Vec<String>, Vec<String>> {
        let old = self.config();
        let misplaced = reload::misplaced(&old, &new);
        if !misplaced.is_empty() {
            return Err(misplaced);
        }
        let later = keep_what_is_fixed(&old, &mut new);
        let context = Context::new(&new, self.random.salt_key).map_err(|error| vec![error.to_string()])?;
        for change in reload::diff(&old, &new) {
            tracing::info!("{change}");
        }
        let new = Arc::new(new);
        *self.context.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(context);
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = new.clone();
        self.directory.reload(new);
        self.make_databases();
        self.tell_all(|| Message::Reload);
        Ok(later)
    }

    /// The databases of the configuration; what is known of those that were there stays known.
    pub(super) fn make_databases(&self) {
        let config = self.config();
        let before = self.databases().clone();
        let databases: HashMap<String, Arc<Database>> = config
            .databases
            .iter()
            .map(|database| {
                let before = before.get(&database.name).map(|before| &**before);
                (database.name.clone(), Arc::new(Database::start(database, &config, self, before)))
            })
            .collect();
        *self.databases.write().unwrap_or_else(PoisonError::into_inner) = databases;
    }
}

/// Puts back what cannot change while the router runs, and says so, one line each.
fn keep_what_is_fixed(old: &Config, new: &mut Config) -> Vec<String> {
    let changes = reload::diff(old, new);
    let later = changes.iter().filter(|change| !change.reloadable);
    let later = later.map(|change| format!("{change} (takes effect after a restart)")).collect();
    new.listen.address = old.listen.address;
    new.listen.http = old.listen.http;
    new.listen.socket_dir.clone_from(&old.listen.socket_dir);
    new.listen.workers = old.listen.workers;
    new.log = old.log.clone();
    for database in &mut new.databases {
        let before = old.databases.iter().find(|before| before.name == database.name);
        if let Some(before) = before
            && (before.buckets != database.buckets || names(before) != names(database))
        {
            *database = before.clone();
        }
    }
    later
}

fn names(database: &config::Database) -> Vec<&str> {
    database.shards.iter().map(|shard| shard.name.as_str()).collect()
}
