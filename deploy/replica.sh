#!/bin/bash
# Starts a streaming replica of the host $PRIMARY; the first time, by a base backup of it.
set -euo pipefail
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  install -d -o postgres -g postgres -m 700 "$PGDATA"
  rm -rf "${PGDATA:?}"/*
  gosu postgres pg_basebackup \
    -d "host=$PRIMARY user=replicator password=replicator application_name=$(hostname)" \
    -D "$PGDATA" -X stream -c fast -R
fi
# The image's own entry point goes on from here, with the command of the Compose file.
exec docker-entrypoint.sh "$@"
