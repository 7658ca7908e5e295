"""An SVG chart of ratios to piccc's figures, on logarithmic scales, for light and dark pages."""

from __future__ import annotations

import math
from collections.abc import Collection
from html import escape

from tests.benchmarks.subjects import FLOORS
from tests.benchmarks.table import Figures, written

EDGE, LABEL, VALUE, PLOT, ROW = 24, 240, 80, 550, 24
ZERO = LABEL + VALUE + 2 * EDGE
WIDTH = ZERO + PLOT + EDGE
LETTER = 7.2
"""Width of a letter in a wide font, in pixels."""
TICK = 52
"""Width of a tick label with some margin, in pixels."""
END, PLACE = 16.0, 76
"""The largest ratio on the scale, and the width in pixels of each larger one after its end."""
PEERS = ("openai", "anthropic", "mistral", "deepseek")
STYLE = """<style>
svg{--page:#fff;--ink:#1e293b;--faint:#64748b;--line:#e2e8f0;--ours:#2563eb;
--openai:#d97706;--anthropic:#059669;--mistral:#dc2626;--deepseek:#9333ea}
@media(prefers-color-scheme:dark){svg{--page:#0f172a;--ink:#e2e8f0;--faint:#94a3b8;--line:#334155;
--ours:#60a5fa;--openai:#fbbf24;--anthropic:#34d399;--mistral:#f87171;--deepseek:#c084fc}}
text{fill:var(--ink)}.head{font-size:15px;font-weight:600}.end{text-anchor:end}
.tick{fill:var(--faint);font-size:11px;text-anchor:middle}line{stroke:var(--line)}circle{stroke:var(--page)}
</style>"""

Row = dict[str, float]


class Scale:
    """Maps ratios to pixels from the left, so that all of them and 1 fit; larger ones come after its end."""

    def __init__(self, rows: Collection[Row]) -> None:
        beyond = [sum(ratio > END for ratio in row.values()) for row in rows]
        inside = [1.0, *(ratio for row in rows for ratio in row.values() if ratio <= END)]
        self._least, self._most = min(inside) * 0.85, max(inside) * 1.2
        self.width = PLOT - PLACE * max(beyond)

    def __call__(self, ratio: float) -> float:
        """Return a ratio's position."""
        return ZERO + self.width * math.log(ratio / self._least) / math.log(self._most / self._least)

    def ticks(self) -> list[float]:
        """Return as many powers of two as fit with their labels."""
        step = max(1, math.ceil(TICK / (self(2.0) - self(1.0))))
        first, last = math.ceil(math.log2(self._least) / step), math.floor(math.log2(self._most) / step)
        return [2.0 ** (step * power) for power in range(first, last + 1)]


def chart(figures: Figures, families: dict[str, tuple[str, ...]]) -> str:
    """Return the chart: a row per family and benchmark, with a mark per subject and ours at 1."""
    y, parts = 60.0, list[str]()
    for family, members in families.items():
        ours = members[0]
        rows = {
            benchmark: row
            for benchmark, row in figures.items()
            if row.get(ours, 0) > 0 and row.keys() & members[1:]
        }
        if rows:
            parts.append(_text(EDGE, y, family, "head"))
            legend, y = _legend([each for each in members if any(each in row for row in rows.values())], y)
            drawn, y = _rows(rows, members, y + 30)
            parts += [*legend, *drawn]
            y += 36
    size = f'width="{WIDTH}" height="{y - 20:.0f}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {WIDTH} {y - 20:.0f}" '
    title = "Multiples of piccc's figures (shown); lower is better; bars are floors."
    return "\n".join(
        [
            f'{head}font-family="system-ui, sans-serif" font-size="12">',
            f'{STYLE}<rect {size} rx="8" style="fill:var(--page)"/>',
            _text(EDGE, 30, title),
            *parts,
            "</svg>",
        ]
    )


def _legend(subjects: list[str], y: float) -> tuple[list[str], float]:
    """Return the marks with their names on as many lines as needed, and the last line's position."""
    x, y, parts = float(EDGE), y + 24, list[str]()
    for subject in subjects:
        width = 16 + LETTER * len(subject) + 12
        if x + width > WIDTH:
            x, y = float(EDGE), y + 20
        parts += [_mark(subject, x + 5, y - 4), _text(x + 16, y, subject)]
        x += width
    return parts, y


def _rows(rows: Figures, members: tuple[str, ...], top: float) -> tuple[list[str], float]:
    """Return an axis with the rows below it, and their end position."""
    ratios = {
        benchmark: {each: row[each] / row[members[0]] for each in reversed(members) if row.get(each, 0) > 0}
        for benchmark, row in rows.items()
    }
    scale = Scale(ratios.values())
    bottom = top + 8 + ROW * len(rows)
    parts = [_tick(tick, scale(tick), top, bottom) for tick in scale.ticks()]
    for number, (benchmark, row) in enumerate(ratios.items()):
        y = top + 8 + ROW * (number + 0.5)
        parts += [*_names(benchmark, rows[benchmark][members[0]], y + 4), *_marks(row, scale, y)]
    return parts, bottom


def _marks(row: Row, scale: Scale, y: float) -> list[str]:
    """Return a mark for each ratio; those beyond the scale show their value."""
    parts = [_mark(each, scale(ratio), y, f"{ratio:.2f} ×") for each, ratio in row.items() if ratio <= END]
    beyond = sorted((ratio, each) for each, ratio in row.items() if ratio > END)
    for place, (ratio, each) in enumerate(beyond):
        x = ZERO + scale.width + PLACE * place + 14
        parts += [_mark(each, x, y, f"{ratio:.2f} ×"), _text(x + 10, y + 4, f"{ratio:.0f} ×")]
    return parts


def _names(benchmark: str, ours: float, y: float) -> list[str]:
    """Return a benchmark's name, followed by our figure with its unit."""
    name, _, unit = benchmark.rpartition(", ")
    value = f"{written(ours)} {unit}" if name else written(ours)
    return [_text(EDGE, y, name or benchmark), _text(EDGE + LABEL + VALUE, y, value, "end")]


def _tick(ratio: float, x: float, top: float, bottom: float) -> str:
    line = f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"'
    style = ' style="stroke:var(--ours)"/>' if ratio == 1 else "/>"
    return f"{line}{style}{_text(x, top - 6, f'{ratio:g} ×', 'tick')}"


def _mark(subject: str, x: float, y: float, ratio: str = "") -> str:
    if subject in FLOORS:
        kind, place, colour = "rect", f'x="{x - 2:.1f}" y="{y - 7:.1f}" width="4" height="14"', "faint"
    else:
        kind, place = "circle", f'cx="{x:.1f}" cy="{y:.1f}" r="5.5"'
        colour = next((each for each in PEERS if each in subject), "ours")
    title = f"<title>{escape(f'{subject} {ratio}'.strip())}</title>"
    return f'<{kind} {place} style="fill:var(--{colour})">{title}</{kind}>'


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}">{escape(text)}</text>'
