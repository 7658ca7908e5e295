"""Object stores as a place for outputs: S3, Google Cloud Storage and Azure, over obstore."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urlsplit
from urllib.request import url2pathname

from piccc.errors import ConfigurationError, MissingExtraError, OutputError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

SCHEMES = ("s3", "gs", "az")
SINGLE_BYTES = 8 * 1024**2
"""Up to which size an object is sent in one request, which a store can refuse where one is there already."""
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def place_of(url: str) -> str | Place:
    """Return the path that a `file:` URL names, or the place in an object store.

    Raise ConfigurationError for a URL of another kind, MissingExtraError without obstore.
    """
    scheme, _, rest = url.partition(":")
    scheme = scheme.lower()
    if not rest.startswith("//"):
        raise ConfigurationError(
            f"{url!r:.200} is neither a path nor a URL.",
            hint="Give a URL as a text, for pathlib drops one of its slashes; a folder of that name as ./….",
        )
    if scheme == "file":
        parts = urlsplit(url)
        if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
            raise ConfigurationError(f"{url!r:.200} is no file of this machine.", hint="Give file:///path.")
        return url2pathname(parts.path)
    if scheme not in SCHEMES:
        raise ConfigurationError(
            f"Outputs cannot be saved to {scheme}: URLs.",
            hint="Save to a file, or to s3://, gs://, az:// or file://; bytes() gives the content itself.",
        )
    bucket, _, key = rest[2:].partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise ConfigurationError(
            f"The {scheme}: URL has no name of a bucket.",
            hint=f"Give {scheme}://bucket/key; credentials come from the environment.",
        )
    obstore = _obstore()
    try:
        _store(f"{scheme}://{bucket}")
    except obstore.exceptions.BaseError as error:
        raise ConfigurationError(
            f"The store {scheme}://{bucket} cannot be used: {_said(error)}",
            hint="It is configured by the environment: AWS_…, GOOGLE_…, AZURE_….",
        ) from error
    return Place(scheme, bucket, key)


@dataclass(frozen=True, slots=True)
class Place:
    """An object's URL, or that of a folder, which ends with a slash. Keys are taken as they are written."""

    scheme: str
    bucket: str
    key: str

    @property
    def is_folder(self) -> bool:
        """Whether what is put there has a name of its own."""
        return not self.key or self.key.endswith("/")

    def named(self, name: str) -> Place:
        """Return the place of an object in this folder."""
        return Place(self.scheme, self.bucket, f"{self.key}{name}") if self.is_folder else self

    def beside(self, suffix: str) -> Place:
        """Return the place of an object whose name has a suffix more."""
        return Place(self.scheme, self.bucket, f"{self.key}{suffix}")

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.key}"

    def put(self, file: BinaryIO, mime_type: str | None, sha256: str, overwrite: bool) -> None:
        """Write an object, whole or not at all; one with the same content stays.

        Raise OutputError where another one is there, unless `overwrite`, and OSError where the store fails.
        """
        obstore = _obstore()
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        attributes = {"Content-Type": mime_type or "application/octet-stream"}
        try:
            store = _store(f"{self.scheme}://{self.bucket}")
            if not overwrite and self._is_there(obstore, store, sha256):
                return
            # In parts no store can be asked not to replace what appeared meanwhile.
            mode = "create" if not overwrite and size <= SINGLE_BYTES else None
            try:
                obstore.put(store, self.key, file, attributes=attributes, mode=mode)
            except obstore.exceptions.AlreadyExistsError:
                if not self._is_there(obstore, store, sha256):
                    raise
        except (obstore.exceptions.BaseError, OSError, ValueError) as error:
            raise OSError(f"{self}: {_said(error)}") from error

    def _is_there(self, obstore: ModuleType, store: ObjectStore, sha256: str) -> bool:
        try:
            found = obstore.get(store, self.key)
        except FileNotFoundError:
            return False
        digest = hashlib.sha256()
        for piece in found:
            digest.update(piece)
        if digest.hexdigest() == sha256:
            return True
        raise OutputError(
            f"{self} exists and holds something else.", hint="Pass overwrite=True, or another URL."
        )


def _said(error: Exception) -> str:
    # The query of an address may carry a signature.
    return re.sub(r"\?\S+", "?…", str(error).partition("\n")[0])[:500]


_process = 0


def _obstore() -> ModuleType:
    """Return the library; raise in a child of a process that used it, where it would hang."""
    global _process
    try:
        import obstore
    except ImportError as error:
        raise MissingExtraError("obstore is not installed.", hint="pip install 'piccc[stores]'") from error
    if _process not in (0, os.getpid()):
        raise ConfigurationError(
            "Object stores cannot be used in a forked process after its parent used them.",
            hint="Start processes with multiprocessing's spawn, or save in the children only.",
        )
    return obstore


@lru_cache(maxsize=64)
def _store(root: str) -> ObjectStore:
    """Return the store of a bucket, whose connections are kept."""
    global _process
    from obstore.store import from_url

    _process = os.getpid()
    return from_url(root)
