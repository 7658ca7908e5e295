"""The figures as Markdown."""

from __future__ import annotations

Figures = dict[str, dict[str, float]]


def table(figures: Figures, subjects: tuple[str, ...]) -> str:
    """Return a table: ours in figures, the others as multiples of ours."""
    ours, *others = [each for each in subjects if any(each in row for row in figures.values())]
    lines = [_line("work", ours, *others), _line(*["---"] * (len(others) + 2))]
    for work, row in figures.items():
        if ours in row:
            cells = [f"{row[each] / row[ours]:.2f} ×" if each in row else "–" for each in others]
            lines.append(_line(work, written(row[ours]), *cells))
    return "\n".join(lines)


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def written(figure: float) -> str:
    """Return a figure with three digits, or with all that stand before the point."""
    return f"{figure:,.0f}" if figure >= 100 else f"{figure:.3g}"
