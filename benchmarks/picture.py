"""The picture: bars of the side-by-side subjects, and small panels by workers, files and file size. Plain SVG."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal
from xml.sax.saxutils import escape

from benchmarks.results import Figure, Results, Spread, peak, rate
from benchmarks.subjects import Subject, cores
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
  .rival { fill: #afb8c1 }
  .line { fill: none; stroke: #0969da; stroke-width: 2 }
  .axis { stroke: #d1d9e0 }
  .spread { stroke: #1f2328; stroke-width: 1.5 }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc }
    .muted { fill: #9198a1 }
    .page { fill: #0d1117 }
    .loader { fill: #4493f8 }
    .rival { fill: #59636e }
    .line { stroke: #4493f8 }
    .axis { stroke: #3d444d }
    .spread { stroke: #f0f6fc }
  }
"""

Anchor = Literal["start", "middle", "end"]


@dataclass(frozen=True)
class _Bar:
    label: str
    note: str
    spread: Spread
    kind: Literal["loader", "rival"]


@dataclass(frozen=True)
class _Panel:
    title: str
    values: Mapping[str, Spread]
    show: Callable[[float], str]
    is_line: bool = False


def draw(results: Results) -> str:
    """Return the picture of the results as an SVG document."""
    plan = results.plan
    bars = _bars(results)
    panels_top = 2 * MARGIN + 24 + len(bars) * BAR_STEP + 30
    height = panels_top + PANEL_HEIGHT + 40
    panels = (
        _Panel("records/s by --workers", _values(results, plan.by_workers, rate("load")), compact, is_line=True),
        _Panel("records/s by files (whole run)", _values(results, plan.by_files, rate("run")), compact),
        _Panel("records/s by records in the file", _values(results, plan.by_size, rate("load")), compact),
        _Panel("peak memory in MB, by records", _values(results, plan.by_size, peak), rounded),
    )
    panel_width = (WIDTH - 2 * MARGIN - (len(panels) - 1) * PANELS_GAP) / len(panels)
    elements = [
        f'<rect class="page" width="{WIDTH}" height="{height}" rx="6"/>',
        _text(MARGIN, MARGIN + 14, "Records per second", "title"),
        _text(
            WIDTH - MARGIN,
            MARGIN + 14,
            f"{cores()} cores shared with four memcached; median of {plan.rounds} round(s), lowest to highest",
            "small muted",
            "end",
        ),
        *_bar_chart(bars, MARGIN + 32),
    ]
    for index, panel in enumerate(panels):
        elements += _panel(panel, MARGIN + index * (panel_width + PANELS_GAP), panels_top, panel_width)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    title = "<title>Records per second of the loader, of what it is made of, and of the original script</title>"
    return "\n".join((f'{head} role="img">', title, f"<style>{STYLE}</style>", *elements, "</svg>", ""))


def _bars(results: Results) -> list[_Bar]:
    plan = results.plan
    bars = [
        _Bar(
            subject.name,
            f"{compact(subject.logs.records)} records",
            results.of(subject, rate("load")),
            "loader" if subject.program[0].startswith("memc_load") else "rival",
        )
        for subject in plan.side_by_side
    ]
    bars.insert(2, _Bar("ceiling", "decompression and memcached only", results.ceiling(), "rival"))
    return bars


def _bar_chart(bars: Sequence[_Bar], top: float) -> list[str]:
    left = MARGIN + LABELS_WIDTH
    scale = (WIDTH - MARGIN - VALUES_WIDTH - left) / max(bar.spread.high for bar in bars)
    elements = [_line(left, top, left, top + len(bars) * BAR_STEP, "axis")]
    for index, bar in enumerate(bars):
        middle = top + index * BAR_STEP + BAR_STEP / 2
        elements += [
            _text(left - 10, middle - 2, bar.label, "", "end"),
            _text(left - 10, middle + 12, bar.note, "small muted", "end"),
            _rect(left, middle - BAR_HEIGHT / 2, bar.spread.median * scale, BAR_HEIGHT, bar.kind),
            _line(left + bar.spread.low * scale, middle, left + bar.spread.high * scale, middle, "spread"),
            _text(left + bar.spread.high * scale + 8, middle + 5, _in_words(bar.spread)),
        ]
    return elements


def _in_words(spread: Spread) -> str:
    return f"{rounded(spread.median)} ({compact(spread.low)} to {compact(spread.high)})"


def _panel(panel: _Panel, left: float, top: float, width: float) -> list[str]:
    bottom = top + PANEL_HEIGHT
    elements = [_text(left, top - 12, panel.title, "small"), _line(left, bottom, left + width, bottom, "axis")]
    if not panel.values:
        return elements
    step = width / len(panel.values)
    scale = (PANEL_HEIGHT - 24) / max(spread.high for spread in panel.values.values())
    middles = [left + step * (index + 0.5) for index in range(len(panel.values))]
    points = [(x, bottom - spread.median * scale) for x, spread in zip(middles, panel.values.values(), strict=True)]
    if panel.is_line:
        elements.append(f'<polyline class="line" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>')
    bar_width = min(40, step * 0.6)
    for (x, y), (label, spread) in zip(points, panel.values.items(), strict=True):
        if panel.is_line:
            elements.append(f'<circle class="loader" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>')
        else:
            elements.append(_rect(x - bar_width / 2, y, bar_width, bottom - y, "loader"))
        elements += [
            _line(x, bottom - spread.low * scale, x, bottom - spread.high * scale, "spread"),
            _text(x, bottom - spread.high * scale - 6, panel.show(spread.median), "small", "middle"),
            _text(x, bottom + 16, label, "small muted", "middle"),
        ]
    return elements


def _values(results: Results, subjects: Mapping[int, Subject], figure: Figure) -> dict[str, Spread]:
    return {compact(count): results.of(subject, figure) for count, subject in subjects.items()}


def compact(value: float) -> str:
    """Write a number in a few characters: 3.4M, 400k, 8."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return (
                f"{value / size:.2f}".rstrip("0").rstrip(".") + unit
                if value < 10 * size
                else f"{value / size:.0f}{unit}"
            )
    return f"{value:.0f}"


def _text(x: float, y: float, text: str, kind: str = "", anchor: Anchor = "start") -> str:
    classes = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{classes} text-anchor="{anchor}">{escape(text)}</text>'


def _rect(x: float, y: float, width: float, height: float, kind: str) -> str:
    return f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{max(width, 1):.1f}" height="{height:.1f}"/>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'
