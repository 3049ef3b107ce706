"""Authentication: each reason to reject a client, in the order of the checks."""

import base64
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import jwt
import msgspec
import pytest
import time_machine

from courant.contracts import KeyType
from ingest.callers.auth import CLOCK_SECONDS
from support.ingest.world import (
    SERVICE,
    World,
    api_key,
    email,
    key,
    messages,
    secret_of,
    service,
    token,
)

PATH = "/v2/notifications/email"
OTHER = UUID("5e000000-0000-4000-8000-0000000000ff")
NOW = time.time()


@pytest.fixture(autouse=True)
def shortly_after_collection() -> Iterator[None]:
    # A token is valid for 30 s, and those below are made when the tests are collected.
    with time_machine.travel(NOW + 1, tick=True):
        yield


def answer_for(world: World, authorization: str | None) -> tuple[int, str]:
    headers = {"authorization": "" if authorization is None else authorization}
    answer = world.call("POST", PATH, json=email(), headers=headers)
    return answer.status_code, "accepted" if answer.status_code == 201 else messages(answer)[0]


def unsigned(header: object, claims: object) -> str:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    return f"{part(header)}.{part(claims)}."


REJECTED = {
    "nothing": (None, 401, "Unauthorized, authentication token must be provided"),
    "no JWT": ("Bearer x", 403, "Invalid token: signature, api token is not valid"),
    "two parts": ("Bearer a.b", 403, "Invalid token: signature, api token is not valid"),
    "claims no object": (
        f"Bearer {unsigned({'alg': 'HS256'}, [1])}",
        403,
        "Invalid token: signature, api token is not valid",
    ),
    "no issuer": (f"Bearer {token(issuer=None)}", 403, "Invalid token: iss field not provided"),
    "issuer a number": (
        f"Bearer {unsigned({'alg': 'HS256'}, {'iss': 5, 'iat': NOW})}",
        403,
        "Invalid token: service id is not the right data type",
    ),
    "issuer no UUID": (
        f"Bearer {token(issuer='x')}",
        403,
        "Invalid token: service id is not the right data type",
    ),
    "unknown service": (
        f"Bearer {token(issuer=str(OTHER))}",
        403,
        "Invalid token: service not found",
    ),
    "another key": (f"Bearer {token(77)}", 403, "Invalid token: signature, api token not found"),
    "no algorithm": (
        f"Bearer {unsigned({'alg': 'none'}, {'iss': str(SERVICE), 'iat': NOW})}",
        403,
        "Invalid token: signature, api token not found",
    ),
    "no iat": (f"Bearer {token(iat=None)}", 403, "Invalid token: signature, api token not found"),
    "expired": (
        f"Bearer {token(exp=NOW - 1)}",
        403,
        "Invalid token: signature, api token not found",
    ),
    "audience": (f"Bearer {token(aud='x')}", 403, "Invalid token: signature, api token not found"),
    "future nbf": (
        f"Bearer {token(nbf=NOW + 500)}",
        403,
        "Error: Your system clock must be accurate to within 30 seconds",
    ),
    "old": (
        f"Bearer {token(iat=NOW - CLOCK_SECONDS - 5)}",
        403,
        "Error: Your system clock must be accurate to within 30 seconds",
    ),
    "ahead": (
        f"Bearer {token(iat=NOW + 600)}",
        403,
        "Error: Your system clock must be accurate to within 30 seconds",
    ),
    "key without its front": (
        f"ApiKey-v1 {api_key(1)[7:]}",
        403,
        "Invalid token: Enter your full API key",
    ),
    "unknown key": (f"ApiKey-v1 {api_key(99)}", 403, "Invalid token: API key not found"),
    "another's key": (
        f"ApiKey-v1 {api_key(1, OTHER)}",
        403,
        "Invalid token: Enter your full API key",
    ),
    "key too short": (
        f"ApiKey-v1 gcntfy-{secret_of(1)}",
        403,
        "Invalid token: Enter your full API key",
    ),
}


@pytest.mark.parametrize("name", REJECTED)
def test_a_failed_authentication_is_answered_with_its_reason(name: str) -> None:
    authorization, status, text = REJECTED[name]
    assert answer_for(World(), authorization) == (status, text)


def test_an_iat_that_is_not_a_number_is_answered_as_a_wrong_clock() -> None:
    bad_times: list[object] = ["yesterday", True, [1], {}, "1e999"]
    for iat in bad_times:
        claims = {"iss": str(SERVICE), "iat": iat}
        front = base64.urlsafe_b64encode(b'{"alg":"HS256"}').rstrip(b"=")
        back = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=")
        signed = front + b"." + back
        signature = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(
            signed, secret_of(1).encode()
        )
        token_ = signed + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")
        assert answer_for(World(), f"Bearer {token_.decode()}")[1].startswith(
            "Error: Your system clock"
        )


@pytest.mark.parametrize(
    "authorization",
    [
        f"Bearer {token()}",
        f"bEaReR {token(iat=time.time() + 0.5)}",
        f"Bearer  {token(iat=str(int(time.time())))} ",
        f"Bearer {token(issuer='{' + str(SERVICE).upper() + '}')}",
        f"ApiKey-v1 {api_key(1)}",
        f"apikey-V1 {api_key(1)}",
    ],
)
def test_a_valid_jwt_or_key_is_accepted(authorization: str) -> None:
    assert answer_for(World(), authorization) == (201, "accepted")


def test_a_key_with_an_expiry_is_revoked_even_before_it_expires() -> None:
    world = World()
    world.change(msgspec.structs.replace(key(1), expires_at=datetime.now(UTC) + timedelta(days=9)))
    for authorization in (f"Bearer {token()}", f"ApiKey-v1 {api_key(1)}"):
        assert answer_for(world, authorization) == (403, "Invalid token: API key revoked")
    # The clock is checked before that.
    assert "clock" in answer_for(world, f"Bearer {token(iat=5)}")[1]


def test_a_service_without_keys_and_a_suspended_service_are_rejected() -> None:
    world = World()
    world.change(msgspec.structs.replace(service(), id=OTHER))
    expected = "Invalid token: service has no API keys"
    assert answer_for(world, f"Bearer {token(issuer=str(OTHER))}") == (403, expected)
    world.change(service(active=False))
    assert answer_for(world, f"Bearer {token()}") == (403, "Invalid token: service is archived")
    assert answer_for(world, f"ApiKey-v1 {api_key(1)}") == (403, "Service is suspended")
    answer = world.call("GET", "/v2/notifications")
    assert answer.status_code == 200


def test_a_key_whose_secret_cannot_be_decrypted_matches_no_jwt() -> None:
    world = World()
    world.change(msgspec.structs.replace(key(1, KeyType.NORMAL), secret=b"\x01?rubbish"))
    assert "api token not found" in answer_for(world, f"Bearer {token()}")[1]


def test_a_client_is_answered_503_until_the_directory_is_read() -> None:
    world = World()
    world.directory.is_read = False
    assert answer_for(world, f"ApiKey-v1 {api_key(1)}") == (503, "The directory is not read yet")
