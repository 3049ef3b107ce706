"""The check of our own words: what counts as prose, and what it reports of it."""

from pathlib import Path

import pytest

from courant_cli import words
from courant_cli.words import found, rules

RULES = rules()


def reported(folder: Path, name: str, text: str) -> list[tuple[int, str]]:
    file = folder / name
    file.write_text(text)
    return sorted((line, word) for line, word, _ in found(file, RULES))


PYTHON = {
    "a docstring": ('"""Waits for better weather."""\n', [(1, "weather")]),
    "a later line of a docstring": ('"""Waits.\n\nFor weather.\n"""\n', [(3, "weather")]),
    "a docstring of an attribute": ("A = 1\n'''The weather.'''\n", [(2, "weather")]),
    "the first word of a docstring": ('"""Give a row."""\n', [(1, "Give")]),
    "a comment": ("a = 1  # the weather\n", [(1, "weather")]),
    "a phrase across two lines": ("# A slow client is let\n# go here.\n", [(1, "let go")]),
    "a sentence about nobody": ("# Who waits is answered.\n", [(1, "Who waits is answered.")]),
    "a log text": ('log.warning("bad weather")\n', [(1, "weather")]),
    "a help text": ('typer.Option(help="the weather")\n', [(1, "weather")]),
    "a setting's description": ('Field(description="a wish")\n', [(1, "wish")]),
    "a metric's help": ('Gauge("a_b", "The weather.", ["c"])\n', [(1, "weather")]),
}


@pytest.mark.parametrize(("text", "expected"), PYTHON.values(), ids=PYTHON)
def test_it_reports_a_word_in_python(
    text: str, expected: list[tuple[int, str]], tmp_path: Path
) -> None:
    assert reported(tmp_path, "a.py", text) == expected


CLEAN = {
    "a name": "weather = wish.told\n",
    "another string": 'a = "weather"\n',
    "a field of a log line": 'log.info("paused", extra={"weather": "told"})\n',
    "a code span": '"""Returns `weather`."""\n',
    "None is a value": "# The answer is None.\n",
    "a part of a word": "# The powerhouse is weathered.\n",
    "give as a later word": '"""Return what rules give."""\n',
    "give in a comment": "# Give it time.\n",
    "a question": "# Who waits? The consumer does.\n",
    "comments that are apart": "# They let\n\n# go on.\n",
}


@pytest.mark.parametrize("text", CLEAN.values(), ids=CLEAN)
def test_it_passes_over_what_is_no_prose_or_is_good(text: str, tmp_path: Path) -> None:
    assert reported(tmp_path, "a.py", text) == []


def test_it_reads_markdown_outside_of_code(tmp_path: Path) -> None:
    text = """# The weather

It is `weather` that is
let
go.

    weather

```
weather
```

| Who may | a role. |
| --- | --- |
| [told](weather.md) | c |

- An item

  that was told.
"""
    assert reported(tmp_path, "a.md", text) == [
        (1, "weather"),
        (4, "let go"),
        (15, "told"),
        (19, "told"),
    ]


def test_it_reads_comments_of_other_files(tmp_path: Path) -> None:
    text = "up: made  ## Told here.\n\techo weather\n# The weather\n"
    assert reported(tmp_path, "Makefile", text) == [(1, "Told"), (3, "weather")]


def test_it_fails_on_a_banned_word_and_names_the_place_and_the_replacement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(words, "PROJECT", tmp_path)
    good, bad = tmp_path / "good.md", tmp_path / "bad.md"
    good.write_text("Kafka is unavailable.\n")
    bad.write_text("The weather is bad.\n")
    assert words.main([str(good)]) == 0
    assert capsys.readouterr().out == ""
    assert words.main([str(good), str(bad)]) == 1
    assert 'bad.md:1: "weather" -> unavailable\n' in capsys.readouterr().out
