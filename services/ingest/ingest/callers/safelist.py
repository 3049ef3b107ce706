"""The safelist: the recipients that team keys and services in trial may send to."""

import logging
from uuid import UUID

import msgspec

from courant.crypto import KeyRing, Undecryptable
from courant.directory.entries import Service
from courant.runbooks import Runbook

log = logging.getLogger(__name__)


class Safelists:
    """Safelists of services. Each is decrypted once for each version of its service."""

    def __init__(self, key_ring: KeyRing) -> None:
        self._key_ring = key_ring
        self._decrypted: dict[UUID, tuple[int, frozenset[str]]] = {}

    def of(self, service: Service) -> frozenset[str]:
        """Return the normalised addresses and numbers of a service's team and safelist."""
        number, safelist = self._decrypted.get(service.id, (-1, frozenset[str]()))
        if number != service.number:
            safelist = frozenset(self._read(service)) if service.safelist else frozenset()
            self._decrypted[service.id] = service.number, safelist
        return safelist

    def _read(self, service: Service) -> list[str]:
        try:
            decrypted = self._key_ring.decrypt(service.safelist, owner=service.id.bytes)
            return msgspec.json.decode(decrypted, type=list[str])
        except (Undecryptable, msgspec.DecodeError) as error:
            fields = {"service_id": service.id, "reason": str(error)}
            log.error(
                "safelist cannot be read", extra={**fields, "runbook": Runbook.SAFELIST_UNREADABLE}
            )
            return []
