"""The figures as Markdown."""

from __future__ import annotations

Figures = dict[str, dict[str, float]]
"""Each row's figure of each subject."""
Samples = dict[str, dict[str, list[float]]]
"""Each row's figures of each subject, one for each round."""


def table(samples: Samples, figures: Figures, subjects: tuple[str, ...]) -> str:
    """Return a table: ours in figures, the others as multiples of ours with their spread over the rounds."""
    ours, *others = [each for each in subjects if any(each in row for row in figures.values())]
    lines = [_line("work", ours, *others), _line(*["---"] * (len(others) + 2))]
    for work, row in figures.items():
        if ours in row:
            cells = [_multiple(samples[work], row, each, ours) if each in row else "–" for each in others]
            lines.append(_line(work, written(row[ours]), *cells))
    return "\n".join(lines)


def _multiple(samples: dict[str, list[float]], row: dict[str, float], subject: str, ours: str) -> str:
    if not row[ours]:
        return written(row[subject])
    spread = [theirs / own for theirs, own in zip(samples[subject], samples[ours], strict=True) if own]
    between = f" ({min(spread):.2f}–{max(spread):.2f})" if len(spread) > 1 else ""
    return f"{row[subject] / row[ours]:.2f} ×{between}"


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def written(figure: float) -> str:
    """Return a figure with three digits, or with all that stand before the point."""
    return f"{figure:,.0f}" if figure >= 100 else f"{figure:.3g}"
