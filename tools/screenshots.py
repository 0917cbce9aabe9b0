"""Make the screenshots of the README from real runs in a real terminal; needs tmux.

    python -m tools.screenshots

The loads are of generated logs, into four memcached that are started for it, one of which is killed for
the second picture.
"""

from __future__ import annotations

import io
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

from tools.make_logs import write_logs
from tools.servers import LOAD_OPTIONS, four_servers

PROJECT = Path(__file__).resolve().parent.parent
DOCS = PROJECT / "docs"
SESSION = "memcload-screenshots"
WIDTH, HEIGHT = 112, 27
TIMEOUT = 120.0  # seconds


def main() -> int:
    """Make docs/progress.svg and docs/summary.svg; return an exit code."""
    if shutil.which("tmux") is None:
        print("tmux is not installed: install the package tmux", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as directory, four_servers(*LOAD_OPTIONS) as servers:
        logs = Path(directory, "logs")
        logs.mkdir()
        write_logs(logs, files=2, lines=600_000, seed=3, malformed=0.000004)
        addresses = [word for name, server in servers.items() for word in (f"--{name}", server.address)]
        loader = [sys.executable, str(PROJECT / "memc_load_parallel.py"), "--pattern", "logs/*.tsv.gz", *addresses]
        subprocess.run([*loader, "--dry", "--log-level", "error"], cwd=directory, check=True)  # compiles
        print("A load in progress")
        with_progress = run_in_terminal(loader, Path(directory), until=r"[3-9]\d\d,\d\d\d records")
        save(with_progress, "progress.svg")
        print("How a load ends for which a server is down")
        servers["gaid"].kill()
        ends = run_in_terminal([*loader, "--again", "--retries", "1"], Path(directory), until="Finished in")
        save(ends, "summary.svg")
    return 0


def run_in_terminal(command: list[str], directory: Path, *, until: str) -> str:
    """Run a command in a terminal; return what is on the screen, with colors, once `until` can be read there."""
    line = f"clear; cd {shlex.quote(str(directory))}; {shlex.join(command)}; sleep {TIMEOUT:.0f}"
    size = ["-x", str(WIDTH), "-y", str(HEIGHT)]
    tmux("new-session", "-d", "-s", SESSION, *size, line)
    try:
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline:
            screen = tmux("capture-pane", "-p", "-e", "-t", SESSION)
            if re.search(until, Text.from_ansi(screen).plain):
                return screen
            time.sleep(0.05)
        raise TimeoutError(f"{until!r} did not appear within {TIMEOUT:.0f} seconds")
    finally:
        tmux("kill-session", "-t", SESSION)


def tmux(*arguments: str) -> str:
    """Run a command of tmux; return what it prints."""
    return subprocess.run(["tmux", *arguments], check=True, capture_output=True, text=True).stdout


def save(screen: str, name: str) -> None:
    """Save a screen as a picture in docs/."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(screen.rstrip()))
    picture = console.export_svg(title="memc-load")
    picture = re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL)  # nothing is fetched to look at it
    (DOCS / name).write_text(picture, encoding="utf-8")
    print(f"    docs/{name}")


if __name__ == "__main__":
    sys.exit(main())
