"""SMS by AWS End User Messaging, whose events bring our tags back, or by plain SNS Publish."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from courant.contracts import Outcome
from deliverer.calls import Accepted, Call, CallEntry, ProviderOutcome, RenderedSms, Unknown
from deliverer.providers.aws import ask
from deliverer.providers.errors import Api

SNS_ORIGIN = {True: "AWS.MM.SMS.OriginationNumber", False: "AWS.SNS.SMS.SenderID"}


@dataclass(frozen=True, slots=True)
class EndUserMessaging:
    """SendTextMessage, one notification a call."""

    client: Any
    configuration_set: str | None
    name: str = "end-user-messaging"

    def send(self, call: Call) -> Sequence[ProviderOutcome]:
        """Send the call's texts; there is one."""
        [entry] = call.entries
        values: dict[str, Any] = {"OriginationIdentity": entry.source} if entry.source else {}
        if self.configuration_set:
            values["ConfigurationSetName"] = self.configuration_set
        answer = ask(
            Api.SMS,
            [entry.to],
            self.client.send_text_message,
            DestinationPhoneNumber=entry.to,
            MessageBody=body_of(entry),
            MessageType="TRANSACTIONAL",
            Context={
                "courant_id": str(entry.row.id),
                "courant_attempt": str(entry.row.attempt),
            },
            **values,
        )
        return [accepted(answer, Outcome.ACCEPTED)]


@dataclass(frozen=True, slots=True)
class Sns:
    """Publish to a telephone. It carries no tags and gets no receipts: all is handed over."""

    client: Any
    name: str = "sns"

    def send(self, call: Call) -> Sequence[ProviderOutcome]:
        """Send the call's texts; there is one."""
        [entry] = call.entries
        attributes = {"AWS.SNS.SMS.SMSType": "Transactional"}
        if entry.source:
            attributes[SNS_ORIGIN[entry.source.startswith("+")]] = entry.source
        answer = ask(
            Api.SNS,
            [entry.to],
            self.client.publish,
            PhoneNumber=entry.to,
            Message=body_of(entry),
            MessageAttributes={
                name: {"DataType": "String", "StringValue": value}
                for name, value in attributes.items()
            },
        )
        return [accepted(answer, Outcome.HANDED_OVER)]


def accepted(answer: Mapping[str, Any] | ProviderOutcome, outcome: Outcome) -> ProviderOutcome:
    """Believe an answer only with a message id."""
    if not isinstance(answer, Mapping):
        return answer
    id = answer.get("MessageId")
    return Accepted(id, outcome) if id else Unknown("an answer without a message id")


def body_of(entry: CallEntry) -> str:
    """Give the entry's text."""
    assert isinstance(entry.message, RenderedSms)
    return entry.message.body
