-- What commits over several shards need on each shard.

-- Who this shard is, whatever name or address a configuration gives it.
CREATE TABLE sluice.shard (
  only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
  identity text NOT NULL
);
INSERT INTO sluice.shard (identity)
  VALUES (pg_catalog.substr(pg_catalog.replace(pg_catalog.gen_random_uuid()::text, '-', ''), 1, 16));

-- How a transaction ended whose decider is this shard. A row of a commit is a part of the transaction itself.
CREATE TABLE sluice.decision (
  gid text PRIMARY KEY,
  outcome text NOT NULL CHECK (outcome IN ('commit', 'abort')),
  decided timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
  -- While an older transaction runs, it may be the one whose commit this row is to prevent.
  decided_by xid8 NOT NULL DEFAULT pg_catalog.pg_current_xact_id(),
  -- The shards' own checks see nothing of each other.
  CONSTRAINT decision_not_serializable CHECK (outcome = 'abort' OR pg_catalog.current_setting('transaction_isolation') <> 'serializable')
);

-- The transaction of any user may leave its decision. Nobody but the owner takes one away.
GRANT USAGE ON SCHEMA sluice TO PUBLIC;
GRANT SELECT ON sluice.migration, sluice.shard, sluice.decision TO PUBLIC;
GRANT INSERT ON sluice.decision TO PUBLIC;
