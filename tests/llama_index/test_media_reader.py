"""The reader loads finished tasks as documents, which retrievers find by their prompt."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from io import BytesIO

import pytest
from llama_index.core.schema import ImageDocument, MetadataMode
from llama_index.retrievers.bm25 import BM25Retriever
from PIL import Image

from llama_index_piccc import PicccTaskReader
from piccc.emulator import Emulator
from tests.llama_index.conftest import Async, Sync
from tests.llama_index.media import client, spec

Way = Sync | Async


@pytest.fixture
def account(emulator: Emulator) -> Iterator[Emulator]:
    """Return an emulator whose account has two images, a video and a failed task."""
    media_tools = spec(emulator)
    media_tools.generate_image("A red kite over the sea", aspect_ratio="16:9")
    media_tools.generate_video("Steam rises from a mug", resolution="480p", duration_seconds=1)
    media_tools.generate_image("A ceramic mug on a table")
    emulator.fault("failed", route="POST *", times=1)
    media_tools.generate_image("An image that fails")
    return emulator


def test_finished_outputs_become_documents_newest_first(account: Emulator, way: Way) -> None:
    documents = way.call(PicccTaskReader(client(account)), "load_data")
    assert [document.text for document in documents] == [
        "A ceramic mug on a table",
        "Steam rises from a mug",
        "A red kite over the sea",
    ]
    assert [isinstance(document, ImageDocument) for document in documents] == [True, False, True]
    assert documents[1].metadata["duration_seconds"] == 1
    assert documents[2].metadata["aspect_ratio"] == "16:9"
    assert len({document.id_ for document in documents}) == 3


def test_load_data_filters_by_type_and_limit(account: Emulator, way: Way) -> None:
    reader = PicccTaskReader(client(account))
    assert [document.text for document in way.call(reader, "load_data", type="video")] == [
        "Steam rises from a mug"
    ]
    assert [document.text for document in way.call(reader, "load_data", limit=1)] == [
        "A ceramic mug on a table"
    ]


def test_load_data_accepts_task_ids(account: Emulator, way: Way) -> None:
    media_client = client(account)
    ids = [task.id for task in media_client.tasks.list()][::-1]
    documents = way.call(PicccTaskReader(media_client), "load_data", task_ids=ids)
    assert [document.metadata["task_id"] for document in documents] == ids[:3]


def test_document_ids_are_stable(account: Emulator, way: Way) -> None:
    reader = PicccTaskReader(client(account))
    first, second = way.call(reader, "load_data"), way.call(reader, "load_data")
    assert [document.id_ for document in first] == [document.id_ for document in second]


def test_the_url_is_in_the_metadata_but_not_in_the_content(account: Emulator, way: Way) -> None:
    for document in way.call(PicccTaskReader(client(account)), "load_data"):
        assert document.metadata["url"].startswith("http")
        for mode in (MetadataMode.LLM, MetadataMode.EMBED):
            assert "http" not in document.get_content(mode)


def test_images_are_not_fetched_by_default(account: Emulator, way: Way) -> None:
    document = way.call(PicccTaskReader(client(account)), "load_data", type="image", limit=1)[0]
    assert str(document.image_resource.url) == document.metadata["url"]
    assert not [request for request in account.requests if request.path.startswith("/files/")]


def test_fetch_loads_images_into_their_documents(account: Emulator, way: Way) -> None:
    reader = PicccTaskReader(client(account), fetch=True)
    document = way.call(reader, "load_data", type="image", limit=1)[0]
    with Image.open(BytesIO(base64.b64decode(document.image))) as image:
        assert image.size == (1024, 1024)
    assert [
        request.path.endswith(".png") for request in account.requests if request.path.startswith("/files/")
    ] == [True]


def test_a_retriever_finds_documents_by_their_prompt(account: Emulator) -> None:
    documents = PicccTaskReader(client(account)).load_data()
    results = BM25Retriever.from_defaults(nodes=documents, similarity_top_k=1).retrieve("a kite at the sea")
    assert [result.node.metadata["aspect_ratio"] for result in results] == ["16:9"]
