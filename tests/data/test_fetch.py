from __future__ import annotations

import socket

import pytest

from cifarkit.data.fetch import fetch
from cifarkit.data.published import md5_of, replacing
from cifarkit.errors import DataError

CONTENT = bytes(range(256)) * 4000


def silent(name, done, total):
    pass


def test_second_mirror_serves_when_the_first_fails(server, tmp_path):
    server.files = {"good/file": CONTENT, "bad/file": CONTENT[:-1]}
    target = tmp_path / "file"
    urls = [f"{server.url}{mirror}/file" for mirror in ("absent", "bad", "good")]
    fetch(urls, target, md5_of(CONTENT), silent)
    assert target.read_bytes() == CONTENT
    assert server.requests == ["absent/file", "bad/file", "good/file"]


def test_progress_reaches_the_size(server, tmp_path):
    server.files = {"file": CONTENT}
    calls = []
    fetch([f"{server.url}file"], tmp_path / "file", md5_of(CONTENT), lambda *call: calls.append(call))
    assert len(calls) > 1
    assert calls[-1] == ("file", len(CONTENT), len(CONTENT))


def test_no_server(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/file"
        with pytest.raises(
            DataError, match=r"cannot download file .*refused.*without a network, place file in"
        ):
            fetch([url], tmp_path / "file", md5_of(CONTENT), silent)
    assert list(tmp_path.iterdir()) == []


def test_replacing_keeps_the_old_file_on_error(tmp_path):
    target = tmp_path / "file"
    target.write_bytes(b"old")

    def fail():
        with replacing(target) as out:
            out.write(b"half of the n")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]
