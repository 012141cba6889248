//! The list of SHOW commands: name -> table.

mod pgbouncer;
mod sharding;
mod stats;
mod time;

use std::fmt;

use crate::admin::table::Table;
use crate::view::View;

/// One SHOW command.
pub struct Show {
    pub name: &'static str,
    /// Whether it lists every client or every server, which the router then has to gather.
    pub needs: Needs,
    pub table: fn(&View) -> Table,
}

/// The long lists that most commands can do without.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    pub clients: bool,
    pub servers: bool,
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
    Show { name, needs: Needs { clients: false, servers: false }, table }
}

/// All of them; SHOW HELP and the errors print this list.
pub static SHOWS: [Show; 26] = [
    show("CONFIG", pgbouncer::config),
    show("DATABASES", pgbouncer::databases),
    show("POOLS", pgbouncer::pools),
    Show { needs: Needs { clients: true, servers: false }, ..show("CLIENTS", pgbouncer::clients) },
    Show { needs: Needs { clients: false, servers: true }, ..show("SERVERS", pgbouncer::servers) },
    show("USERS", pgbouncer::users),
    show("VERSION", pgbouncer::version),
    show("LISTS", pgbouncer::lists),
    show("MEM", pgbouncer::memory),
    show("STATE", pgbouncer::state),
    show("PEERS", pgbouncer::peers),
    show("PEER_POOLS", pgbouncer::peer_pools),
    show("DNS_HOSTS", pgbouncer::dns_hosts),
    show("DNS_ZONES", pgbouncer::dns_zones),
    Show { needs: Needs { clients: true, servers: true }, ..show("SOCKETS", pgbouncer::sockets) },
    Show { needs: Needs { clients: true, servers: true }, ..show("ACTIVE_SOCKETS", pgbouncer::active_sockets) },
    show("STATS", stats::stats),
    show("STATS_TOTALS", stats::totals),
    show("STATS_AVERAGES", stats::averages),
    show("TOTALS", stats::sums),
    show("SHARDS", sharding::shards),
    show("INSTANCES", sharding::instances),
    show("TABLES", sharding::tables),
    show("PROBLEMS", sharding::problems),
    Show { needs: Needs { clients: true, servers: false }, ..show("PINS", sharding::pins) },
    Show { needs: Needs { clients: true, servers: false }, ..show("WAITING", sharding::waiting) },
];
