"""The HTML document around an email's fragment; it loads nothing, and has a light and dark mode."""

from courant.render.markdown import escape

PREVIEW_MAX = 256  # characters of the text that a mailbox shows beside the subject

STYLE = """\
body{margin:0;padding:0;background:#fff;color:#0b0c0c}
main{display:block;max-width:580px;margin:0 auto;padding:24px 16px;\
font:19px/1.4 Helvetica,Arial,sans-serif}
h2{font-size:27px;line-height:1.3;margin:0 0 16px}
h3{font-size:22px;line-height:1.3;margin:0 0 12px}
p{margin:0 0 20px}
table{border:0;border-spacing:0;padding:0 0 20px}
td{font:inherit;padding:0}
ul,ol{margin:0;padding:0 0 0 24px}
li{margin:5px 0;padding:0 0 0 5px}
a{color:#284162;word-break:break-word}
blockquote{margin:0 0 20px;padding:12px 0 1px 16px;border-left:8px solid #bfc1c3}
hr{border:0;height:1px;background:#bfc1c3;margin:28px 0}
.preview{display:none;max-height:0;overflow:hidden}
@media (prefers-color-scheme:dark){body{background:#121212;color:#f3f3f3}a{color:#9ec1f7}}"""

BEFORE_TITLE = (
    '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
    '<meta name="color-scheme" content="light dark">\n'
    '<meta name="supported-color-schemes" content="light dark">\n<title>'
)
BEFORE_PREVIEW = (
    f"</title>\n<style>\n{STYLE}\n</style>\n</head>\n<body>\n"
    '<div class="preview" style="display:none;max-height:0;overflow:hidden">'
)
BEFORE_FRAGMENT = "</div>\n<main>\n"
END = "\n</main>\n</body>\n</html>\n"


def page(fragment: str, subject: str, text: str) -> str:
    """Put a fragment into its document, with the beginning of its plain text as the preview."""
    preview = " ".join(text[: 2 * PREVIEW_MAX].split())[:PREVIEW_MAX]
    return "".join(
        (
            *(BEFORE_TITLE, escape(subject), BEFORE_PREVIEW, escape(preview)),
            *(BEFORE_FRAGMENT, fragment, END),
        )
    )
