#!/usr/bin/env bash
# Run by PostgreSQL's image, once, when the data folder is new: the role that owns the database, and
# one for each service, none of them a superuser. What they may do is granted by `prepare`. Bears
# being run again: then it makes what is missing, and sets the passwords that it is given.
set -euo pipefail
# By standard input, so that no password stands on a command line.
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
