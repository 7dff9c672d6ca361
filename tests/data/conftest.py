"""Small files in the official formats, and a server on this machine that publishes them."""

from __future__ import annotations

import gzip
import http.server
import io
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from official_formats import cifar_batch, idx

from cifarkit.data.datasets import DATASETS, Dataset
from cifarkit.data.published import PublishedFile, md5_of
from cifarkit.data.torchvision_source import CifarSource, TorchvisionSource

PUBLISHED = [name for name, dataset in DATASETS.items() if isinstance(dataset.source, TorchvisionSource)]


def source_of(dataset: Dataset) -> TorchvisionSource:
    assert isinstance(dataset.source, TorchvisionSource)
    return dataset.source


@dataclass
class Tiny:
    """A data set of the table cut down to 4 images per file of its format."""

    dataset: Dataset
    contents: dict[str, bytes]
    images: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]

    @property
    def source(self) -> TorchvisionSource:
        return source_of(self.dataset)

    def path(self, data_dir: Path, name: str) -> Path:
        return data_dir / self.source.folder / name

    def write(self, data_dir: Path) -> None:
        for name, content in self.contents.items():
            target = self.path(data_dir, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)

    def archives(self) -> dict[str, bytes]:
        """What a server publishes: one tar of all, or a gzip file each."""
        if not isinstance(self.source, CifarSource):
            return {f"{name}.gz": gzip.compress(content) for name, content in self.contents.items()}
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as tar:
            for name, content in self.contents.items():
                member = tarfile.TarInfo(f"{self.source.folder}/{name}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        return {"archive.tar.gz": packed.getvalue()}


def make_tiny(name: str) -> Tiny:
    dataset = DATASETS[name]
    source = source_of(dataset)
    random = np.random.default_rng(0)
    channels, height, width = dataset.image_shape
    contents: dict[str, bytes] = {file.name: b"names" for file in source.other}
    images: dict[str, np.ndarray] = {}
    labels: dict[str, np.ndarray] = {}
    for split, files in (("train", source.train), ("test", source.test)):
        batches = len(files) if isinstance(source, CifarSource) else 1
        images[split] = random.integers(0, 256, (4 * batches, height, width, channels), dtype=np.uint8)
        labels[split] = random.integers(0, len(source.classes), 4 * batches)
        if isinstance(source, CifarSource):
            for number, file in enumerate(files):
                part = slice(4 * number, 4 * number + 4)
                batch = cifar_batch(source.label_key, images[split][part], labels[split][part])
                contents[file.name] = batch
        else:
            contents[files[0].name] = idx(images[split][..., 0])
            contents[files[1].name] = idx(labels[split].astype(np.uint8))

    def known(files: tuple[PublishedFile, ...]) -> tuple[PublishedFile, ...]:
        return tuple(
            PublishedFile(f.name, md5_of(contents[f.name]), f.size and len(contents[f.name])) for f in files
        )

    tiny = replace(source, train=known(source.train), test=known(source.test), other=known(source.other))
    return Tiny(replace(dataset, source=tiny), contents, images, labels)


@pytest.fixture(params=PUBLISHED)
def tiny(request: pytest.FixtureRequest) -> Tiny:
    return make_tiny(request.param)


@dataclass
class Server:
    """Serves ``files`` by name; those in ``cut`` stop half way."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    cut: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    state = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.removeprefix("/")
            state.requests.append(name)
            if name not in state.files:
                self.send_error(404)
                return
            content = state.files[name]
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if name in state.cut else content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        state.url = f"http://127.0.0.1:{running.server_port}/"
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield state
        running.shutdown()
        thread.join()


@pytest.fixture
def publish(server: Server, monkeypatch: pytest.MonkeyPatch) -> Callable[[Tiny], Server]:
    """Make torchvision's addresses and checksums those of a tiny data set on the local server."""

    def publish(tiny: Tiny) -> Server:
        import torchvision.datasets

        server.files = tiny.archives()
        publication = getattr(torchvision.datasets, tiny.source.published)
        if isinstance(tiny.source, CifarSource):
            monkeypatch.setattr(publication, "url", f"{server.url}archive.tar.gz")
            monkeypatch.setattr(publication, "filename", "archive.tar.gz")
            monkeypatch.setattr(publication, "tgz_md5", md5_of(server.files["archive.tar.gz"]))
        else:
            resources = [(name, md5_of(content)) for name, content in server.files.items()]
            monkeypatch.setattr(publication, "mirrors", [server.url])
            monkeypatch.setattr(publication, "resources", resources)
        return server

    return publish
