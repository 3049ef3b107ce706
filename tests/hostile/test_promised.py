"""The table of refusals has every text that the product can say."""

import ast
from collections.abc import Iterator
from pathlib import Path

import ingest
from hostile.promised import NOT_A_CLIENTS, PROMISED

MODULES = ("answers", "api", "auth", "handle", "http", "limits", "listing", "receipts", "rules")
MODULES += ("schema", "stationery", "bulk", "forms", "places", "plan", "sheet", "tally", "upload")
NOT_SAID = {"debug", "info", "warning", "error", "Forged", "Unavailable", "Error"}
"""Calls whose texts are for a log."""
WORDS_MIN = 3
COLUMN = "numéro de téléphone"
"""A header that is read, and not said."""
IN_A_ROW = "a row has more than"
"""Said within `Error converting to CSV: Row {} (line {}) - {}`."""


def texts(node: ast.AST) -> Iterator[str]:
    """Give the texts in a tree, without what is a docstring or goes to a log."""
    for each in ast.iter_child_nodes(node):
        if isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant):
            continue
        if isinstance(each, ast.Call) and name(each.func) in NOT_SAID:
            continue
        if isinstance(each, ast.Constant) and isinstance(each.value, str):
            yield each.value.strip()
        yield from texts(each)


def name(called: ast.expr) -> str:
    return called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")


def test_the_table_has_every_text_of_the_product() -> None:
    promised = "\n".join([*(each.text for each in PROMISED), *NOT_A_CLIENTS, COLUMN, IN_A_ROW])
    folder = Path(ingest.__file__ or "").parent
    trees = [ast.parse((folder / f"{module}.py").read_text()) for module in MODULES]
    said = [text for tree in trees for text in texts(tree) if len(text.split()) >= WORDS_MIN]
    assert len(said) > 40
    assert [text for text in said if text not in promised] == []
