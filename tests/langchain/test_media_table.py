"""Media tools in every kind of graph: enough rows of the table to cover each pair of values."""

from __future__ import annotations

import pytest

from tests.langchain.media_table import Row, rows, run_row
from tests.pairwise import pairwise


@pytest.mark.parametrize("row", list(pairwise(rows())), ids="-".join)
def test_requests_are_paid_once_and_only_the_human_answers_questions(
    row: Row, request: pytest.FixtureRequest
) -> None:
    run_row(row, request.getfixturevalue("postgres_url") if row.saver == "postgres" else "")
