"""SMS through AWS End User Messaging, whose events return our tags, or through SNS Publish."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from courant.contracts import Outcome
from deliverer.calls import Accepted, Call, CallEntry, ProviderOutcome, RenderedSms, Unknown
from deliverer.providers.aws import call_api
from deliverer.providers.errors import Api

SNS_ORIGIN_ATTRIBUTE = {True: "AWS.MM.SMS.OriginationNumber", False: "AWS.SNS.SMS.SenderID"}


@dataclass(frozen=True, slots=True)
class EndUserMessaging:
    """Sends one SMS a call, with SendTextMessage."""

    client: Any
    configuration_set: str | None
    name: str = "end-user-messaging"

    def send(self, call: Call) -> Sequence[ProviderOutcome]:
        """Send the call's only SMS."""
        [entry] = call.entries
        values: dict[str, Any] = {"OriginationIdentity": entry.source} if entry.source else {}
        if self.configuration_set:
            values["ConfigurationSetName"] = self.configuration_set
        answer = call_api(
            Api.SMS,
            [entry.to],
            self.client.send_text_message,
            DestinationPhoneNumber=entry.to,
            MessageBody=sms_body(entry),
            MessageType="TRANSACTIONAL",
            Context={
                "courant_id": str(entry.row.id),
                "courant_attempt": str(entry.row.attempt),
            },
            **values,
        )
        return [outcome_of_success(answer, Outcome.ACCEPTED)]


@dataclass(frozen=True, slots=True)
class Sns:
    """Sends one SMS a call, with Publish.

    SNS takes no tags and reports no receipts, so the outcome is `handed-over`.
    """

    client: Any
    name: str = "sns"

    def send(self, call: Call) -> Sequence[ProviderOutcome]:
        """Send the call's only SMS."""
        [entry] = call.entries
        attributes = {"AWS.SNS.SMS.SMSType": "Transactional"}
        if entry.source:
            attributes[SNS_ORIGIN_ATTRIBUTE[entry.source.startswith("+")]] = entry.source
        answer = call_api(
            Api.SNS,
            [entry.to],
            self.client.publish,
            PhoneNumber=entry.to,
            Message=sms_body(entry),
            MessageAttributes={
                name: {"DataType": "String", "StringValue": value}
                for name, value in attributes.items()
            },
        )
        return [outcome_of_success(answer, Outcome.HANDED_OVER)]


def outcome_of_success(
    answer: Mapping[str, Any] | ProviderOutcome, outcome: Outcome
) -> ProviderOutcome:
    """Accept only an answer with a message id."""
    if not isinstance(answer, Mapping):
        return answer
    id = answer.get("MessageId")
    return Accepted(id, outcome) if id else Unknown("the answer has no message id")


def sms_body(entry: CallEntry) -> str:
    """Return the entry's text."""
    assert isinstance(entry.message, RenderedSms)
    return entry.message.body
