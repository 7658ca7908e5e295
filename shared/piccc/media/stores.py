"""Save outputs to object stores: S3, Google Cloud Storage and Azure, using obstore."""

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
"""Maximum size for uploading an object in one request, which a store can reject if it already exists."""
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def location_of(url: str) -> str | Location:
    """Return the path of a `file:` URL, or the location in an object store.

    Raise ConfigurationError for an unsupported URL, MissingExtraError without obstore.
    """
    scheme, _, rest = url.partition(":")
    scheme = scheme.lower()
    if not rest.startswith("//"):
        raise ConfigurationError(
            f"{url!r:.200} is neither a path nor a URL.",
            hint="Pass a URL as a string, because pathlib drops a slash; write a folder's name as ./….",
        )
    if scheme == "file":
        parts = urlsplit(url)
        if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
            raise ConfigurationError(f"{url!r:.200} is not a local file.", hint="Use file:///path.")
        return url2pathname(parts.path)
    if scheme not in SCHEMES:
        raise ConfigurationError(
            f"Outputs cannot be saved to {scheme}: URLs.",
            hint="Save to a file, or to s3://, gs://, az:// or file://; bytes() returns the content.",
        )
    bucket, _, key = rest[2:].partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise ConfigurationError(
            f"The {scheme}: URL has no valid bucket name.",
            hint=f"Use {scheme}://bucket/key; credentials come from the environment.",
        )
    obstore = _obstore()
    try:
        _store(f"{scheme}://{bucket}")
    except obstore.exceptions.BaseError as error:
        raise ConfigurationError(
            f"The store {scheme}://{bucket} cannot be used: {_reason(error)}",
            hint="Configure it with environment variables: AWS_…, GOOGLE_…, AZURE_….",
        ) from error
    return Location(scheme, bucket, key)


@dataclass(frozen=True, slots=True)
class Location:
    """The URL of an object, or of a folder if it ends with a slash. Keys are used verbatim."""

    scheme: str
    bucket: str
    key: str

    @property
    def is_folder(self) -> bool:
        """Whether objects saved here need a name."""
        return not self.key or self.key.endswith("/")

    def named(self, name: str) -> Location:
        """Return the location of an object in this folder."""
        return Location(self.scheme, self.bucket, f"{self.key}{name}") if self.is_folder else self

    def beside(self, suffix: str) -> Location:
        """Return the location with a suffix appended to its name."""
        return Location(self.scheme, self.bucket, f"{self.key}{suffix}")

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.key}"

    def put(self, file: BinaryIO, mime_type: str | None, sha256: str, overwrite: bool) -> None:
        """Write an object atomically; keep one with the same content.

        Raise OutputError if it exists with different content, unless `overwrite`, and OSError if the store
        fails.
        """
        obstore = _obstore()
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        attributes = {"Content-Type": mime_type or "application/octet-stream"}
        try:
            store = _store(f"{self.scheme}://{self.bucket}")
            if not overwrite and self._is_there(obstore, store, sha256):
                return
            # Stores cannot make a multipart upload conditional on the object's absence.
            mode = "create" if not overwrite and size <= SINGLE_BYTES else None
            try:
                obstore.put(store, self.key, file, attributes=attributes, mode=mode)
            except obstore.exceptions.AlreadyExistsError:
                if not self._is_there(obstore, store, sha256):
                    raise
        except (obstore.exceptions.BaseError, OSError, ValueError) as error:
            raise OSError(f"{self}: {_reason(error)}") from error

    def _is_there(self, obstore: ModuleType, store: ObjectStore, sha256: str) -> bool:
        try:
            content = obstore.get(store, self.key)
        except FileNotFoundError:
            return False
        digest = hashlib.sha256()
        for piece in content:
            digest.update(piece)
        if digest.hexdigest() == sha256:
            return True
        raise OutputError(
            f"{self} already exists with different content.", hint="Pass overwrite=True, or another URL."
        )


def _reason(error: Exception) -> str:
    # A URL's query may contain a signature.
    return re.sub(r"\?\S+", "?…", str(error).partition("\n")[0])[:500]


_process = 0


def _obstore() -> ModuleType:
    """Return the library; raise in a forked child of a process that used it, where it would hang."""
    global _process
    try:
        import obstore
    except ImportError as error:
        raise MissingExtraError("Object stores need obstore.", hint='pip install "piccc[stores]"') from error
    if _process not in (0, os.getpid()):
        raise ConfigurationError(
            "Object stores cannot be used in a forked process after its parent used them.",
            hint="Start processes with multiprocessing's spawn method, or save only in child processes.",
        )
    return obstore


@lru_cache(maxsize=64)
def _store(root: str) -> ObjectStore:
    """Return a bucket's store, cached to reuse its connections."""
    global _process
    from obstore.store import from_url

    _process = os.getpid()
    return from_url(root)
