"""Pages, docstrings, help texts and notebooks use the field's terms and no banned words."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from langchain_piccc.structured import StructuredOutputError, StructuredRefusalError
from llama_index_piccc import NoToolCallError
from piccc import errors

ROOT = Path(__file__).parents[2]
BANNED = {
    r"films?": "video",
    r"darkroom|errands?|whence": "the field's term",
    r"befalls?|befell": "affects",
    r"anew": "again",
    r"for ever": "until it is stopped",
    r"goes? on and is paid for": "keeps running",
    r"hear of|tell of|told of": "list, report",
    r"without your word|of the caller's making": "unless you ask for it",
    r"(?:model's|own) wit": "quality",
    r"simply|obviously|blazing(?:ly)? fast|seamless(?:ly)?|cutting-edge|state-of-the-art": "nothing",
    r"leverag\w+|utiliz\w+": "use",
}
"""Patterns of whole words that are banned, and what to write instead."""
BANNED_CHINESE = {
    "笔记本": "Jupyter Notebook",
    "声音": "音频",
    "服务方": "官方、服务商",
    "这座房子": "架构",
    "接线": "集成",
    "WebHook": "Webhook",
}
PAGES = [
    *(ROOT / name for name in ("README.md", "README.zh.md", "CONTRIBUTING.md", "SECURITY.md")),
    *(ROOT / "packaging").rglob("*.md"),
    *(ROOT / "docs").rglob("*.md"),
    *(ROOT / "docs" / "integrations").iterdir(),
    *(ROOT / "notebooks").glob("*.ipynb"),
]
# emulator/model is excluded: its strings are words that it looks for in prompts.
SOURCES = [
    *(path for path in (ROOT / "shared" / "piccc").rglob("*.py") if path.parent.name != "model"),
    *(ROOT / "langchain_piccc").glob("*.py"),
    *(ROOT / "llama_index_piccc").glob("*.py"),
]


def _prose(path: Path) -> str:
    """Return the prose in a file: a page without its code, or the strings of a module."""
    text = path.read_text("utf-8")
    if path.suffix == ".py":
        return "\n".join(_texts(ast.parse(text)))
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)


def _texts(tree: ast.Module) -> Iterator[str]:
    """Yield docstrings and all other strings that contain a space: help, hints, messages."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield re.sub(r"\s+", " ", node.value)


@pytest.mark.parametrize("path", [*PAGES, *SOURCES], ids=lambda path: str(path.relative_to(ROOT)))
def test_prose_has_no_banned_words(path: Path) -> None:
    prose = _prose(path)
    found = {
        match[0]: better
        for pattern, better in BANNED.items()
        for match in re.finditer(rf"\b(?:{pattern})\b", prose, re.IGNORECASE)
    } | {word: better for word, better in BANNED_CHINESE.items() if word in prose}
    assert found == {}


CHINESE = [ROOT / "README.zh.md", *sorted((ROOT / "docs" / "zh").glob("*.md"))]
WIDE = r"[\u3000-\u303f\u3400-\u9fff\uff00-\uffef]"
WRAPPED = re.compile(rf"^(?![#|<]).*{WIDE}\n *(?!- )(?:{WIDE}|\*\*{WIDE}).*", re.MULTILINE)


@pytest.mark.parametrize("path", CHINESE, ids=lambda path: str(path.relative_to(ROOT)))
def test_chinese_pages_declare_their_language_and_wrap_no_paragraph(path: Path) -> None:
    # Browsers show a line break as a space, and choose the glyphs of Chinese characters by language.
    text = path.read_text("utf-8")
    assert WRAPPED.findall(re.sub(r"```.*?```", "", text, flags=re.DOTALL)) == []
    assert path.parent == ROOT or text.startswith('<div lang="zh-CN" markdown>\n')


@pytest.mark.parametrize(
    ("english", "chinese"),
    [("README.md", "README.zh.md"), ("docs/guides/retries.md", "docs/zh/retries.md")],
)
def test_the_retry_tables_name_the_same_statuses_in_both_languages(english: str, chinese: str) -> None:
    def statuses(page: str) -> list[list[str]]:
        rows = re.findall(r"^\|.*\| (?:retried|重试) \|.*$", (ROOT / page).read_text("utf-8"), re.MULTILINE)
        return [sorted(re.findall(r"5xx|[45]\d\d", row)) for row in rows]

    refused, failed = ["429", "503", "529"], ["503", "504", "524", "529", "5xx"]
    assert statuses(english) == statuses(chinese) == [[], refused, failed]


def test_every_error_class_has_a_section_on_the_errors_page() -> None:
    page = (ROOT / "docs" / "guides" / "errors.md").read_text("utf-8")
    sections = re.findall(r"^## (\w+)$", page, re.MULTILINE)
    classes = [
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.PicccError)
    ]
    of_frameworks = (StructuredOutputError, StructuredRefusalError, NoToolCallError)
    assert sections == [*classes, *(kind.__name__ for kind in of_frameworks)]
    for kind in of_frameworks:
        assert kind("It broke.").docs_url.endswith(f"#{kind.__name__.lower()}")


@pytest.mark.parametrize(
    "path", [page for page in PAGES if page.suffix == ".md"], ids=lambda path: str(path.relative_to(ROOT))
)
def test_a_page_has_no_broken_relative_links(path: Path) -> None:
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", path.read_text("utf-8"))
    assert [link for link in links if not (path.parent / link).exists()] == []


SETTINGS = [
    pytest.param(language, block, id=f"{page.relative_to(ROOT)}-{language}")
    for page in PAGES
    if page.suffix == ".md" and page.parent.name != "zh"
    for language, block in re.findall(
        r"^```(json|yaml|toml|bash)\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
]


@pytest.mark.parametrize(("language", "block"), SETTINGS)
def test_shell_and_configuration_blocks_parse(language: str, block: str) -> None:
    if language == "bash":
        done = subprocess.run(
            ["bash", "-n"],  # noqa: S607  the one on the path
            input=block,
            text=True,
            capture_output=True,
        )
        assert done.returncode == 0, done.stderr
    else:
        read = {"json": json.loads, "yaml": yaml.safe_load, "toml": tomllib.loads}[language]
        assert read(block)
