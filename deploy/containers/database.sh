#!/usr/bin/env bash
# PostgreSQL's image runs this once, when the data folder is new. It creates the role that owns the
# database and one role for each service, none of them a superuser. `prepare` grants their rights.
# It is safe to run again: then it creates missing roles and sets the given passwords.
set -euo pipefail
# Passed by standard input, so that no password is on a command line.
psql --username "${POSTGRES_USER:-postgres}" --dbname postgres --set ON_ERROR_STOP=1 << 'SQL'
\getenv owner COURANT_DATABASE_PASSWORD
\getenv ingest COURANT_INGEST_PASSWORD
\getenv saver COURANT_SAVER_PASSWORD
\getenv deliverer COURANT_DELIVERER_PASSWORD
\getenv runner COURANT_JOB_RUNNER_PASSWORD
\getenv recovery COURANT_RECOVERY_PASSWORD
SELECT format('CREATE ROLE %I', name)
FROM unnest('{courant,courant_ingest,courant_saver,courant_deliverer,courant_job_runner,
    courant_recovery}'::text[]) name
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) \gexec
ALTER ROLE courant LOGIN PASSWORD :'owner';
ALTER ROLE courant_ingest LOGIN PASSWORD :'ingest';
ALTER ROLE courant_saver LOGIN PASSWORD :'saver';
ALTER ROLE courant_deliverer LOGIN PASSWORD :'deliverer';
ALTER ROLE courant_job_runner LOGIN PASSWORD :'runner';
ALTER ROLE courant_recovery LOGIN PASSWORD :'recovery';
SELECT 'CREATE DATABASE courant OWNER courant'
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'courant') \gexec
REVOKE ALL ON DATABASE courant FROM PUBLIC;
SQL
