"""Prints the settings of docker-compose.yml and the `courant` command: `new_env.py > .env`.

Each call makes new secrets. Without its seal keys all content is unreadable, so keep them safe. The
addresses are those that docker-compose.yml publishes on this machine.
"""

import base64
import secrets

# A password is part of a URL, so it has only letters and digits. Kafka's cluster id is 16 bytes,
# and an id that began with a dash would be read as an option.
PASSWORD = secrets.token_hex(16)
print(f"""\
# What the containers are given.
KAFKA_CLUSTER_ID=C{base64.urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip("=")[1:]}
POSTGRES_PASSWORD={secrets.token_hex(16)}
COURANT_DATABASE_PASSWORD={PASSWORD}
COURANT_INGEST_PASSWORD={secrets.token_hex(16)}
COURANT_SAVER_PASSWORD={secrets.token_hex(16)}
COURANT_DELIVERER_PASSWORD={secrets.token_hex(16)}
COURANT_JOB_RUNNER_PASSWORD={secrets.token_hex(16)}
COURANT_RECOVERY_PASSWORD={secrets.token_hex(16)}
COURANT_SEAL_KEYS=1:{base64.b64encode(secrets.token_bytes(32)).decode()}
COURANT_HASH_KEY={base64.b64encode(secrets.token_bytes(32)).decode()}

# What the `courant` command on this machine is given besides.
KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:29092,127.0.0.1:29093,127.0.0.1:29094
DATABASE_URL=postgresql://courant:{PASSWORD}@127.0.0.1:25432/courant
COURANT_URL=http://127.0.0.1:8400""")
