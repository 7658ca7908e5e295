"""One SVG chart of ratios to ours, on a logarithmic scale, readable on light and on dark pages."""

from __future__ import annotations

import math
from html import escape

LEFT, WIDTH, ROW, TOP = 250, 520, 22, 46
COLOURS = ("#2563eb", "#d97706", "#059669", "#dc2626", "#7c3aed", "#64748b")


def chart(figures: dict[str, dict[str, float]], families: dict[str, tuple[str, ...]]) -> str:
    """Return the chart: a row for each work, a dot for each subject, ours at 1."""
    rows = [
        (f"{family}: {work}", [(each, row[each] / row[members[0]]) for each in members if each in row])
        for family, members in families.items()
        for work, row in figures.items()
        if row.get(members[0])
    ]
    subjects = list(dict.fromkeys(subject for _, dots in rows for subject, _ in dots))
    colours = {subject: COLOURS[number % len(COLOURS)] for number, subject in enumerate(subjects)}
    most = max((ratio for _, dots in rows for _, ratio in dots), default=2.0)
    least = min((ratio for _, dots in rows for _, ratio in dots), default=0.5)
    height = TOP + ROW * (len(rows) + len(subjects)) + 40

    def x(ratio: float) -> float:
        span = math.log(most * 1.1) - math.log(least * 0.9)
        return LEFT + WIDTH * (math.log(ratio) - math.log(least * 0.9)) / span

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 30} {height}" '
        'font-family="system-ui, sans-serif" font-size="12">',
        "<style>text{fill:#334155}@media(prefers-color-scheme:dark){text{fill:#e2e8f0}}</style>",
        '<text x="10" y="20" font-size="15" font-weight="600">',
        "Client CPU, as a multiple of ours (less is better)</text>",
        f'<line x1="{x(1):.1f}" x2="{x(1):.1f}" y1="{TOP - 12}" y2="{TOP + ROW * len(rows)}" ',
        'stroke="#94a3b8"/>',
    ]
    for number, (name, dots) in enumerate(rows):
        y = TOP + ROW * number
        parts.append(f'<text x="{LEFT - 10}" y="{y + 4}" text-anchor="end">{escape(name)}</text>')
        parts += [
            f'<circle cx="{x(ratio):.1f}" cy="{y}" r="5" fill="{colours[subject]}">'
            f"<title>{escape(subject)}: {ratio:.2f} ×</title></circle>"
            for subject, ratio in dots
        ]
    for number, subject in enumerate(subjects):
        y = TOP + ROW * (len(rows) + number) + 16
        parts.append(f'<circle cx="{LEFT}" cy="{y}" r="5" fill="{colours[subject]}"/>')
        parts.append(f'<text x="{LEFT + 12}" y="{y + 4}">{escape(subject)}</text>')
    return "\n".join([*parts, "</svg>"])
