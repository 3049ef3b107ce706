"""The ceiling of sending: SendBulkEmail by boto3 in a loop, from as many threads."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from courant.crypto import KeyRing
from courant.directory.entries import Directory
from courant.topics import Channel
from deliverer import rules
from deliverer.calls import CallEntry, ClaimedRow
from deliverer.content import Defaults, MessageRenderer
from deliverer.providers.aws import make_client
from deliverer.providers.ses import TEMPLATE, bulk_entry


def calls(rows: Sequence[ClaimedRow], directory: Directory, ring: KeyRing) -> list[dict[str, Any]]:
    """Return the values of each call: those that the deliverer would send for these rows."""
    renderer = MessageRenderer(directory, ring, Defaults("notification.example", ""))
    entries = [renderer.render(row, Channel.EMAIL) for row in rows]
    made = [each for each in entries if isinstance(each, CallEntry)]
    assert len(made) == len(rows), "a row could not be written"
    return [
        {
            "DefaultContent": {"Template": TEMPLATE},
            "BulkEmailEntries": [bulk_entry(each) for each in group],
            "FromEmailAddress": group[0].source,
        }
        for group in rules.group_into_calls(made, rules.ENTRIES_MAX)
    ]


def send(prepared: Sequence[Mapping[str, Any]], threads: int) -> None:
    """Make the calls; raises any error of a call."""
    # The deliverer's own client: its options are faster than boto3's defaults.
    ses = make_client("sesv2", threads, connect_seconds=2, read_seconds=8)
    with ThreadPoolExecutor(threads) as pool:
        for answer in pool.map(lambda values: ses.send_bulk_email(**values), prepared):
            assert all(each["Status"] == "SUCCESS" for each in answer["BulkEmailEntryResults"])
