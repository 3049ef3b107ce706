"""The containers, for every test here."""

from containers.compose_site import client, site

__all__ = ["client", "site"]
