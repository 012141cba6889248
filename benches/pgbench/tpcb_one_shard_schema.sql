-- pgbench's tables, each row with its branch in the primary key.
CREATE TABLE pgbench_branches (bid int PRIMARY KEY, bbalance int NOT NULL, filler char(88));
CREATE TABLE pgbench_tellers (bid int, tid int, tbalance int NOT NULL, filler char(84), PRIMARY KEY (bid, tid));
CREATE TABLE pgbench_accounts (bid int, aid int, abalance int NOT NULL, filler char(84), PRIMARY KEY (bid, aid));
CREATE TABLE pgbench_history (tid int, bid int, aid int, delta int, mtime timestamp, filler char(22));
