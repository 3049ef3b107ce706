"""The way of each channel: its provider as the settings name it, at the account's own rate."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from botocore.exceptions import BotoCoreError, ClientError

from courant import serve
from courant.topics import Channel, Lane
from deliverer import rules
from deliverer.breaker import Breaker
from deliverer.flight import Route
from deliverer.providers.aws import client
from deliverer.providers.ses import Ses
from deliverer.providers.simulated import Simulated
from deliverer.providers.sms import EndUserMessaging, Sns
from deliverer.rate import RateLimiter
from deliverer.settings import DelivererSettings

log = logging.getLogger(__name__)

RATE_UNTIL_KNOWN = 14.0
"""Emails a second, the usual first quota of an account, while its own cannot be read."""
READ_EVERY = timedelta(seconds=60)
NO_LIMIT = 1_000_000.0


@dataclass(frozen=True, slots=True)
class Routes:
    """All of a process's ways out."""

    by_channel: Mapping[Channel, Route]
    simulated: Route
    ses: Ses


def routes(settings: DelivererSettings) -> Routes:
    """Make the clients, once for all threads."""
    ses = Ses(aws(settings, "sesv2"), settings.deliverer_ses_configuration_set or None)
    most = rules.ENTRIES_MAX if settings.deliverer_bulk else 1
    email = Route(ses, RateLimiter(share(settings, RATE_UNTIL_KNOWN)), Breaker(ses.name), most)
    texting = texting_of(settings)
    sms_rate = RateLimiter(share(settings, settings.deliverer_sms_rate))
    sms = Route(texting, sms_rate, Breaker(texting.name), entries_max=1)
    nothing = Simulated()
    simulated = Route(nothing, RateLimiter(NO_LIMIT), Breaker(nothing.name))
    return Routes({Channel.EMAIL: email, Channel.SMS: sms}, simulated, ses)


def texting_of(settings: DelivererSettings) -> EndUserMessaging | Sns:
    """Give the SMS provider that the settings name."""
    if settings.deliverer_sms_api == "sns":
        return Sns(aws(settings, "sns"))
    name = settings.deliverer_sms_configuration_set or None
    return EndUserMessaging(aws(settings, "pinpoint-sms-voice-v2"), name)


def keep_rate(settings: DelivererSettings, routes: Routes, stop: serve.Stop) -> None:
    """Read the account's own rate now and then; where it cannot be read, the last one stays."""
    limiter = routes.by_channel[Channel.EMAIL].limiter
    while not stop():
        try:
            limiter.set(share(settings, routes.ses.rate()))
        except (BotoCoreError, ClientError, LookupError, TypeError, ValueError) as error:
            log.warning("quota cannot be read", extra={"reason": type(error).__name__})
        stop.wait(READ_EVERY.total_seconds())


def aws(settings: DelivererSettings, service: str) -> object:
    """Make a client with a connection for each lane's every thread."""
    return client(
        service,
        settings.deliverer_threads * len(Lane),
        settings.deliverer_connect_timeout_seconds,
        settings.read_seconds,
    )


def share(settings: DelivererSettings, rate: float) -> float:
    """Give this process's part of a rate."""
    return max(rate / settings.deliverer_instances, 0.1)
