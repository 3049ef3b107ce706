"""Fair shares: which lane a service gets if it sends more than its share."""

from uuid import UUID

import pytest

from courant.contracts import Notification
from courant.topics import Channel, Lane
from ingest.callers.fair_share import LOWER_LANE, FairShares
from support.ingest.world import World, api_key, email, key, service, template

BUSY, QUIET = UUID(int=1), UUID(int=2)
EMAIL, SMS = Channel.EMAIL, Channel.SMS
SHARE = 60  # a minute: one a second


def lanes(shares: FairShares, *times: float, service: UUID = BUSY, lane: Lane = Lane.NORMAL) -> str:
    return "".join(shares.choose_lane(service, EMAIL, lane, at)[0] for at in times)


def test_beyond_its_share_a_service_goes_a_lane_down_while_others_send() -> None:
    shares = FairShares(SHARE)
    assert lanes(shares, 100.0, service=QUIET) == "n"
    assert (
        lanes(shares, *[100.0] * 5) == "nnbbb"
    )  # one second's share at once, and the one that starts it
    assert lanes(shares, 101.0, 101.0, 101.5, 102.0) == "nbbn"
    assert lanes(shares, 102.0, service=QUIET) == "n"


def test_a_service_that_sends_alone_keeps_its_lane() -> None:
    shares = FairShares(SHARE)
    assert lanes(shares, *[100.0] * 50) == "n" * 50
    lanes(shares, 100.0, service=QUIET)
    assert lanes(shares, *[101.0] * 4) == "nnbb"
    assert lanes(shares, *[160.5] * 4) == "nnnn"  # the other service has not sent for a minute


def test_a_notification_that_goes_a_lane_down_uses_none_of_the_share() -> None:
    shares = FairShares(SHARE)
    for second in range(100, 160):
        lanes(shares, second, service=QUIET)
        assert lanes(shares, *[second] * 20).count("n") == (2 if second == 100 else 1)


def test_each_channel_has_a_share_of_its_own() -> None:
    shares = FairShares(SHARE)
    lanes(shares, 100.0, service=QUIET)
    assert lanes(shares, *[100.0] * 3) == "nnb"
    assert (
        shares.choose_lane(BUSY, SMS, Lane.NORMAL, 100.0) is Lane.NORMAL
    )  # no other service sends there


@pytest.mark.parametrize("lane", Lane)
def test_priority_goes_down_to_normal_and_bulk_stays_bulk(lane: Lane) -> None:
    shares = FairShares(SHARE)
    lanes(shares, 100.0, service=QUIET)
    lanes(shares, *[100.0] * 2, lane=lane)
    assert shares.choose_lane(BUSY, EMAIL, lane, 100.0) is LOWER_LANE[lane]
    assert [LOWER_LANE[each] for each in Lane] == [Lane.NORMAL, Lane.BULK, Lane.BULK]


def test_a_record_names_the_lane_of_its_topic() -> None:
    world = World(ingest_fair_share=1)
    other = UUID(int=0x5E)
    world.change(service(id=other))
    world.change(key(9, service=other))
    world.change(template(EMAIL, id=UUID(int=0x7E), service_id=other))
    body = email(template_id=str(UUID(int=0x7E)))
    their_key = {"authorization": f"ApiKey-v1 {api_key(9, other)}"}
    assert world.post("/v2/notifications/email", body, **their_key).status_code == 201
    for _ in range(3):
        assert world.post("/v2/notifications/email", email()).status_code == 201
    written = [(each.topic, Notification.decode(each.value).lane) for each in world.log.records]
    assert written == [
        (f"inbox.email.{lane}", lane) for lane in ("normal", "normal", "bulk", "bulk")
    ]
