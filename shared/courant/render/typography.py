"""Typography of a line of text: curly quotes, en dashes, no space before a comma or a full stop."""

import re

# The look-behinds let a run of blanks match only from its first blank. Without them, the search
# starts again at each blank.
SPACE_BEFORE = re.compile(r"(?<![ \t])[ \t]+(?=[,.])")
SPACED_DASH = re.compile(r"(?<![ \t])[ \t]+[-–—]{1,3}[ \t]+")
QUOTE = re.compile(r"['\"]")
WORD = re.compile(r"\S+")
INSIDE = re.compile(r"(?<=\w)’(?=\w)")
DECADE = re.compile(r"'\d\ds")
OPENS_AFTER = "([{-–—“‘"


def typography(text: str, before: str = "") -> str:
    """Apply typography to a text; `before` is the character that the reader sees before it."""
    text = SPACE_BEFORE.sub("", text)
    if "'" in text or '"' in text:
        text = curl_quotes(text, before)
    if "’" in text and "@" in text:
        text = WORD.sub(straighten_address, text)
    return SPACED_DASH.sub(" – ", text)


def curl_quotes(text: str, before: str) -> str:
    """Make straight quotes curly: opening at the start, after a blank, a bracket or a dash."""
    pieces: list[str] = []
    end = 0
    for match in QUOTE.finditer(text):
        start = match.start()
        pieces.append(text[end:start])
        end = match.end()
        last = pieces[-1][-1:] or (pieces[-2] if len(pieces) > 1 else before)
        pieces.append(curly_quote(match[0], last, text[end : end + 1], text, start))
    return "".join(pieces) + text[end:]


def curly_quote(quote: str, last: str, following: str, text: str, start: int) -> str:
    """Choose one quote by its neighbours; in ’90s it is an apostrophe, not an opening quote."""
    opening = not last or last.isspace() or last in OPENS_AFTER
    if quote == '"':
        return "“" if opening and not following.isspace() else "”"
    return "‘" if opening and not DECADE.match(text, start) else "’"


def straighten_address(word: re.Match[str]) -> str:
    """Write an email address with straight apostrophes, otherwise it could not be copied."""
    local, at, host = word[0].rpartition("@")
    return INSIDE.sub("'", local) + at + host if at else word[0]
