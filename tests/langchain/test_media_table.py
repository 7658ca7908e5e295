"""Media tools in every kind of graph: as many rows of the table as have each pair of its values."""

from __future__ import annotations

import pytest

from tests.langchain.media_table import Row, rows, run_row
from tests.pairwise import pairwise


@pytest.mark.parametrize("row", list(pairwise(rows())), ids="-".join)
def test_each_request_is_paid_once_and_each_question_answered_by_whom_it_is_put_to(
    row: Row, request: pytest.FixtureRequest
) -> None:
    run_row(row, request.getfixturevalue("postgres_url") if row.saver == "postgres" else "")
