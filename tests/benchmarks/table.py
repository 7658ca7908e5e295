"""The figures as Markdown."""

from __future__ import annotations

import statistics

Figures = dict[str, dict[str, float]]
"""Each row's figure per subject."""
Samples = dict[str, dict[str, list[float]]]
"""Each row's figures per subject, one per round."""


def table(samples: Samples, figures: Figures, subjects: tuple[str, ...]) -> str:
    """Return a table of our figures, and the others as multiples of them with their range over the rounds."""
    ours, *others = [each for each in subjects if any(each in row for row in figures.values())]
    lines = [_line("benchmark", ours, *others), _line(*["---"] * (len(others) + 2))]
    for benchmark, row in figures.items():
        if ours in row:
            cells = [
                _multiple(samples[benchmark], row, each, ours) if each in row else "–" for each in others
            ]
            lines.append(_line(benchmark, written(row[ours]), *cells))
    return "\n".join(lines)


def _multiple(samples: dict[str, list[float]], row: dict[str, float], subject: str, ours: str) -> str:
    if not row[ours]:
        return written(row[subject])
    spread = [theirs / own for theirs, own in zip(samples[subject], samples[ours], strict=True) if own]
    between = f" ({min(spread):.2f}–{max(spread):.2f})" if len(spread) > 1 else ""
    return f"{statistics.median(spread):.2f} ×{between}"


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def written(figure: float) -> str:
    """Format a figure with three significant digits, or all integer digits if there are more."""
    return f"{figure:,.0f}" if figure >= 100 else f"{figure:.3g}"
