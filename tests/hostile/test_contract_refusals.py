"""The table of refusals contains every text with which ingest can refuse."""

import ast
from collections.abc import Iterator
from pathlib import Path

import ingest
from hostile.contract_refusals import CONTRACT_REFUSALS, NOT_CAUSED_BY_CLIENTS

MODULES = ("api", "http/admission", "http/answers", "http/asgi", "http/fields", "http/multipart")
MODULES += (
    "callers/auth",
    "callers/fair_share",
    "callers/limits",
    "callers/safelist",
)
MODULES += ("accept/content", "accept/handle", "accept/idempotency", "accept/rules")
MODULES += ("read/listing", "read/templates", "receipts/handle", "receipts/sns")
MODULES += ("bulk/chunk_writer", "bulk/columns", "bulk/forms", "bulk/handle", "bulk/plan")
MODULES += ("bulk/rows",)
NOT_SAID = {"debug", "info", "warning", "error", "Forged", "Unavailable", "Error"}
NOT_SAID |= {"ClockBehind", "note_trouble", "put_off"}
"""Calls whose texts go to a log, not into an answer."""
WORDS_MIN = 3
COLUMN = "numéro de téléphone"
"""A column header that ingest reads but never answers."""
IN_A_ROW = "a row has more than"
"""Answered within `Error converting to CSV: Row {} (line {}) - {}`."""

NOT_ANSWERED = "not a JSON object"
"""The reason of a Malformed heartbeat, for which ingest answers UNREADABLE_HEARTBEAT."""


def texts(node: ast.AST) -> Iterator[str]:
    """Yield the texts in a syntax tree, without docstrings and texts for a log."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
            continue
        if isinstance(child, ast.Call) and name(child.func) in NOT_SAID:
            continue
        if isinstance(child, ast.Constant) and isinstance(child.value, str):
            yield child.value.strip()
        yield from texts(child)


def name(called: ast.expr) -> str:
    return called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")


def test_the_table_contains_every_refusal_of_ingest() -> None:
    promised = "\n".join(
        [
            *(each.text for each in CONTRACT_REFUSALS),
            *NOT_CAUSED_BY_CLIENTS,
            COLUMN,
            IN_A_ROW,
            NOT_ANSWERED,
        ]
    )
    folder = Path(ingest.__file__ or "").parent
    trees = [ast.parse((folder / f"{module}.py").read_text()) for module in MODULES]
    said = [text for tree in trees for text in texts(tree) if len(text.split()) >= WORDS_MIN]
    assert len(said) > 40
    assert [text for text in said if text not in promised] == []
