"""PostgreSQL as a service's role, for tests whose own hand in the tables is the superuser's."""

from functools import cache

from sqlalchemy import Engine, create_engine


@cache
def acting(engine: Engine, role: str) -> Engine:
    """Give an engine that connects to the same server as the role; it trusts whoever comes."""
    return create_engine(engine.url.set(username=role))
