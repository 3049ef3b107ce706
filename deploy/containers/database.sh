#!/usr/bin/env bash
# Run by PostgreSQL's image, once, when the data folder is new: the services' role owns the
# database and is no superuser.
set -euo pipefail
# By standard input, so that the password stands on no command line.
psql --username "${POSTGRES_USER:-postgres}" --dbname postgres --set ON_ERROR_STOP=1 << 'SQL'
\getenv password COURANT_DATABASE_PASSWORD
CREATE ROLE courant LOGIN PASSWORD :'password';
CREATE DATABASE courant OWNER courant;
REVOKE ALL ON DATABASE courant FROM PUBLIC;
SQL
