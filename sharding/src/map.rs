//! Buckets -> shards.

use std::collections::HashMap;

use crate::key::{Bucket, Key};

/// The position of a shard in its database's configuration, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u16);

/// Which shard holds which bucket. Immutable; a change makes a new map with a higher epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardMap {
    epoch: u64,
    shards: u16,
    /// Indexed by bucket; the length is a power of two.
    buckets: Box<[ShardId]>,
    /// Single keys that live elsewhere than their bucket.
    overrides: HashMap<Key, ShardId>,
}

impl ShardMap {
    /// The map of a new database: bucket `b` on shard `b mod shards`, which is where PostgreSQL's
    /// hash partitioning with modulus `shards` puts it whenever `shards` divides `buckets`.
    ///
    /// `buckets` must be a power of two from 1 to 32768 and `shards` at least 1; the configuration
    /// has checked both.
    pub fn even(buckets: u16, shards: u16) -> Self {
        assert!(buckets.is_power_of_two() && buckets <= 32768, "the number of buckets is a power of two up to 32768");
        assert!(shards > 0, "a database has at least one shard");
        let buckets = (0..buckets).map(|bucket| ShardId(bucket % shards)).collect();
        Self { epoch: 1, shards, buckets, overrides: HashMap::new() }
    }

    /// The version of this map; a plan holds the epoch it was made for.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// How many shards there are.
    pub fn shards(&self) -> u16 {
        self.shards
    }

    /// How many buckets there are, a power of two.
    pub fn buckets(&self) -> u16 {
        u16::try_from(self.buckets.len()).unwrap_or(u16::MAX)
    }

    /// The shard that holds the rows of `key`.
    pub fn shard_of(&self, key: &Key) -> ShardId {
        if !self.overrides.is_empty()
            && let Some(shard) = self.overrides.get(key)
        {
            return *shard;
        }
        self.shard_of_bucket(key.bucket(self.buckets()))
    }

    /// The shard that holds `bucket`, leaving single-key overrides aside.
    pub fn shard_of_bucket(&self, bucket: Bucket) -> ShardId {
        self.buckets[usize::from(bucket.0) & (self.buckets.len() - 1)]
    }
}
