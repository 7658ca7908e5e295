"""The wheel's files, metadata and imports, tested from an unpacked wheel in a fresh interpreter."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from email import message_from_bytes
from email.message import Message
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]


THIN = {
    "langchain-piccc": "piccc[langchain]",
    "llama-index-llms-piccc": "piccc[llama-index]",
}
"""The distributions under packaging/, and what they install."""


def _build(source: Path, folder: Path, **variables: str) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    names = ("GITHUB_REPOSITORY", "PICCC_REPOSITORY_URL")
    kept = {name: value for name, value in os.environ.items() if name not in names}
    environment = {**kept, **variables}
    subprocess.run(command, cwd=source, check=True, capture_output=True, env=environment)  # noqa: S603
    return next(folder.glob("*.whl"))


def _metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        [name] = [each for each in archive.namelist() if each.endswith(".dist-info/METADATA")]
        return message_from_bytes(archive.read(name))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _build(ROOT, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def _python(site: Path, code: str) -> subprocess.CompletedProcess[str]:
    # Import only the wheel's files, not the editable install's.
    start = (
        f"import sys; root = {str(ROOT)!r}; "
        "sys.path[:] = [each for each in sys.path if each and each not in (root, root + '/shared')]; "
        f"sys.path.insert(0, {str(site)!r})\n"
    )
    command = [sys.executable, "-c", start + code]
    return subprocess.run(command, cwd=site, capture_output=True, text=True)  # noqa: S603  our own code


def test_the_wheel_contains_only_the_three_packages_and_the_alias(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.partition("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"langchain_piccc", "llama_index", "llama_index_piccc", "piccc"}
    alias = {
        f"llama_index/{part}/piccc/{name}"
        for part in ("llms", "question_gen", "readers", "tools")
        for name in ("__init__.py", "py.typed")
    }
    assert {name for name in names if name.startswith("llama_index/")} == alias
    assert {f"{top}/py.typed" for top in tops - {"llama_index"}} <= set(names)


def test_the_wheel_has_complete_metadata(unpacked: Path) -> None:
    [piccc] = metadata.distributions(path=[str(unpacked)])
    about = piccc.metadata.json
    assert (about["name"], about["license_expression"]) == ("piccc", "MIT")
    assert about["requires_python"] == ">=3.11"
    assert about["provides_extra"] == [
        "all",
        "cli",
        "emulator",
        "httpx2",
        "langchain",
        "llama-index",
        "mcp",
        "otel",
        "postgres",
        "rate",
        "redis",
        "socks",
        "stores",
    ]
    assert about["description_content_type"] == "text/markdown"
    assert str(about["description"]).strip() == (ROOT / "README.md").read_text().strip()
    assert piccc.read_text("licenses/LICENSE") == (ROOT / "LICENSE").read_text()
    entry_points = {(entry.group, entry.name, entry.value) for entry in piccc.entry_points}
    assert entry_points == {
        ("console_scripts", "piccc", "piccc.__main__:main"),
        ("pytest11", "piccc", "piccc.pytest_plugin"),
    }


@pytest.mark.parametrize("variable", ["PICCC_REPOSITORY_URL", "GITHUB_REPOSITORY"])
def test_description_links_are_absolute_if_the_repository_is_known(variable: str, tmp_path: Path) -> None:
    url = "https://git.example/acme/piccc"
    variables = (
        {"PICCC_REPOSITORY_URL": f"{url}/"}
        if variable == "PICCC_REPOSITORY_URL"
        else {"GITHUB_SERVER_URL": "https://git.example", "GITHUB_REPOSITORY": "acme/piccc"}
    )
    about = _metadata(_build(ROOT, tmp_path, **variables))
    page = str(about.get_payload(decode=False))
    assert re.findall(r"\]\((?!https://|#)[^)]*\)", page) == []
    assert f"]({url}/blob/main/docs/benchmarks.md)" in page
    assert f"]({url}/raw/main/.github/emulator.png)" in page
    assert f"Repository, {url}" in about.get_all("Project-URL", [])


@pytest.mark.parametrize("name", THIN)
def test_a_thin_distribution_only_requires_our_extra_of_this_version(
    name: str, wheel: Path, tmp_path: Path
) -> None:
    thin = _build(ROOT / "packaging" / name, tmp_path)
    with zipfile.ZipFile(thin) as archive:
        assert {each.partition("/")[0].endswith(".dist-info") for each in archive.namelist()} == {True}
    about = _metadata(thin)
    [required] = map(Requirement, about.get_all("Requires-Dist", []))
    assert (about["Name"], str(about["Version"])) == (name, str(_metadata(wheel)["Version"]))
    assert f"{required.name}[{','.join(required.extras)}]" == THIN[name]
    assert required.specifier.contains(str(about["Version"]), prereleases=True)


def test_shared_is_not_importable_after_an_install(unpacked: Path) -> None:
    done = _python(unpacked, "import piccc; print(piccc.__file__)\nimport shared")
    assert str(unpacked) in done.stdout
    assert "ModuleNotFoundError: No module named 'shared'" in done.stderr


def test_the_namespace_alias_is_the_same_class(unpacked: Path) -> None:
    code = (
        "from llama_index.llms.piccc import Piccc\nimport llama_index_piccc\n"
        "from llama_index.question_gen.piccc import PicccQuestionGenerator\n"
        "from llama_index.readers.piccc import PicccTaskReader\n"
        "from llama_index.tools.piccc import PicccMediaToolSpec\n"
        "assert Piccc is llama_index_piccc.Piccc\nprint('same')"
    )
    assert _python(unpacked, code).stdout.strip() == "same"


@pytest.mark.parametrize(
    ("package", "missing", "command"),
    [
        ("langchain_piccc", "langchain_core", 'pip install "piccc[langchain]"'),
        ("llama_index_piccc", "llama_index.core", 'pip install "piccc[llama-index]"'),
        ("piccc.emulator", "httptools", 'pip install "piccc[emulator]"'),
        ("piccc.emulator", "av", 'pip install "piccc[emulator]"'),
    ],
)
def test_an_import_without_its_extra_says_how_to_install_it(
    unpacked: Path, package: str, missing: str, command: str
) -> None:
    code = f"""
import sys
class Without:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, *rest):
        if name == {missing!r} or name.startswith({missing + "."!r}):
            return None
        return self.finder.find_spec(name, *rest)
    def __getattr__(self, name):
        return getattr(self.finder, name)
sys.meta_path[:] = map(Without, sys.meta_path)
import {package}
"""
    done = _python(unpacked, code)
    assert done.returncode != 0
    assert command in done.stderr
    assert "ImportError" in done.stderr.splitlines()[-1] or "MissingExtraError" in done.stderr


def test_the_command_without_its_extra_says_how_to_install_it(unpacked: Path) -> None:
    code = "import sys\nsys.modules['typer'] = None\nfrom piccc.__main__ import main\nmain()"
    done = _python(unpacked, code)
    assert done.returncode != 0
    assert 'pip install "piccc[cli]"' in done.stderr
