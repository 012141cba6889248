//! Asks the instances how they are: the I/O of health checks. What the answers mean is decided by
//! whoever takes the [`ProbeResult`]s.
//!
//! One round of a shard asks its primary first and the others only after the answer. So when a
//! replica reports that it has replayed the primary's position, it has everything that was committed
//! before the round began: its data is at most as old as [`Reference::asked`].

use std::fmt;
use std::time::{Duration, Instant};

use pgsluice_sharding::map::ShardId;
use tokio::task::JoinSet;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage, SimpleQueryRow};

/// The role, the position, whether two-phase commit is possible, and a primary's timeline: the first
/// eight digits of the name of its current log file, which is right at once after a promotion.
const PROBE: &str = "\
SELECT pg_catalog.pg_is_in_recovery(), \
  CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() \
    ELSE pg_catalog.pg_current_wal_insert_lsn() END, \
  pg_catalog.current_setting('max_prepared_transactions'), \
  CASE WHEN NOT pg_catalog.pg_is_in_recovery() \
    THEN pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()) END";

/// Who a PostgreSQL is: its replicas say the same. Some providers do not let users ask.
const CLUSTER: &str = "SELECT system_identifier FROM pg_catalog.pg_control_system()";

/// A position in the write-ahead log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    /// Reads PostgreSQL's form: two hexadecimal halves, `16/B374D848`.
    pub fn parse(text: &str) -> Option<Self> {
        let (high, low) = text.split_once('/')?;
        let half = |digits: &str| u32::from_str_radix(digits, 16).ok();
        Some(Self(u64::from(half(high)?) << 32 | u64::from(half(low)?)))
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

/// What an instance said of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    pub in_recovery: bool,
    /// Written (a primary) or replayed (a replica) up to here; `None` for a replica that has not
    /// replayed anything yet.
    pub lsn: Option<Lsn>,
    /// 0: this instance takes no part in a commit over several shards.
    pub max_prepared_transactions: u32,
    /// Rises with every promotion: of two that call themselves primary, the higher one is. 0 for a
    /// replica.
    pub timeline: u32,
    /// The system identifier, which a primary and its replicas share; `None` where it may not be asked.
    pub cluster: Option<i64>,
}

impl Probe {
    /// The timeline on which it says it is the primary.
    fn claim(&self) -> Option<u32> {
        (!self.in_recovery).then_some(self.timeline)
    }
}

/// Where the primary of the shard was in this round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reference {
    pub lsn: Lsn,
    /// Before the primary was asked.
    pub asked: Instant,
}

/// The outcome for one instance in one round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeResult {
    pub shard: ShardId,
    /// 0 is the configured primary, `n` the n-th replica.
    pub instance: usize,
    pub asked: Instant,
    pub answered: Instant,
    /// Taken in this round before this instance was asked; `None` for the primary itself, and for
    /// everybody while the shard has no primary that answers.
    pub primary: Option<Reference>,
    /// The answer, or why there is none.
    pub answer: Result<Probe, String>,
}

/// The instances of one shard, the configured primary first.
pub struct ShardProber {
    shard: ShardId,
    instances: Vec<Target>,
    /// Who was primary in the last round; asked first.
    primary: usize,
    /// What the configured primary said last; who says otherwise is none of its replicas.
    cluster: Option<i64>,
    timeout: Duration,
}

impl ShardProber {
    /// `timeout` bounds connecting and answering, each.
    pub fn new(shard: ShardId, instances: Vec<tokio_postgres::Config>, timeout: Duration) -> Self {
        let instances = instances.into_iter().map(|config| Target { config, client: None, cluster: None }).collect();
        Self { shard, instances, primary: 0, cluster: None, timeout }
    }

    /// One round every `interval`, until dropped. A round that takes longer delays the next one.
    pub async fn run(mut self, interval: Duration, mut report: impl FnMut(ProbeResult)) {
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.round(&mut report).await;
        }
    }

    /// Asks everybody once: the primary of the last round, then all others at the same time.
    pub async fn round(&mut self, report: &mut impl FnMut(ProbeResult)) {
        let primary = self.primary;
        let Some(target) = self.instances.get_mut(primary) else { return };
        let asked = Instant::now();
        let answer = target.probe(self.timeout).await;
        let answer = self.of_this_shard(primary, answer);
        let reference = match answer {
            Ok(Probe { in_recovery: false, lsn: Some(lsn), .. }) => Some(Reference { lsn, asked }),
            _ => None,
        };
        let mut leader = answer.as_ref().ok().and_then(Probe::claim).map(|timeline| (timeline, primary));
        report(self.result(primary, asked, None, answer));

        let mut tasks = JoinSet::new();
        for (at, target) in self.instances.iter_mut().enumerate().filter(|(at, _)| *at != primary) {
            let (mut target, timeout) = (target.take(), self.timeout);
            tasks.spawn(async move {
                let asked = Instant::now();
                let answer = target.probe(timeout).await;
                (at, target, asked, answer)
            });
        }
        while let Some(ended) = tasks.join_next().await {
            let Ok((at, target, asked, answer)) = ended else { continue };
            self.instances[at] = target;
            let answer = self.of_this_shard(at, answer);
            if let Some(timeline) = answer.as_ref().ok().and_then(Probe::claim)
                && leader.is_none_or(|(highest, _)| timeline > highest)
            {
                leader = Some((timeline, at));
            }
            report(self.result(at, asked, reference, answer));
        }
        if let Some((_, at)) = leader {
            self.primary = at;
        }
    }

    /// A replica of another PostgreSQL would answer with rows that are not this shard's.
    fn of_this_shard(&mut self, instance: usize, answer: Result<Probe, String>) -> Result<Probe, String> {
        let Ok(Probe { cluster: Some(cluster), .. }) = answer else { return answer };
        if instance == 0 {
            self.cluster = Some(cluster);
        }
        match self.cluster {
            Some(known) if known != cluster => Err(format!(
                "this is no replica of the shard's primary: its system identifier is {cluster}, the primary's {known}"
            )),
            _ => answer,
        }
    }

    fn result(
        &self,
        instance: usize,
        asked: Instant,
        primary: Option<Reference>,
        answer: Result<Probe, String>,
    ) -> ProbeResult {
        ProbeResult { shard: self.shard, instance, asked, answered: Instant::now(), primary, answer }
    }
}

/// One instance and the connection to it, kept from round to round.
struct Target {
    config: tokio_postgres::Config,
    client: Option<Client>,
    /// Asked once per connection.
    cluster: Option<i64>,
}

impl Target {
    /// The connection moves out; what stays can connect again.
    fn take(&mut self) -> Self {
        Self { config: self.config.clone(), client: self.client.take(), cluster: self.cluster }
    }

    /// Asks over the open connection, or over a new one. After any failure the connection is closed.
    async fn probe(&mut self, timeout: Duration) -> Result<Probe, String> {
        let client = match self.client.take().filter(|client| !client.is_closed()) {
            Some(client) => client,
            None => {
                let client = bounded(timeout, "connecting", connect(&self.config)).await?;
                // Without an answer to this one, its other answers still count.
                let answer = bounded(timeout, "the first question", client.simple_query(CLUSTER)).await;
                self.cluster = answer.ok().and_then(|messages| first_row(&messages)?.get(0)?.parse().ok());
                client
            }
        };
        let messages = bounded(timeout, "the health check", client.simple_query(PROBE)).await?;
        self.client = Some(client);
        let row = first_row(&messages).map(|row| [row.get(0), row.get(1), row.get(2), row.get(3)]);
        let probe = row.and_then(|row| read(row, self.cluster));
        probe.ok_or_else(|| "the server answered the health check with something else".to_owned())
    }
}

fn first_row(messages: &[SimpleQueryMessage]) -> Option<&SimpleQueryRow> {
    messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    })
}

fn read([recovery, lsn, prepared, log_file]: [Option<&str>; 4], cluster: Option<i64>) -> Option<Probe> {
    let timeline = log_file.and_then(|name| u32::from_str_radix(name.get(..8)?, 16).ok());
    Some(Probe {
        timeline: timeline.unwrap_or(0),
        in_recovery: recovery? == "t",
        lsn: lsn.and_then(Lsn::parse),
        max_prepared_transactions: prepared?.parse().ok()?,
        cluster,
    })
}

async fn connect(config: &tokio_postgres::Config) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = config.connect(NoTls).await?;
    // Ends with the client: dropping the client closes the connection.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a health check connection broke");
        }
    });
    Ok(client)
}

async fn bounded<T>(
    timeout: Duration,
    what: &str,
    work: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, String> {
    match tokio::time::timeout(timeout, work).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(crate::control::reason(&error)),
        Err(_) => Err(format!("{what} took longer than {timeout:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_of_another_cluster_than_the_configured_primary_counts_as_down() {
        let mut prober = ShardProber::new(ShardId(0), Vec::new(), Duration::ZERO);
        let says =
            |cluster| Ok(Probe { in_recovery: true, lsn: None, max_prepared_transactions: 0, timeline: 0, cluster });
        assert_eq!(prober.of_this_shard(1, says(Some(7))), says(Some(7)), "nobody knows yet");
        prober.of_this_shard(0, says(Some(8))).expect("the primary says who the shard is");
        assert!(prober.of_this_shard(1, says(Some(7))).is_err_and(|text| text.contains("system identifier is 7")));
        assert_eq!(prober.of_this_shard(1, says(Some(8))), says(Some(8)));
        assert_eq!(prober.of_this_shard(1, says(None)), says(None), "it may not be asked");
        prober.of_this_shard(0, says(Some(9))).expect("a new cluster at the same address");
        assert!(prober.of_this_shard(1, says(Some(8))).is_err());
    }

    #[test]
    fn positions_are_read_and_written_as_postgresql_does() {
        let lsn = Lsn::parse("16/B374D848").expect("a position");
        assert_eq!(lsn, Lsn(0x16_b374_d848));
        assert_eq!(lsn.to_string(), "16/B374D848");
        assert!(Lsn::parse("1/0") > Lsn::parse("0/FFFFFFFF"));
        for bad in ["", "/", "1", "1/", "1/1/1", "x/0", "1/100000000"] {
            assert_eq!(Lsn::parse(bad), None, "{bad}");
        }
    }
}
