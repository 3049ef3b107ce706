"""Email through SES v2: SendBulkEmail for several entries, SendEmail for one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from courant.contracts import ENCODE
from courant.render.page import page
from deliverer.calls import Accepted, Call, CallEntry, ProviderOutcome, RenderedEmail, Unknown
from deliverer.providers.aws import call_api
from deliverer.providers.errors import Api, outcome_of_status

# The template only has plain placeholders: SES inserts their values as they are, and the renderer
# has already escaped them. The page is in the call once; fifty copies of its 2 KB took a fifth of
# the call's time.
TEMPLATE = {
    "TemplateContent": {
        "Subject": "{{s}}",
        "Text": "{{t}}",
        "Html": page("{{h}}", subject="{{e}}", text="{{p}}"),
    },
    # SES accepts a placeholder without a value and fails hours later, so each has a default value.
    "TemplateData": ENCODE(dict.fromkeys("stehp", "")).decode(),
}
UNLIMITED = 100_000.0


@dataclass(frozen=True, slots=True)
class Ses:
    """The SES v2 provider, with one client for all threads."""

    client: Any
    configuration_set: str | None
    name: str = "ses"

    def send(self, call: Call) -> Sequence[ProviderOutcome]:
        """Send the call's emails; return one outcome for each, in order."""
        if len(call.entries) == 1:
            return [self._single(call.entries[0])]
        return self._bulk(call)

    def rate(self) -> float:
        """Return how many emails a second the account may send. Raises botocore's errors."""
        rate = float(self.client.get_account()["SendQuota"]["MaxSendRate"])
        return rate if rate >= 0 else UNLIMITED

    def _single(self, entry: CallEntry) -> ProviderOutcome:
        message = rendered_email(entry)
        html = page(message.fragment, message.subject, message.text)
        answer = call_api(
            Api.SES,
            [entry.to],
            self.client.send_email,
            Destination={"ToAddresses": [entry.to]},
            Content={
                "Simple": {
                    "Subject": {"Data": message.subject, "Charset": "UTF-8"},
                    "Body": {
                        "Text": {"Data": message.text, "Charset": "UTF-8"},
                        "Html": {"Data": html, "Charset": "UTF-8"},
                    },
                }
            },
            EmailTags=attempt_tags(entry),
            **self._common(entry),
        )
        return outcome_of_success(answer) if isinstance(answer, Mapping) else answer

    def _bulk(self, call: Call) -> Sequence[ProviderOutcome]:
        answer = call_api(
            Api.SES,
            [entry.to for entry in call.entries],
            self.client.send_bulk_email,
            DefaultContent={"Template": TEMPLATE},
            BulkEmailEntries=[bulk_entry(entry) for entry in call.entries],
            **self._common(call.entries[0]),
        )
        if not isinstance(answer, Mapping):
            return [answer] * len(call.entries)
        results = answer.get("BulkEmailEntryResults") or ()
        if len(results) != len(call.entries):
            # The results cannot be assigned to entries.
            return [Unknown("SES did not return one result for each entry")] * len(call.entries)
        return [
            outcome_of_success(result)
            if result.get("Status") == "SUCCESS"
            else outcome_of_status(str(result.get("Status")))
            for result in results
        ]

    def _common(self, entry: CallEntry) -> dict[str, Any]:
        values: dict[str, Any] = {"FromEmailAddress": entry.source}
        if entry.reply_to:
            values["ReplyToAddresses"] = [entry.reply_to]
        if self.configuration_set:
            values["ConfigurationSetName"] = self.configuration_set
        return values


def bulk_entry(entry: CallEntry) -> dict[str, Any]:
    """Return one entry of a bulk call."""
    data = {"ReplacementTemplateData": rendered_email(entry).data}
    return {
        "Destination": {"ToAddresses": [entry.to]},
        "ReplacementTags": attempt_tags(entry),
        "ReplacementEmailContent": {"ReplacementTemplate": data},
    }


def attempt_tags(entry: CallEntry) -> list[dict[str, str]]:
    """Return the tags that every event of this attempt carries back."""
    return [
        {"Name": "courant_id", "Value": str(entry.row.id)},
        {"Name": "courant_attempt", "Value": str(entry.row.attempt)},
    ]


def outcome_of_success(answer: Mapping[str, Any]) -> ProviderOutcome:
    """Accept only an answer with a message id: boto3 turns a truncated answer into an empty one."""
    id = answer.get("MessageId")
    return Accepted(id) if id else Unknown("the answer has no message id")


def rendered_email(entry: CallEntry) -> RenderedEmail:
    """Return the entry's email."""
    assert isinstance(entry.message, RenderedEmail)
    return entry.message
