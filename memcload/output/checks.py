"""What a check found: as a table on a terminal, as log lines elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from memcload.log import LOG, log_lines

_NARROWEST_TABLE = 60  # characters

Kind = Literal["ok", "hint", "problem"]
_LEVELS = {"ok": logging.INFO, "hint": logging.WARNING, "problem": logging.ERROR}
_STYLES = {"ok": "green", "hint": "yellow", "problem": "bold red"}


@dataclass(frozen=True)
class Finding:
    """What was found out about something that a load needs.

    subject: what that is
    what: how it is, where a load can do with that
    problem: why a load could not
    advice: what to do about a problem, or what would make the load better
    """

    subject: str
    what: str = ""
    problem: str = ""
    advice: str = ""

    @property
    def kind(self) -> Kind:
        """Whether something has to be done, could be done, or nothing."""
        return "problem" if self.problem else "hint" if self.advice else "ok"


def show_findings(findings: Sequence[Finding], *, as_table: bool) -> None:
    """Tell what was found on standard error: as a table, or in the log."""
    if not (as_table and _print(findings)):
        log_lines((_LEVELS[finding.kind], _in_a_line(finding)) for finding in findings)
    problems = sum(finding.kind == "problem" for finding in findings)
    if problems:
        found, them = ("problem", "it") if problems == 1 else ("problems", "them")
        LOG.error("%d %s found: fix %s before the load", problems, found, them)
    else:
        LOG.info("Ready to load")


def _in_a_line(finding: Finding) -> str:
    return f"{finding.subject}: " + "; ".join(filter(None, (finding.what, finding.problem, finding.advice)))


def _print(findings: Sequence[Finding]) -> bool:
    """Print a table; return False where it would be too wide."""
    from rich.table import Table  # imported here: only a terminal needs it
    from rich.text import Text

    from memcload.output.terminal import Terminal

    console = Terminal().console
    if console.width < _NARROWEST_TABLE:
        return False
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold", max_width=console.width // 3)
    table.add_column(overflow="fold", ratio=1)
    for before, finding in zip((None, *findings), findings, strict=False):
        style = _STYLES[finding.kind]
        text = Text("\n").join(
            Text(part, style=style if part == finding.problem else "")
            for part in (finding.what, finding.problem, finding.advice)
            if part
        )
        is_same = before is not None and before.subject == finding.subject
        table.add_row(Text(finding.kind, style=style), Text("" if is_same else finding.subject), text)
    console.print("", table, "", sep="\n")
    return True
