"""Who may be sent to by team keys, and by services in trial."""

import logging
from uuid import UUID

import msgspec

from courant.crypto import KeyRing, Undecryptable
from courant.directory.entries import Service

log = logging.getLogger(__name__)


class Safelists:
    """Teams and safelists, opened once a version of their service."""

    def __init__(self, key_ring: KeyRing) -> None:
        self._ring = key_ring
        self._opened: dict[UUID, tuple[int, frozenset[str]]] = {}

    def of(self, service: Service) -> frozenset[str]:
        """Give the recipients that are known to a service, normalised."""
        number, guests = self._opened.get(service.id, (-1, frozenset[str]()))
        if number != service.number:
            guests = frozenset(self._read(service)) if service.guests else frozenset()
            self._opened[service.id] = service.number, guests
        return guests

    def _read(self, service: Service) -> list[str]:
        try:
            opened = self._ring.decrypt(service.guests, owner=service.id.bytes)
            return msgspec.json.decode(opened, type=list[str])
        except (Undecryptable, msgspec.DecodeError) as error:
            told = {"service_id": service.id, "reason": str(error)}
            log.error("guest list cannot be read", extra=told)
            return []
