"""The inbox: the messages, newest first, and each one as its recipient would see it.

A message's HTML is untrusted: it is shown in an iframe with every sandbox restriction. The frame
inherits the page's Content-Security-Policy, which allows nothing to be fetched or run.
"""

import base64
from collections.abc import Iterator, Mapping
from datetime import datetime
from html.parser import HTMLParser
from itertools import islice
from pathlib import Path
from urllib.parse import urlencode

import jinja2

from courant_sandbox import ses
from courant_sandbox.ledger import Kept, Ledger
from courant_sandbox.messages import Parts, Reply

ROWS_A_PAGE = 50
SNIPPET_CHARACTERS = 140
FOLLOW_SECONDS = 5
TEMPLATES = Path(__file__).parent / "pages"

# A message may hold styles and images inside itself, so these are allowed; external ones are not.
POLICY = (
    b"default-src 'none'; style-src 'self' 'unsafe-inline'; img-src data:; frame-src 'self'; "
    b"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = [
    (b"content-type", b"text/html; charset=utf-8"),
    (b"content-security-policy", POLICY),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
]


class Page:
    """Renders the messages that the ledger keeps."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._style = (TEMPLATES / "style.css").read_bytes()
        self._pages = jinja2.Environment(
            loader=jinja2.FileSystemLoader(TEMPLATES),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=jinja2.StrictUndefined,
        )
        self._pages.filters |= {"clock": _clock, "snippet": _snippet}

    def inbox(self, query: Mapping[str, str]) -> Reply:
        asked = query.get("q", "").strip()
        channel = query.get("channel", "")
        page = int(query["page"]) if query.get("page", "").isdecimal() else 1
        found = self._found(asked.casefold(), channel)
        rows = list(islice(found, (page - 1) * ROWS_A_PAGE, page * ROWS_A_PAGE + 1))
        follow = query.get("follow") == "1"
        here = {"q": asked, "channel": channel, "page": page, "follow": int(follow)}
        return self._html(
            200,
            "inbox.html",
            link=lambda **changes: f"/?{urlencode(here | changes)}",
            rows=rows[:ROWS_A_PAGE],
            more=len(rows) > ROWS_A_PAGE,
            page=page,
            asked=asked,
            channel=channel,
            follow=follow,
            follow_seconds=FOLLOW_SECONDS,
            booked=self._ledger.lines(),
        )

    def message(self, message_id: str, query: Mapping[str, str]) -> Reply:
        kept = self._ledger.kept(message_id)
        if kept is None:
            return self._html(404, "missing.html")
        parts = _readable(kept.parts)
        shown = query.get("part", "")
        if shown not in ("html", "text"):
            shown = "html" if parts.html is not None else "text"
        return self._html(200, "message.html", kept=kept, parts=parts, shown=shown)

    def style(self) -> Reply:
        return Reply(200, [(b"content-type", b"text/css; charset=utf-8")], self._style)

    def _found(self, asked: str, channel: str) -> Iterator[Kept]:
        for kept in self._ledger.newest():
            if channel in ("", kept.entry.channel.value) and _holds(kept, asked):
                yield kept

    def _html(self, status: int, name: str, **values: object) -> Reply:
        page = self._pages.get_template(name).render(**values)
        return Reply(status, HEADERS, page.encode("utf-8", "replace"))


def _holds(kept: Kept, asked: str) -> bool:
    entry, parts = kept.entry, kept.parts
    texts = (entry.to, entry.notification_id, entry.message_id, parts.subject, parts.text)
    return not asked or any(asked in text.casefold() for text in texts if text)


def _readable(parts: Parts) -> Parts:
    """Parse a raw MIME message; return others unchanged."""
    if parts.raw is None:
        return parts
    mail = ses.mime(base64.b64decode(parts.raw))
    text, html = mail.get_body(("plain",)), mail.get_body(("html",))
    return Parts(
        subject=str(mail.get("Subject", "")),
        text=None if text is None else str(text.get_content()),
        html=None if html is None else str(html.get_content()),
    )


class _Words(HTMLParser):
    """Collects the text of an HTML part, for its one line in the inbox."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self._unseen = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002 (the base class calls it so)
        self._unseen += tag in ("style", "script", "title")

    def handle_endtag(self, tag: str) -> None:
        self._unseen -= tag in ("style", "script", "title")

    def handle_data(self, data: str) -> None:
        if self._unseen <= 0:
            self.words.append(data)


def _snippet(kept: Kept) -> str:
    """Return the first words of a message, on one line."""
    parts = _readable(kept.parts)
    text = parts.text
    if text is None:
        words = _Words()
        words.feed((parts.html or "")[:20_000])
        text = " ".join(words.words)
    line = " ".join(text[:2_000].split())
    return line if len(line) <= SNIPPET_CHARACTERS else line[: SNIPPET_CHARACTERS - 1] + "…"


def _clock(at: str) -> str:
    return f"{datetime.fromisoformat(at):%Y-%m-%d %H:%M:%S}"
