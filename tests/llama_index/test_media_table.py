"""Media tools in every kind of workflow: enough rows of the table to cover each pair of values."""

import pytest

from tests.llama_index.media_table import Row, rows, run
from tests.pairwise import pairwise

# core's agents are pydantic models whose workflow reads all of its attributes, even deprecated ones.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The `.*` attribute:pydantic.PydanticDeprecatedSince20"),
    pytest.mark.filterwarnings("ignore:Accessing the 'model_:pydantic.PydanticDeprecatedSince211"),
]


@pytest.mark.parametrize("row", list(pairwise(rows())), ids="-".join)
async def test_requests_are_paid_once_and_each_call_gets_its_own_task(row: Row) -> None:
    await run(row)
