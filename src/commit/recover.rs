//! Bringing a decided commit to its end when a participant was lost on the way.

use std::rc::Rc;
use std::time::Duration;

use crate::pool::driver::{Pool, Release};

/// How long between two attempts.
const PAUSE: Duration = Duration::from_secs(1);

/// Attempts before the operator has to do it by hand: about an hour.
const ATTEMPTS_MAX: u32 = 3600;

/// There is no such prepared transaction: somebody has finished it already.
const UNDEFINED_OBJECT: &str = "42704";

/// Runs `sql` (COMMIT PREPARED or ROLLBACK PREPARED) on some server of `pool` until it has taken
/// effect.
pub async fn finish_prepared(pool: Rc<Pool>, sql: String) {
    for _ in 0..ATTEMPTS_MAX {
        if let Ok(mut server) = pool.acquire().await {
            let result = server.run(&sql).await;
            let how = if result.is_ok() { Release::Clean } else { Release::Broken };
            pool.release(server, how);
            match result {
                Ok(None) => return tracing::info!(sql, "a commit over several shards has been brought to its end"),
                Ok(Some(fields)) if fields.sqlstate == UNDEFINED_OBJECT => return,
                Ok(Some(fields)) => tracing::warn!(sql, error = %fields.message, "a prepared transaction waits"),
                Err(error) => tracing::warn!(sql, %error, "a prepared transaction waits"),
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
    tracing::error!(sql, "a prepared transaction was left behind: run this statement on its shard by hand");
}
