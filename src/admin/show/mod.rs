//! The list of SHOW commands: name -> table.

mod pgbouncer;
mod sharding;
mod stats;
mod time;
mod work;

use std::fmt;

use crate::admin::table::Table;
use crate::view::View;

/// One SHOW command.
pub struct Show {
    pub name: &'static str,
    /// The long lists that it shows, which the router then has to gather.
    pub needs: Needs,
    pub table: fn(&View) -> Table,
}

/// What is long, and gathered only for whoever shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    Clients,
    Servers,
    Queries,
    /// Who waits for locks; the instances are asked.
    Locks,
}

/// The long lists that a reader needs; most do without any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs(pub &'static [List]);

impl Needs {
    pub fn has(self, list: List) -> bool {
        self.0.contains(&list)
    }
}

impl fmt::Debug for Show {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SHOW {}", self.name)
    }
}

impl PartialEq for Show {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Show {}

const fn show(name: &'static str, table: fn(&View) -> Table) -> Show {
    Show { name, needs: Needs(&[]), table }
}

const fn long(name: &'static str, lists: &'static [List], table: fn(&View) -> Table) -> Show {
    Show { name, needs: Needs(lists), table }
}

/// All of them; SHOW HELP and the errors print this list.
pub static SHOWS: [Show; 28] = [
    show("CONFIG", pgbouncer::config),
    show("DATABASES", pgbouncer::databases),
    show("POOLS", pgbouncer::pools),
    long("CLIENTS", &[List::Clients], pgbouncer::clients),
    long("SERVERS", &[List::Servers], pgbouncer::servers),
    show("USERS", pgbouncer::users),
    show("VERSION", pgbouncer::version),
    show("LISTS", pgbouncer::lists),
    show("MEM", pgbouncer::memory),
    show("STATE", pgbouncer::state),
    show("PEERS", pgbouncer::peers),
    show("PEER_POOLS", pgbouncer::peer_pools),
    show("DNS_HOSTS", pgbouncer::dns_hosts),
    show("DNS_ZONES", pgbouncer::dns_zones),
    long("SOCKETS", &[List::Clients, List::Servers], pgbouncer::sockets),
    long("ACTIVE_SOCKETS", &[List::Clients, List::Servers], pgbouncer::active_sockets),
    show("STATS", stats::stats),
    show("STATS_TOTALS", stats::totals),
    show("STATS_AVERAGES", stats::averages),
    show("TOTALS", stats::sums),
    show("SHARDS", sharding::shards),
    show("INSTANCES", sharding::instances),
    show("TABLES", sharding::tables),
    show("PROBLEMS", sharding::problems),
    long("PINS", &[List::Clients], work::pins),
    long("WAITING", &[List::Clients, List::Servers, List::Locks], work::waiting),
    long("TRANSACTIONS", &[List::Clients, List::Servers], work::transactions),
    long("QUERIES", &[List::Queries], work::queries),
];
