#!/bin/bash
# Runs once, when a primary's data folder is made: the application's user, and one that replicas read with.
set -euo pipefail
psql -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d "$POSTGRES_DB" <<'SQL'
CREATE ROLE app LOGIN PASSWORD 'app';
ALTER DATABASE app OWNER TO app;
GRANT ALL ON SCHEMA public TO app;
CREATE ROLE replicator LOGIN REPLICATION PASSWORD 'replicator';
SQL
echo "host replication replicator all scram-sha-256" >>"$PGDATA/pg_hba.conf"
