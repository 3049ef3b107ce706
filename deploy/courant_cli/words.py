"""Reports words that our own prose does not use: `python -m courant_cli.words [FILE…]`.

It reads comments, docstrings, log texts and help texts, and Markdown outside of code. The words and
their replacements are in docs/words.toml. Names, other strings and code spans are not prose.
"""

import ast
import re
import sys
import tokenize
import tomllib
from collections.abc import Iterable, Iterator
from io import StringIO
from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt

from courant_local.home import PROJECT

FOLDERS = ("shared", "services", "deploy", "tests", "bench", "docs")
LOG_CALLS = {"debug", "info", "warning", "error", "exception", "critical"}
METRICS = {"Counter", "Gauge", "Histogram"}
HELP = {"help", "description"}
WORD_SHOWN = 40


class Prose(NamedTuple):
    """A text of ours, and the line where it begins."""

    line: int
    text: str
    docstring: bool = False


class Rule(NamedTuple):
    pattern: re.Pattern[str]
    instead: str
    docstrings_only: bool


def rules(file: Path = PROJECT / "docs/words.toml") -> list[Rule]:
    listed = tomllib.loads(file.read_text())
    return [
        *(Rule(whole(word), instead, False) for word, instead in listed["anywhere"].items()),
        *(Rule(whole(word, r"\A\s*"), instead, True) for word, instead in listed["first"].items()),
    ]


def whole(word: str, before: str = "") -> re.Pattern[str]:
    blanks = word.replace(" ", r"\s+")
    return re.compile(rf"{before}\b(?:{blanks})(?!\w)", re.IGNORECASE)


def comments(lines: Iterable[tuple[int, str]]) -> Iterator[Prose]:
    """Join the comments of consecutive lines, so that a phrase is found across a line's end."""
    first, last, joined = 0, -1, ""
    for line, text in lines:
        if line != last + 1:
            yield Prose(first, joined)
            first, joined = line, ""
        joined += text.lstrip("#") + "\n"
        last = line
    yield Prose(first, joined)


def of_python(source: str) -> Iterator[Prose]:
    tokens = tokenize.generate_tokens(StringIO(source).readline)
    yield from comments((t.start[0], t.string) for t in tokens if t.type == tokenize.COMMENT)
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield Prose(node.lineno, text, docstring=True)
            case ast.Call(func=ast.Attribute(value=ast.Name(id="log" | "logging"), attr=name)) if (
                name in LOG_CALLS
            ):
                yield from strings(node.args[:1])
            case ast.Call(func=ast.Name(id=name)) if name in METRICS:
                yield from strings(node.args[1:2])
            case ast.keyword(arg=name, value=value) if name in HELP:
                yield from strings([value])


def strings(nodes: Iterable[ast.expr]) -> Iterator[Prose]:
    for each in (inner for node in nodes for inner in ast.walk(node)):
        if isinstance(each, ast.Constant) and isinstance(each.value, str):
            yield Prose(each.lineno, each.value)


def of_markdown(source: str) -> Iterator[Prose]:
    for block in MarkdownIt("commonmark").enable("table").parse(source):
        if block.type == "inline" and block.map:
            text = ""
            for part in block.children or ():
                if part.type in {"softbreak", "hardbreak"}:
                    text += "\n"
                elif part.type == "text":
                    text += part.content
                elif part.type == "code_inline":
                    text += "`code`"
            yield Prose(block.map[0] + 1, text)


def of_others(source: str) -> Iterator[Prose]:
    """Yield the comments of a shell script, a Makefile, a Dockerfile, YAML."""
    found = ((n, re.search(r"(?:^|\s)#+\s(.*)", s)) for n, s in enumerate(source.splitlines(), 1))
    yield from comments((number, comment[1]) for number, comment in found if comment)


def prose(file: Path) -> Iterator[Prose]:
    of = {".py": of_python, ".md": of_markdown}.get(file.suffix, of_others)
    for each in of(file.read_text()):
        # What stands in backticks is a name, or a quotation.
        yield each._replace(
            text=re.sub("`[^`]*`", lambda m: re.sub(r"[^\n]", "`", m[0]), each.text)
        )


def found(file: Path, listed: Iterable[Rule]) -> Iterator[tuple[int, str, str]]:
    """Yield the line of each such word, the word, and what to use instead."""
    for text in prose(file):
        for rule in listed:
            if rule.docstrings_only and not text.docstring:
                continue
            for match in rule.pattern.finditer(text.text):
                line = text.line + text.text.count("\n", 0, match.start())
                yield line, " ".join(match[0].split()), rule.instead


def ours() -> Iterator[Path]:
    for kind in ("*.py", "*.md", "*.sh", "*.yml", "*Dockerfile"):
        yield from (file for folder in FOLDERS for file in (PROJECT / folder).rglob(kind))
    yield from PROJECT.glob("*.md")
    yield from (PROJECT / name for name in ("Makefile", "docker-compose.yml", ".ci/run"))


def main(named: list[str]) -> int:
    listed = rules()
    count = 0
    for file in sorted(map(Path.resolve, map(Path, named)) if named else ours()):
        for line, word, instead in sorted(found(file, listed)):
            count += 1
            print(f'{file.relative_to(PROJECT)}:{line}: "{word[:WORD_SHOWN]}" -> {instead}')
    if count:
        print(f"{count} words of docs/words.toml: reword these sentences")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
