"""Recipients whose address alone causes a fault, so that a test needs no control call.

An email address by its local part before `+` or `@`; a phone number by its last four digits.

| email          | SMS    | what happens                                                           |
| -------------- | ------ | ---------------------------------------------------------------------- |
| `bounce@`      | …0001  | booked; permanent bounce; the phone is unreachable                     |
| `soft-bounce@` | …0002  | booked; transient bounce, mailbox full; the carrier is unreachable     |
| `suppressed@`  | …0003  | booked; bounce, on the suppression list; the carrier blocks it         |
|                | …0004  | opted out: refused by End User Messaging, booked by SNS                |
|                | …0005  | booked; the number is invalid                                          |
| `complaint@`   |        | booked, delivered, then a complaint                                    |
| `delayed@`     |        | booked; a delivery delay, then delivered                               |
| `virus@`       | …0014  | booked; Reject, bad content; the carrier calls it spam                 |
| `throttle@`    | …0006  | throttled twice, then taken                                            |
| `error@`       | …0007  | 500, and not booked                                                    |
| `lost@`        | …0008  | booked, then 500                                                       |
| `slow@`        | …0009  | taken, and answered after 3 s                                          |
| `never@`       | …0010  | booked; no receipt ever comes                                          |
| `double@`      | …0011  | booked; each receipt comes twice                                       |
| `late@`        | …0012  | booked; receipts come after 45 s                                       |
|                | …0013  | booked; SUCCESSFUL and final, then DELIVERED and final                 |
| `reject@`      | …0015  | refused, 400: MessageRejected; ValidationException                     |
| `hang@`        | …0016  | booked; no answer                                                      |
| `cut@`         | …0017  | booked; half of the answer's body                                      |
|                | …0018  | booked; its time to live passes                                        |

In a bulk call `throttle@` and `reject@` are the status of their entry; `error@`, `lost@`, `slow@`,
`hang@` and `cut@` concern the whole call.
"""

from dataclasses import dataclass

from courant_sandbox.messages import Channel, Outcome

THROTTLES_BEFORE_TAKING = 2
SLOW_SECONDS = 3.0
# Longer than the grace of 30 s after which a local stack resolves an unknown outcome.
LATE_SECONDS = 45.0


@dataclass(frozen=True, slots=True)
class Behaviour:
    """An address's effects; `before` and `after` are the call's faults around booking."""

    outcome: Outcome = Outcome.DELIVERED
    before: str = ""
    after: str = ""
    wait_seconds: float = 0.0
    times: int = 1
    late_seconds: float = 0.0


ORDINARY = Behaviour()
THROTTLE = Behaviour(before="throttle")
ERROR = Behaviour(before="error")
REJECT = Behaviour(before="reject")
LOST = Behaviour(after="error")
HANG = Behaviour(after="hang")
CUT = Behaviour(after="half-body")
SLOW = Behaviour(wait_seconds=SLOW_SECONDS)
NEVER = Behaviour(Outcome.SILENT)
DOUBLE = Behaviour(times=2)
LATE = Behaviour(late_seconds=LATE_SECONDS)

BY_LOCAL_PART = {
    "bounce": Behaviour(Outcome.BOUNCED),
    "soft-bounce": Behaviour(Outcome.SOFT_BOUNCED),
    "suppressed": Behaviour(Outcome.SUPPRESSED),
    "complaint": Behaviour(Outcome.COMPLAINED),
    "delayed": Behaviour(Outcome.DELAYED),
    "virus": Behaviour(Outcome.REJECTED),
    "throttle": THROTTLE,
    "error": ERROR,
    "lost": LOST,
    "slow": SLOW,
    "never": NEVER,
    "double": DOUBLE,
    "late": LATE,
    "reject": REJECT,
    "hang": HANG,
    "cut": CUT,
}
BY_LAST_DIGITS = {
    "0001": Behaviour(Outcome.UNREACHABLE),
    "0002": Behaviour(Outcome.CARRIER_UNREACHABLE),
    "0003": Behaviour(Outcome.BLOCKED),
    "0004": Behaviour(Outcome.OPTED_OUT, before="opted-out"),
    "0005": Behaviour(Outcome.INVALID),
    "0006": THROTTLE,
    "0007": ERROR,
    "0008": LOST,
    "0009": SLOW,
    "0010": NEVER,
    "0011": DOUBLE,
    "0012": LATE,
    "0013": Behaviour(Outcome.SUCCESSFUL),
    "0014": Behaviour(Outcome.SPAM),
    "0015": REJECT,
    "0016": HANG,
    "0017": CUT,
    "0018": Behaviour(Outcome.EXPIRED),
}


def behaviour(channel: Channel, to: str) -> Behaviour:
    """Return the behaviour of an address. With several recipients in a message the first counts."""
    if channel is Channel.SMS:
        return BY_LAST_DIGITS.get(to[-4:], ORDINARY)
    local_part = to.rpartition("<")[2].partition("@")[0].partition("+")[0]
    return BY_LOCAL_PART.get(local_part.lower(), ORDINARY)
