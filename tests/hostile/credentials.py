"""Authorization headers: valid ones, and those that ingest must reject."""

import base64
import time
from collections.abc import Callable
from uuid import uuid4

from courant.contracts import KeyType
from hostile.http_request import Dice
from hostile.target import Client, Target, part, signed

Header = dict[str, str]


def bearer(token: str) -> Header:
    return {"authorization": f"Bearer {token}"}


def good(client: Client, dice: Dice) -> Header:
    """Return a valid Authorization header, with the key itself or with a token."""
    type = dice.one([KeyType.NORMAL] * 8 + [KeyType.TEST])
    if dice.once_in(2):
        return client.authorization(type)
    skew = dice.number(40) - 20
    return client.bearer(
        type, iat=dice.one([int, float, str])(time.time() + skew), more=dice.text()
    )


def claims(target: Target, dice: Dice) -> Header:
    """Return a correctly signed token whose claims are wrong."""
    wrong = dice.one([
        {"iss": None}, {"iss": 7}, {"iss": [], "iat": 0}, {"iss": "x"}, {"iss": str(uuid4())},
        {"iss": str(target.keyless.service.id)}, {"iss": str(target.other.service.id)},
        {"iat": None}, {"iat": time.time() - 31}, {"iat": time.time() + 40}, {"iat": "x"},
        {"iat": True},
        {"iat": []}, {"iat": 10**400}, {"iat": "9" * 5_000}, {"iat": "nan"}, {"iat": "inf"},
        {"iat": -1},
        {"exp": 1}, {"exp": "x"}, {"exp": None, "nbf": time.time() + 99}, {"nbf": {}}, {"aud": "x"},
        {"sub": 7}, {"jti": []}, {"iss": f"urn:uuid:{target.client.service.id}"},
        {"iss": "\0" * 36},
    ])  # fmt: skip
    wrong = {name: value for name, value in wrong.items() if name != "exp" or value is not None}
    return target.client.bearer(**wrong)


def signatures(target: Target, dice: Dice) -> Header:
    """Return a valid token with a broken part, or claims with a wrong signature."""
    token = target.client.bearer()["authorization"][7:]
    head, middle, tail = token.split(".")
    valid = {"iss": str(target.client.service.id), "iat": int(time.time())}
    secret = target.client.keys[KeyType.NORMAL][-36:]
    none = part({"alg": "none", "typ": "JWT"})
    return bearer(str(dice.one([
        f"{none}.{middle}.", f"{none}.{middle}.{tail}", f"{part({'alg': 'None'})}.{middle}.{tail}",
        signed(valid, str(uuid4())), signed(valid, ""), signed(valid, secret, "HS384"),
        signed(valid, secret, "HS512"), signed(valid, target.other.keys[KeyType.NORMAL][-36:]),
        f"{head}.{middle}.", f"{head}.{middle}", f"{head}..{tail}", f".{middle}.{tail}", "..", ".",
        "x",
        f"{token}.{tail}", f"{head}.{middle}.{tail[::-1]}", f"{token}=", f"{token} x", token[:-2],
        f"{part({'alg': 'RS256'})}.{middle}.{tail}",
        f"{part({'alg': 'HS256', 'crit': ['x']})}.{middle}.{tail}",
        f"{part({'alg': ['HS256']})}.{middle}.{tail}", f"{part([])}.{middle}.{tail}",
        f"{head}.{part(7)}.{tail}",
        f"{head}.{part(dict(valid, a='x' * 5_000))}.{tail}", f"{'A' * 5_000}.{middle}.{tail}",
        f"{head}.{base64.b64encode(b'[' * 3_000).decode()}.{tail}",
        f"{head}.{part(valid)}\u00e9.{tail}",
    ])))  # fmt: skip


def keys(target: Target, dice: Dice) -> Header:
    """Return a key that does not exist or was revoked."""
    client = target.client
    whole = client.keys[KeyType.NORMAL]
    secret, service = whole[-36:], str(client.service.id)
    token = dice.one([
        "", "x", secret, f"{service}-{secret}", f"gcntfy-{secret}", f"gcntfy-x-{uuid4()}-{secret}",
        f"gcntfy-x-{target.other.service.id}-{secret}", whole[:-1], f"{whole}x",
        whole.upper(), f"gcntfy-x-{service}-{uuid4()}", "gcntfy-" + "x" * 4_000, f"x{whole}",
        f"gcntfy-x{service}{secret}", f"gcntfy-x-{service}-\xe9{secret[1:]}", *target.revoked,
    ])  # fmt: skip
    return {"authorization": f"ApiKey-v1 {token}"}


def revoked(target: Target, dice: Dice) -> Header:
    """Return a token of a suspended service, or one that is signed with a revoked key."""
    valid = {"iss": str(target.client.service.id), "iat": int(time.time())}
    if dice.once_in(3):
        return target.suspended.bearer()
    return bearer(signed(valid, dice.one(target.revoked)[-36:]))


def schemes(target: Target, dice: Dice) -> Header:
    """Return an unknown authorization scheme, or a known one that is misspelt."""
    key = target.client.keys[KeyType.NORMAL]
    return {"authorization": str(dice.one([
        "", " ", "Basic eDp4", "Digest x", "Bearer", "ApiKey-v1", "ApiKey-v2 x", f"apikey {key}",
        key, "\xff",
        f"Token {key}", "Negotiate " + "A" * 9_000, f"ApiKey_v1 {key}", f"Bearer {key}",
        "ApiKey-v1\t",
    ]))}  # fmt: skip


WAYS: tuple[Callable[[Target, Dice], Header], ...] = (
    claims, claims, signatures, signatures, keys, revoked, schemes,
)  # fmt: skip


def bad(target: Target, dice: Dice) -> Header:
    """Return a header that ingest must reject, or none at all."""
    return {} if dice.once_in(20) else dice.one(WAYS)(target, dice)
