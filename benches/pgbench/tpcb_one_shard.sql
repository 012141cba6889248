-- TPC-B where every transaction stays in one branch, and so on one shard: all tables are keyed by bid.
\set bid random(1, :scale)
\set tid random(1, 10)
\set aid random(1, :accounts)
\set delta random(-5000, 5000)
BEGIN;
UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE bid = :bid AND aid = :aid;
SELECT abalance FROM pgbench_accounts WHERE bid = :bid AND aid = :aid;
UPDATE pgbench_tellers SET tbalance = tbalance + :delta WHERE bid = :bid AND tid = :tid;
UPDATE pgbench_branches SET bbalance = bbalance + :delta WHERE bid = :bid;
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (:tid, :bid, :aid, :delta, CURRENT_TIMESTAMP);
END;
