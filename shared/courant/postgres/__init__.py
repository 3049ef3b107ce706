"""PostgreSQL: the connection, tables, migrations, roles, and SQL that several services share."""
