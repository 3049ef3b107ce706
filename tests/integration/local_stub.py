"""A supervisor over small programs of the test's own: `python local_stub.py HOME STORY`.

A program serves /readyz and logs what it hears; STORY says which programs there are, by name:
`well`, `deaf` (to TERM), `broken` (ends at once), `late` (never ready).
"""

import json
import sys
from pathlib import Path

from courant import logs
from courant_local import home, leftovers, ports, processes
from courant_local.child import Child
from courant_local.plan import Plan
from courant_local.processes import Part, Stage
from courant_local.supervisor import Supervisor

STOP_SECONDS, DEAF_SECONDS = 60.0, 0.5  # how long one may take to stop, before it is killed
SERVER = """
import http.server, signal, sys, os, time
kind = sys.argv[2]
if kind == "broken":
    sys.exit("broken: no such setting")
def term(*_):
    print("heard TERM", time.time(), flush=True)
    if kind != "deaf":
        os._exit(0)
signal.signal(signal.SIGTERM, term)
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        print("asked", flush=True)
        self.send_response(503 if kind == "late" else 200)
        self.end_headers()
    def log_message(self, *_): ...
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
"""


def part(plan: Plan, name: str, kind: str, port: int) -> Part:
    command = (sys.executable, "-S", "-c", SERVER, str(port), kind)
    child = Child(
        name, command, plan.log(name), stop_seconds=DEAF_SECONDS if kind == "deaf" else STOP_SECONDS
    )
    url = f"http://{ports.HOST}:{port}"
    return Part(
        name, kind, 1, url, port, child, child.start, lambda: processes.answers_ready(port), port
    )


def main(place: Path, story: dict[str, list[str]], restart: bool) -> int:
    logs.start("supervisor", "json", "info")
    plan = Plan(place, ports.DEFAULTS, home.own_secrets(place), restart=restart)
    stages = [
        Stage(title, [part(plan, f"{title}-{kind}", kind, ports.free()) for kind in kinds])
        for title, kinds in story.items()
    ]
    with home.locked(plan.home / "lock"):
        leftovers.end(home.read(plan.home / "stack.json"))
        return Supervisor(plan, stages).run()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3] == "restart"))
