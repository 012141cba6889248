-- Transactions that wait for locks and for which others wait, as routers tell each other of them: without that
-- nobody knows which processes of several shards are one transaction. Rows live for seconds, on the first shard.
CREATE UNLOGGED TABLE sluice.waiting (
  router text NOT NULL,
  client bigint NOT NULL,
  -- Tells this transaction of the client from others of it.
  transaction bigint NOT NULL,
  -- The process id with which the client was greeted.
  pid int NOT NULL,
  began timestamptz NOT NULL,
  seen timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
  -- Its processes: identity of the shard, process id, and for those that wait the beginning of the wait.
  members text NOT NULL,
  PRIMARY KEY (router, client)
);

-- Who writes here can have others give up: routers that log in as other users than the owner need a GRANT.
GRANT SELECT ON sluice.waiting TO PUBLIC;
