#!/usr/bin/env bash
# Creates the cluster, and runs the scripts of /docker-entrypoint-initdb.d at the first start.
set -euo pipefail
export POSTGRES_USER=${POSTGRES_USER:-postgres}
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    initdb --pgdata "$PGDATA" --username "$POSTGRES_USER" --pwfile <(echo "$POSTGRES_PASSWORD") \
        --auth-local trust --auth-host scram-sha-256 --encoding UTF8 --locale C.UTF-8
    echo 'host all all all scram-sha-256' >> "$PGDATA/pg_hba.conf"
    # Without TCP, so that nobody connects before the database is complete.
    pg_ctl --pgdata "$PGDATA" --wait start \
        --options "-c listen_addresses='' -c unix_socket_directories=/var/run/postgresql"
    export PGHOST=/var/run/postgresql
    for script in /docker-entrypoint-initdb.d/*.sh; do
        bash "$script"
    done
    pg_ctl --pgdata "$PGDATA" --wait --mode fast stop
fi
exec "$@" -c listen_addresses='*' -c unix_socket_directories=/var/run/postgresql
