"""The picture: bars of the loader, the limit and its rivals, and small panels. Plain SVG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple
from xml.sax.saxutils import escape

from benchmarks.goals import WHOLE
from benchmarks.plan import DRY, LIMIT, LIVE
from benchmarks.results import Results, Row, Spread
from benchmarks.tables import rounded

WIDTH = 960
MARGIN = 24
LABELS_WIDTH = 270
VALUES_WIDTH = 220
BAR_STEP = 36
BAR_HEIGHT = 16
PANELS_GAP = 24
PANEL_HEIGHT = 130

# It brings its own background, so that it can be read wherever it is shown.
STYLE = """
  text { font: 13px -apple-system, "Segoe UI", "Noto Sans", Helvetica, Arial, sans-serif; fill: #1f2328 }
  .title { font-size: 16px; font-weight: 600 }
  .small { font-size: 11px }
  .muted { fill: #59636e }
  .page { fill: #ffffff }
  .loader { fill: #0969da }
  .other { fill: #afb8c1 }
  .axis { stroke: #d1d9e0 }
  .spread { stroke: #1f2328; stroke-width: 1.5 }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc }
    .muted { fill: #9198a1 }
    .page { fill: #0d1117 }
    .loader { fill: #4493f8 }
    .other { fill: #59636e }
    .axis { stroke: #3d444d }
    .spread { stroke: #f0f6fc }
  }
"""


class _Panel(NamedTuple):
    title: str
    rows: Sequence[Row]
    figure: str
    label: Callable[[Row], str]


def draw(results: Results) -> str:
    """Return the picture of the results as an SVG document."""
    rows = [*reversed(results.section("limit")), *(row for row in results.section("rival") if row.name != LIVE)]
    panels = (
        _Panel("records/s by records", results.section("sizes"), WHOLE, lambda row: compact(row.facts["records"])),
        _Panel("records/s by files", results.section("files"), WHOLE, lambda row: compact(row.facts["files"])),
        _Panel(
            "records/s by servers a type; TLS",
            [*results.section("servers"), *results.section("tls")[1:]],
            WHOLE,
            lambda row: row.name.partition(" ")[0],
        ),
        _Panel(
            "peak memory in MB, by records",
            results.section("sizes"),
            "peak_megabytes",
            lambda row: compact(row.facts["records"]),
        ),
    )
    panels_top = 2 * MARGIN + 24 + len(rows) * BAR_STEP + 30
    height = panels_top + PANEL_HEIGHT + 40
    panel_width = (WIDTH - 2 * MARGIN - (len(panels) - 1) * PANELS_GAP) / len(panels)
    setting = (
        f"whole processes; {results.setting['cores']} cores shared with memcached; "
        f"median of {results.setting['rounds']} rounds, lowest to highest"
    )
    elements = [
        f'<rect class="page" width="{WIDTH}" height="{height}" rx="6"/>',
        _text(MARGIN, MARGIN + 14, "Records per second", "title"),
        _text(WIDTH - MARGIN, MARGIN + 14, setting, "small muted", "end"),
        *_bars(rows, MARGIN + 32),
    ]
    for index, panel in enumerate(panels):
        elements += _draw_panel(panel, MARGIN + index * (panel_width + PANELS_GAP), panels_top, panel_width)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    title = "<title>Records per second of the loader, of the limit, and of what people write instead</title>"
    return "\n".join((f'{head} role="img">', title, f"<style>{STYLE}</style>", *elements, "</svg>", ""))


def _bars(rows: Sequence[Row], top: float) -> list[str]:
    left = MARGIN + LABELS_WIDTH
    spreads = [row.spread(WHOLE) for row in rows]
    scale = (WIDTH - MARGIN - VALUES_WIDTH - left) / max([spread.high for spread in spreads], default=1)
    elements = [_line(left, top, left, top + len(rows) * BAR_STEP, "axis")]
    for index, (row, spread) in enumerate(zip(rows, spreads, strict=True)):
        middle = top + index * BAR_STEP + BAR_STEP / 2
        note = "decompression and memcached alone" if row.name == LIMIT else f"{compact(row.facts['records'])} records"
        kind = "loader" if row.name.startswith((LIVE, DRY, "memc_load")) else "other"
        elements += [
            _text(left - 10, middle - 2, row.name, "", "end"),
            _text(left - 10, middle + 12, note, "small muted", "end"),
            _rect(left, middle - BAR_HEIGHT / 2, spread.median * scale, BAR_HEIGHT, kind),
            _line(left + spread.low * scale, middle, left + spread.high * scale, middle, "spread"),
            _text(left + spread.high * scale + 8, middle + 5, _in_words(spread)),
        ]
    return elements


def _in_words(spread: Spread) -> str:
    return f"{rounded(spread.median)} ({compact(spread.low)} to {compact(spread.high)})"


def _draw_panel(panel: _Panel, left: float, top: float, width: float) -> list[str]:
    bottom = top + PANEL_HEIGHT
    elements = [_text(left, top - 12, panel.title, "small"), _line(left, bottom, left + width, bottom, "axis")]
    if not panel.rows:
        return elements
    spreads = [row.spread(panel.figure) for row in panel.rows]
    step = width / len(spreads)
    scale = (PANEL_HEIGHT - 24) / max(spread.high for spread in spreads)
    bar_width = min(40, step * 0.6)
    for index, (row, spread) in enumerate(zip(panel.rows, spreads, strict=True)):
        x, y = left + step * (index + 0.5), bottom - spread.median * scale
        elements += [
            _rect(x - bar_width / 2, y, bar_width, bottom - y, "loader"),
            _line(x, bottom - spread.low * scale, x, bottom - spread.high * scale, "spread"),
            _text(x, bottom - spread.high * scale - 6, compact(spread.median), "small", "middle"),
            _text(x, bottom + 16, panel.label(row), "small muted", "middle"),
        ]
    return elements


def compact(value: float) -> str:
    """Write a number in a few characters: 3.4M, 400k, 8."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            digits = f"{value / size:.2f}".rstrip("0").rstrip(".") if value < 10 * size else f"{value / size:.0f}"
            return digits + unit
    return f"{value:.0f}"


def _text(x: float, y: float, text: str, kind: str = "", anchor: Literal["start", "middle", "end"] = "start") -> str:
    classes = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{classes} text-anchor="{anchor}">{escape(text)}</text>'


def _rect(x: float, y: float, width: float, height: float, kind: str) -> str:
    return f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{max(width, 1):.1f}" height="{height:.1f}"/>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'
