"""SMS: replacing characters that telephones do not have, and counting length and parts.

Only the characters of the GSM alphabet and of a few languages are kept. All others are replaced,
otherwise one stray character makes every part of a message half as long. Source: 3GPP TS 23.038,
23.040.
"""

import re
from unicodedata import category, decomposition

LIMIT = 612  # units of a whole message, including its prefix: four parts of 153

GSM = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
EXTENSION = "^{}\\[~]|€"  # two units each
WELSH = frozenset("ÂâÊêÎîÔôÛûŴŵŶŷ")
FRENCH = frozenset("ÀÂËÎÏÔŒÙÛâçêëîïôœû")
# Inuktitut, Cree and Ojibwe.
SYLLABICS = frozenset(
    "ᐁᐃᐄᐅᐆᐊᐋᐞᐤᐦᐧᐯᐱᐲᐳᐴᐸᐹᑉᑊᑌᑎᑏᑐᑑᑕᑖᑦᑫᑭᑮᑯᑰᑲᑳᒃᒉᒋᒌᒍᒎᒐᒑᒡᒣᒥᒦᒧᒨᒪᒫᒻᓀᓂᓃᓄᓅᓇᓈᓐᓓᓕᓖᓗᓚᓪᓭᓯᓰᓱ"
    "ᓲᓴᓵᔅᔐᔑᔒᔓᔔᔕᔖᔥᔦᔨᔩᔪᔫᔭᔮᔾᕂᕆᕇᕈᕋᕐᕓᕕᕖᕗᕙᕝᕴᕵᕶᕷᕹᕻᕼᕿᖀᖁᖃᖅᖏᖐᖑᖓᖕᖖᖠᖡᖢᖤᖦᖨᖩᖪᖬᖮᖯᙯᙰᙱᙲᙳᙵ"
    "ᣔᣕᣖᣗᣘᣙᣚᣛᣜ𑪰𑪱𑪲𑪴𑪶𑪷𑪸𑪺"
)
WIDE = (WELSH | FRENCH | SYLLABICS) - GSM
KEPT = GSM | frozenset(EXTENSION) | WIDE
REPLACED = {
    "–": "-", "—": "-", "…": "...", "‘": "'", "’": "'", "“": '"', "”": '"',
    "\t": " ", "\u00a0": "", "\u200b": "",
}  # fmt: skip

SPACE_BEFORE = re.compile(r"(?<![ \t])[ \t]+(?=[,.])")
ANY_WIDE = re.compile(f"[{''.join(sorted(WIDE))}]")
ANY_EXTENSION = re.compile(f"[{re.escape(EXTENSION)}]")
LINE_END = re.compile(r"\r\n?")


class Downgrade(dict[int, str]):
    """A table for str.translate that computes missing entries and does not store them."""

    def __missing__(self, code: int) -> str:
        return downgraded(chr(code))


def downgraded(character: str) -> str:
    """Return one character's substitute: itself, a replacement, its base letter, or `?`."""
    if character in KEPT:
        return character
    if (replacement := REPLACED.get(character)) is not None:
        return replacement
    base = decomposition(character).partition(" ")[0]
    if base and not base.startswith("<") and category(character).startswith("L"):
        return downgraded(chr(int(base, 16)))
    return "?"


# Latin, punctuation and symbols up to the euro, and syllabics: nearly every character in use.
TABLE = Downgrade(
    {n: downgraded(chr(n)) for bounds in [(0, 0x600), (0x1400, 0x2100)] for n in range(*bounds)}
)


def content(filled: str) -> str:
    """Return a filled template as the text of an SMS, without a prefix, as the API shows it."""
    text = SPACE_BEFORE.sub("", filled.translate(TABLE))
    return (LINE_END.sub("\n", text) if "\r" in text else text).strip()


def sent(filled: str, prefix: str | None) -> str:
    """Return a filled template as it is sent: after `prefix: ` if there is a prefix."""
    return content(f"{prefix.strip()}: {filled}" if prefix else filled)


def units(text: str, prefix: str | None = None) -> int:
    """Count the units of a downgraded `content` and its prefix.

    A character counts one unit, and a character of the extension two. If the text has a character
    outside GSM, the whole message is sent in UCS-2 and every character counts one unit.
    """
    doubled = 0 if ANY_WIDE.search(text) else len(ANY_EXTENSION.findall(text))
    return len(text) + doubled + (len(prefix) + 2 if prefix else 0)


def too_long(text: str, prefix: str | None = None) -> bool:
    """Return whether a downgraded `content`, with its prefix, is longer than may be sent."""
    return units(text, prefix) > LIMIT


def fragments(text: str, prefix: str | None = None) -> int:
    """Count the parts of a downgraded `content`, of 160/153 units in GSM, 70/67 in UCS-2.

    The first number is the length of a message with one part, the second of each part of several.
    """
    single, part = (70, 67) if ANY_WIDE.search(text) else (160, 153)
    count = units(text, prefix)
    return 1 if count <= single else -(-count // part)
