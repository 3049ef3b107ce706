"""Every error log line names a runbook page, and every page that is named exists."""

import ast
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from courant.runbooks import Runbook

ROOT = Path(__file__).parents[2]
PACKAGES = ["courant", "ingest", "saver", "deliverer", "job_runner", "recovery"]
"""The packages whose every error line names its page."""


@pytest.mark.parametrize("runbook", Runbook)
def test_a_runbook_is_a_page_with_that_heading(runbook: Runbook) -> None:
    page, heading = runbook.split("#")
    headings = re.findall(r"^#+ (.*)$", (ROOT / page).read_text(), re.MULTILINE)
    assert heading in [anchor(each) for each in headings]


def anchor(heading: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("package", PACKAGES)
def test_every_error_line_names_its_runbook(package: str) -> None:
    lines = list(error_lines(package))
    assert lines
    assert [line for line in lines if "Runbook." not in line] == []


def error_lines(package: str) -> Iterator[str]:
    """Return each call of log.error, log.exception or log.critical, with what `fields` holds."""
    spec = importlib.util.find_spec(package)
    assert spec
    assert spec.origin
    for path in Path(spec.origin).parent.rglob("*.py"):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                fields = [
                    ast.unparse(node)
                    for node in ast.walk(function)
                    if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "fields"
                ]
                yield from (" ".join([call, *fields]) for call in error_calls(function))


def error_calls(function: ast.AST) -> Iterator[str]:
    for node in ast.walk(function):
        match node:
            case ast.Call(
                func=ast.Attribute(
                    value=ast.Name(id="log"), attr="error" | "exception" | "critical"
                )
            ):
                yield ast.unparse(node)
