"""The container's health check: `python /app/probe.py http://127.0.0.1:8450/readyz`.

The slim image has no curl. Exits with 0 if the answer is 200, otherwise with 1 and the reason.
"""

import sys
import urllib.error
import urllib.request

TIMEOUT_SECONDS = 3


def main() -> int:
    """Ask once and return the exit code."""
    try:
        with urllib.request.urlopen(sys.argv[1], timeout=TIMEOUT_SECONDS):
            return 0
    except urllib.error.HTTPError as refused:
        print(refused.code, refused.read(200).decode(errors="replace"))
    except OSError as unreachable:
        print(unreachable)
    return 1


if __name__ == "__main__":
    sys.exit(main())
