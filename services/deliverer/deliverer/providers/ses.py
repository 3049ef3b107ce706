"""Email by SES v2: SendBulkEmail for several, SendEmail for one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from courant.contracts import ENCODE
from courant.render.page import page
from deliverer.calls import Accepted, Call, CallEntry, ProviderOutcome, RenderedEmail, Unknown
from deliverer.providers.aws import call_api
from deliverer.providers.errors import Api, outcome_of_status

# Plain places only: SES puts what stands in them in as it is, and the renderer has escaped it. The
# page stands once in the call: fifty times its 2 KB cost a fifth of the time.
TEMPLATE = {
    "TemplateContent": {
        "Subject": "{{s}}",
        "Text": "{{t}}",
        "Html": page("{{h}}", subject="{{e}}", text="{{p}}"),
    },
    # A place without a value is accepted by SES and fails hours later; no entry lacks one.
    "TemplateData": ENCODE(dict.fromkeys("stehp", "")).decode(),
}
UNLIMITED = 100_000.0


@dataclass(frozen=True, slots=True)
class Ses:
    """SES v2 through one client."""

    client: Any
    configuration_set: str | None
    name: str = "ses"

    def send(self, call: Call) -> Sequence[ProviderOutcome]:
        """Send the call's emails; one outcome for each, in order."""
        if len(call.entries) == 1:
            return [self._single(call.entries[0])]
        return self._bulk(call)

    def rate(self) -> float:
        """Ask how many emails a second the account may send; raises botocore's errors."""
        rate = float(self.client.get_account()["SendQuota"]["MaxSendRate"])
        return rate if rate >= 0 else UNLIMITED

    def _single(self, entry: CallEntry) -> ProviderOutcome:
        mail = rendered_email(entry)
        html = page(mail.fragment, mail.subject, mail.text)
        answer = call_api(
            Api.SES,
            [entry.to],
            self.client.send_email,
            Destination={"ToAddresses": [entry.to]},
            Content={
                "Simple": {
                    "Subject": {"Data": mail.subject, "Charset": "UTF-8"},
                    "Body": {
                        "Text": {"Data": mail.text, "Charset": "UTF-8"},
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
            [each.to for each in call.entries],
            self.client.send_bulk_email,
            DefaultContent={"Template": TEMPLATE},
            BulkEmailEntries=[bulk_entry(each) for each in call.entries],
            **self._common(call.entries[0]),
        )
        if not isinstance(answer, Mapping):
            return [answer] * len(call.entries)
        results = answer.get("BulkEmailEntryResults") or ()
        if len(results) != len(call.entries):
            # Nobody can tell which of them these are.
            return [Unknown("as many results as entries are wanted")] * len(call.entries)
        return [
            outcome_of_success(each)
            if each.get("Status") == "SUCCESS"
            else outcome_of_status(str(each.get("Status")))
            for each in results
        ]

    def _common(self, entry: CallEntry) -> dict[str, Any]:
        values: dict[str, Any] = {"FromEmailAddress": entry.source}
        if entry.reply_to:
            values["ReplyToAddresses"] = [entry.reply_to]
        if self.configuration_set:
            values["ConfigurationSetName"] = self.configuration_set
        return values


def bulk_entry(entry: CallEntry) -> dict[str, Any]:
    """Write one entry of a bulk call."""
    data = {"ReplacementTemplateData": rendered_email(entry).data}
    return {
        "Destination": {"ToAddresses": [entry.to]},
        "ReplacementTags": attempt_tags(entry),
        "ReplacementEmailContent": {"ReplacementTemplate": data},
    }


def attempt_tags(entry: CallEntry) -> list[dict[str, str]]:
    """Give what comes back in every event of this attempt."""
    return [
        {"Name": "courant_id", "Value": str(entry.row.id)},
        {"Name": "courant_attempt", "Value": str(entry.row.attempt)},
    ]


def outcome_of_success(answer: Mapping[str, Any]) -> ProviderOutcome:
    """Believe an answer only with a message id: of one cut short boto3 makes an empty one."""
    id = answer.get("MessageId")
    return Accepted(id) if id else Unknown("an answer without a message id")


def rendered_email(entry: CallEntry) -> RenderedEmail:
    """Give the entry's email."""
    assert isinstance(entry.message, RenderedEmail)
    return entry.message
