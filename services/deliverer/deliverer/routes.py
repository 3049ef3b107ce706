"""The route of each channel: the provider that the settings choose, at the account's own rate."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from botocore.exceptions import BotoCoreError, ClientError

from courant import metrics, serve
from courant.topics import Channel, Lane
from deliverer import rules
from deliverer.breaker import Breaker
from deliverer.evidence import Evidence
from deliverer.pool import Provider
from deliverer.providers.aws import make_client
from deliverer.providers.ses import Ses
from deliverer.providers.simulated import Simulated
from deliverer.providers.sms import EndUserMessaging, Sns
from deliverer.rate import RateLimiter
from deliverer.route import Route
from deliverer.senders import Senders
from deliverer.settings import DelivererSettings

log = logging.getLogger(__name__)

EMAIL_RATE_DEFAULT = 14.0
"""Emails a second until the account's quota is read: the usual first quota of an account."""
QUOTA_READ_INTERVAL = timedelta(seconds=60)
RATE_UNLIMITED = 1_000_000.0


@dataclass(frozen=True, slots=True)
class Routes:
    """All routes of a process."""

    by_channel: Mapping[Channel, Route]
    simulated: Route
    ses: Ses


def make_routes(settings: DelivererSettings) -> Routes:
    """Make the providers, their AWS clients, rate limits and breakers, once for all threads."""
    ses = Ses(aws_client(settings, "sesv2"), settings.deliverer_ses_configuration_set or None)
    entries_max = rules.ENTRIES_MAX if settings.deliverer_bulk else 1
    ses_limiter = RateLimiter(process_share(settings, EMAIL_RATE_DEFAULT))
    email_route = make_route(ses, ses_limiter, entries_max)
    sms = sms_provider(settings)
    sms_limiter = RateLimiter(process_share(settings, settings.deliverer_sms_rate))
    sms_route = make_route(sms, sms_limiter, entries_max=1)
    simulated = Simulated()
    simulated_route = make_route(simulated, RateLimiter(RATE_UNLIMITED))
    return Routes({Channel.EMAIL: email_route, Channel.SMS: sms_route}, simulated_route, ses)


def make_route(
    provider: Provider, limiter: RateLimiter, entries_max: int = rules.ENTRIES_MAX
) -> Route:
    """Make a provider's route and let the metrics show whether anything gets through it."""
    name = provider.name
    route = Route(provider, limiter, Breaker(name), entries_max, Evidence(), Senders(name))
    metrics.BREAKER_OPEN.labels(name).set_function(lambda: float(lets_nothing_through(route)))
    metrics.SENDERS_PAUSED.labels(name).set_function(route.senders.count)
    return route


def lets_nothing_through(route: Route) -> bool:
    """Return whether a route is paused, or all that was tried lately were paused senders."""
    only_paused = route.senders.count() > 0 and route.evidence.is_silent()
    return not route.breaker.is_closed or only_paused


def sms_provider(settings: DelivererSettings) -> EndUserMessaging | Sns:
    """Make the SMS provider that the settings choose."""
    if settings.deliverer_sms_api == "sns":
        return Sns(aws_client(settings, "sns"))
    name = settings.deliverer_sms_configuration_set or None
    return EndUserMessaging(aws_client(settings, "pinpoint-sms-voice-v2"), name)


def follow_quota(settings: DelivererSettings, routes: Routes, stop: serve.Stop) -> None:
    """Read the account's email rate every QUOTA_READ_INTERVAL; keep the last one if that fails."""
    limiter = routes.by_channel[Channel.EMAIL].limiter
    while not stop():
        try:
            limiter.set(process_share(settings, routes.ses.rate()))
        except (BotoCoreError, ClientError, LookupError, TypeError, ValueError) as error:
            log.warning("quota cannot be read", extra={"reason": type(error).__name__})
        stop.wait(QUOTA_READ_INTERVAL.total_seconds())


def aws_client(settings: DelivererSettings, service: str) -> object:
    """Make a client with one connection for each thread of each lane."""
    return make_client(
        service,
        settings.deliverer_threads * len(Lane),
        settings.deliverer_connect_timeout_seconds,
        settings.read_seconds,
    )


def process_share(settings: DelivererSettings, rate: float) -> float:
    """Return this process's share of a rate, which all instances share equally."""
    return max(rate / settings.deliverer_instances, 0.1)
