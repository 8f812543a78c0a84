"""From a template that is published to the copies that execute points have."""

from __future__ import annotations

import contextlib
import functools
import gzip
import http.server
import json
import os
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Callable, Iterator

import pytest

from tests.unit.returned import small_template
from vmcapsule.errors import SpaceError, TemplateError
from vmcapsule.template import cache as cached
from vmcapsule.template.cache import LOCK, entries, in_use
from vmcapsule.template.fetch import fill
from vmcapsule.template.likeness import likeness
from vmcapsule.template.publish import add
from vmcapsule.template.template import FOLDER, load

GIB = 1 << 30


def made_template(folder: Path, mark: str = "") -> Path:
    """A template with a file of mostly holes, and with names as people give them."""
    folder.mkdir(exist_ok=True)
    root = Path(small_template(folder)["VM_CAPSULE_TEMPLATE"])
    inside = root / FOLDER
    (inside / "template.json").write_text(json.dumps({"format": 1, "cmdline": mark}))
    with (inside / "vmlinuz").open("wb") as file:
        file.write(os.urandom(3 << 20))
        file.truncate(8 << 20)
        file.seek(12 << 20)
        file.write(b"end")
    return root


@pytest.fixture
def template(tmp_path: Path) -> Path:
    return made_template(tmp_path / "made")


def silent(step: str = "") -> None:
    """Nobody listens."""


def filled(cache: Path, store: object, at_most_bytes: int = GIB) -> list[str]:
    return fill(cache, str(store), at_most_bytes, silent)


def contents(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in load(root).folder.iterdir()}


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(params=["path", "http"])
def store(request: pytest.FixtureRequest, tmp_path: Path, template: Path) -> Iterator[str]:
    """A store that has the template."""
    folder = tmp_path / "store"
    add(load(template), folder, silent)
    if request.param == "path":
        yield str(folder)
    else:
        with served(folder) as address:
            yield address


def test_what_is_published_comes_whole(tmp_path: Path, template: Path, store: str) -> None:
    assert filled(tmp_path / "cache", store) == []
    (entry,) = entries(tmp_path / "cache")
    assert entry.likeness == likeness(load(template)) == likeness(load(entry.folder))
    assert contents(entry.folder) == contents(template)


def test_everybody_may_read_it_and_only_its_owner_write(
    tmp_path: Path, template: Path, store: str
) -> None:
    previous = os.umask(0o077)
    try:
        shutil.rmtree(tmp_path / "store")
        add(load(template), tmp_path / "store", silent)
        filled(tmp_path / "cache", store)
    finally:
        os.umask(previous)
    (entry,) = entries(tmp_path / "cache")
    read = [tmp_path / "cache", entry.folder, *entry.folder.rglob("*")]
    if store == str(tmp_path / "store"):
        read += [path for path in Path(store).rglob("*") if path.name != ".lock"]
    for path in [*read, tmp_path / "store"]:
        wanted = 0o755 if path.is_dir() else 0o644
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path


def test_holes_are_neither_stored_nor_written(
    tmp_path: Path, template: Path, store: str
) -> None:
    filled(tmp_path / "cache", store)
    (entry,) = entries(tmp_path / "cache")
    kernel = (load(entry.folder).folder / "vmlinuz").stat()
    assert kernel.st_size > 12 << 20 and kernel.st_blocks * 512 < 4 << 20


def test_what_is_there_is_not_fetched_again(tmp_path: Path, store: str) -> None:
    said: list[str] = []
    for _ in range(2):
        fill(tmp_path / "cache", store, GIB, lambda: said.append("fetching"))
    assert said == ["fetching"]


def test_the_last_published_comes_first(tmp_path: Path, template: Path) -> None:
    store, cache = tmp_path / "store", tmp_path / "cache"
    second = made_template(tmp_path / "second", "second")
    add(load(template), store, silent)
    filled(cache, store)
    add(load(second), store, silent)
    filled(cache, store)
    found = [entry.likeness for entry in entries(cache)]
    assert found == [likeness(load(second)), likeness(load(template))]
    # Published again it is the last.
    add(load(template), store, silent)
    filled(cache, store)
    assert [entry.likeness for entry in entries(cache)] == found[::-1]


def test_publishing_only_one_withdraws_the_others(tmp_path: Path, template: Path) -> None:
    store, cache = tmp_path / "store", tmp_path / "cache"
    second = made_template(tmp_path / "second", "second")
    add(load(template), store, silent)
    filled(cache, store)
    made = add(load(second), store, silent, only=True)
    folders = [path.name for path in store.iterdir() if path.is_dir()]
    assert folders == [made.likeness]
    # Execute points keep what they have while there is room: jobs may be on their way.
    filled(cache, store)
    assert len(entries(cache)) == 2
    filled(cache, store, made.data_bytes)
    assert [entry.likeness for entry in entries(cache)] == [made.likeness]


def test_what_is_used_is_not_removed(tmp_path: Path, template: Path) -> None:
    store, cache = tmp_path / "store", tmp_path / "cache"
    second = made_template(tmp_path / "second", "second")
    add(load(template), store, silent)
    filled(cache, store)
    made = add(load(second), store, silent, only=True)
    (old,) = entries(cache)
    os.utime(old.folder / LOCK, (1, 1))
    with in_use(old.folder), in_use(old.folder):
        (reason,) = filled(cache, store, made.data_bytes)
        assert "waits for jobs that use another one" in reason
        (same,) = entries(cache)
        assert same.likeness == old.likeness
        assert same.used_s > time.time() - 60
    assert filled(cache, store, made.data_bytes) == []
    assert [entry.likeness for entry in entries(cache)] == [made.likeness]


def test_one_that_was_removed_is_not_used(tmp_path: Path, template: Path) -> None:
    store, cache = tmp_path / "store", tmp_path / "cache"
    add(load(template), store, silent)
    filled(cache, store)
    (entry,) = entries(cache)
    taken = (entry.folder / LOCK).open("rb")
    with taken, pytest.MonkeyPatch.context() as patch:
        # It is removed between the opening of its lock and the locking.
        patch.setattr(cached, "open_regular", lambda _: os.dup(taken.fileno()))
        shutil.rmtree(entry.folder)
        with pytest.raises(TemplateError, match="was removed"), in_use(entry.folder):
            pass


def test_a_job_that_locks_for_itself_stops_nobody(
    tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    store, cache = tmp_path / "store", tmp_path / "cache"
    add(load(template), store, silent)
    filled(cache, store)
    (entry,) = entries(cache)
    monkeypatch.setattr(cached, "_LOOK_S", 0.001)
    with (entry.folder / LOCK).open("rb") as hostile:
        fcntl.flock(hostile, fcntl.LOCK_EX)
        with in_use(entry.folder):
            assert load(entry.folder)


def test_one_that_was_copied_there_by_hand_needs_no_lock(template: Path) -> None:
    with in_use(template):
        assert not (template / LOCK).exists()


def damage_index(store: Path) -> None:
    (store / "templates.json").write_text('{"format": 2}')


def lose_index(store: Path) -> None:
    (store / "templates.json").unlink()


def damage_file(store: Path) -> None:
    for path in store.glob("*/*.gz"):
        path.write_bytes(gzip.compress(b"x" * 100))


def truncate_file(store: Path) -> None:
    for path in store.glob("*/*.gz"):
        os.truncate(path, path.stat().st_size // 2)


def lose_file(store: Path) -> None:
    for path in store.glob("*/1.gz"):
        path.unlink()


def change_byte(store: Path) -> None:
    for path in store.glob("*/*.gz"):
        data = bytearray(gzip.decompress(path.read_bytes()))
        data[len(data) // 2] ^= 1
        path.write_bytes(gzip.compress(bytes(data)))


def lengthen_file(store: Path) -> None:
    for path in store.glob("*/*.gz"):
        path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + b"x"))


def be_no_gzip(store: Path) -> None:
    for path in store.glob("*/*.gz"):
        path.write_bytes(b"x" * 100)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (damage_index, "format"),
        (lose_index, "templates.json"),
        (damage_file, "damaged"),
        (truncate_file, "damaged"),
        (lose_file, "1.gz"),
        (change_byte, "digest"),
        (lengthen_file, "too long"),
        (be_no_gzip, "damaged"),
    ],
)
@pytest.mark.parametrize("by_http", [False, True])
def test_a_store_that_is_damaged_costs_nothing_but_a_reason(
    tmp_path: Path, template: Path, damage: Callable[[Path], None], words: str, by_http: bool
) -> None:
    store, cache = tmp_path / "store", tmp_path / "cache"
    add(load(template), store, silent)
    filled(cache, store)
    second = made_template(tmp_path / "second", "second")
    add(load(second), store, silent)
    damage(store)
    with served(store) if by_http else contextlib.nullcontext(str(store)) as where:
        (reason,) = filled(cache, where)
    assert words in reason
    assert [entry.likeness for entry in entries(cache)] == [likeness(load(template))]
    assert not list(cache.glob(".new-*"))


def test_a_server_that_is_gone_is_named(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/x"
        (reason,) = filled(tmp_path / "cache", address)
    assert reason.startswith(f"cannot fetch '{address}/templates.json'")
    assert "refused" in reason


def test_an_endless_index_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "store").mkdir()
    with (tmp_path / "store" / "templates.json").open("wb") as file:
        file.truncate(9 << 20)
    (reason,) = filled(tmp_path / "cache", tmp_path / "store")
    assert "larger than" in reason


def test_a_copy_that_has_changed_is_fetched_anew(tmp_path: Path, template: Path) -> None:
    store, cache = tmp_path / "store", tmp_path / "cache"
    add(load(template), store, silent)
    filled(cache, store)
    (entry,) = entries(cache)
    kernel = load(entry.folder).folder / "vmlinuz"
    before = kernel.stat()
    with kernel.open("r+b") as file:
        file.seek(200_000)
        file.write(b"changed")
    assert kernel.stat().st_mtime_ns != before.st_mtime_ns
    assert entries(cache) == []
    assert filled(cache, store) == []
    (entry,) = entries(cache)
    assert contents(entry.folder) == contents(template)


def test_what_was_left_by_one_that_was_killed_is_removed(
    tmp_path: Path, template: Path
) -> None:
    store, cache = tmp_path / "store", tmp_path / "cache"
    add(load(template), store, silent)
    (cache / ".new-1234" / FOLDER).mkdir(parents=True)
    (cache / ".old-1234").mkdir()
    (cache / ("ab" * 16) / FOLDER).mkdir(parents=True)
    (cache / ("ab" * 16) / LOCK).touch()
    # What is none of ours stays.
    (cache / ("cd" * 16)).mkdir()
    (cache / "notes").mkdir()
    filled(cache, store)
    left = {path.name for path in cache.iterdir()}
    ours = {likeness(load(template)), ".lock", "templates.json"}
    assert left == {*ours, "cd" * 16, "notes"}


KILLED = """\
import sys
from pathlib import Path
from vmcapsule.template.fetch import fill
cache = Path(sys.argv[1])
print("ready", flush=True)
while True:
    fill(cache, sys.argv[2], 1 << 30, lambda: None)
    for record in cache.glob("[0-9a-f]*/fetched.json"):
        record.unlink()
"""


def test_killed_at_any_moment_it_leaves_only_what_is_whole(
    tmp_path: Path, template: Path
) -> None:
    store, cache = tmp_path / "store", tmp_path / "cache"
    add(load(template), store, silent)
    for number in range(12):
        child = subprocess.Popen(
            [sys.executable, "-c", KILLED, cache, store], stdout=subprocess.PIPE
        )
        with child:
            assert child.stdout is not None and child.stdout.readline()
            time.sleep(0.02 * number)
            child.send_signal(signal.SIGKILL)
        for entry in entries(cache):
            assert contents(entry.folder) == contents(template)
    assert filled(cache, store) == []
    (entry,) = entries(cache)
    assert contents(entry.folder) == contents(template)
    assert not list(cache.glob(".new-*"))


def test_twenty_at_once_fetch_once(tmp_path: Path, template: Path) -> None:
    store, cache = tmp_path / "store", tmp_path / "cache"
    add(load(template), store, silent)
    fetched: list[int] = []
    wrong: list[str] = []

    def one() -> None:
        wrong.extend(fill(cache, str(store), GIB, lambda: fetched.append(1)))

    threads = [threading.Thread(target=one) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(entries(cache)) == 1 and len(fetched) == 1
    assert set(wrong) <= {"another program is fetching templates"}


def test_a_job_can_stop_neither_those_who_fetch_nor_those_who_publish(
    tmp_path: Path, template: Path
) -> None:
    add(load(template), tmp_path / "store", silent)
    filled(tmp_path / "cache", tmp_path / "store")
    for lock in (tmp_path / "store" / ".lock", tmp_path / "cache" / ".lock"):
        assert stat.S_IMODE(lock.stat().st_mode) == 0o600


def test_one_that_was_changed_and_is_in_use_is_left_for_later(
    tmp_path: Path, template: Path
) -> None:
    store, cache = tmp_path / "store", tmp_path / "cache"
    add(load(template), store, silent)
    filled(cache, store)
    (entry,) = entries(cache)
    with in_use(entry.folder):
        os.utime(load(entry.folder).folder / "vmlinuz")
        add(load(made_template(tmp_path / "second", "second")), store, silent)
        (reason,) = filled(cache, store)
        assert "another one in its place here" in reason
        # The others come all the same.
        assert len(entries(cache)) == 1
    assert filled(cache, store) == []
    assert len(entries(cache)) == 2


def test_what_came_damaged_is_not_fetched_again_at_once(
    tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, cache = tmp_path / "store", tmp_path / "cache"
    add(load(template), store, silent)
    change_byte(store)
    (reason,) = filled(cache, store)
    assert "digest" in reason
    (again,) = filled(cache, store)
    assert again == f"{reason} (seen within the hour)"
    # It is put right, and that is seen an hour later.
    add(load(template), store, silent)
    assert filled(cache, store) == [again]
    os.utime(cache / "failed", (1, 1))
    assert filled(cache, store) == []


def test_what_is_damaged_in_the_store_is_published_anew(
    tmp_path: Path, template: Path, store: str
) -> None:
    lose_file(tmp_path / "store")
    add(load(template), tmp_path / "store", silent)
    assert filled(tmp_path / "cache", store) == []


def test_a_disk_with_little_room_is_not_filled(
    tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(load(template), tmp_path / "store", silent)
    usage = shutil.disk_usage(tmp_path)._replace(free=1 << 30)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    (reason,) = filled(tmp_path / "cache", tmp_path / "store")
    assert "there is no room for 3 MiB on the disk" in reason


def test_publishing_removes_nothing_that_it_did_not_make(
    tmp_path: Path, template: Path
) -> None:
    store = tmp_path / "store"
    (store / ("ab" * 16)).mkdir(parents=True)
    add(load(template), store, silent, only=True)
    assert (store / ("ab" * 16)).is_dir()


def test_a_template_that_changes_meanwhile_is_not_published(
    tmp_path: Path, template: Path
) -> None:
    def change(step: str) -> None:
        (template / FOLDER / "template.json").write_text('{"format": 1, "cmdline": "x"}')

    with pytest.raises(TemplateError, match="changed while it was published"):
        add(load(template), tmp_path / "store", change)
    assert [path.name for path in (tmp_path / "store").iterdir()] == [".lock"]


def test_more_than_is_read_is_not_published(
    tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vmcapsule.template.catalogue.FILES_MAX", 2)
    with pytest.raises(TemplateError, match="no list of at most 2"):
        add(load(template), tmp_path / "store", silent)
    monkeypatch.undo()
    monkeypatch.setattr("vmcapsule.template.catalogue.INDEX_BYTES_MAX", 100)
    with pytest.raises(TemplateError, match="more than is read"):
        add(load(template), tmp_path / "store", silent)


@pytest.mark.parametrize("address", ["http://a..b/x", "http://[::1/x", f"http://{'a' * 70}.b"])
def test_an_address_that_is_none_is_a_reason(tmp_path: Path, address: str) -> None:
    (reason,) = filled(tmp_path / "cache", address)
    assert reason.startswith(f"cannot fetch '{address}/templates.json'")


def test_a_cache_that_others_may_write_to_is_not_used(tmp_path: Path, template: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(0o777)
    add(load(template), tmp_path / "store", silent)
    (reason,) = filled(cache, tmp_path / "store")
    assert "all may write to it" in reason and not list(cache.iterdir())


def test_a_cache_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (reason,) = filled(tmp_path / "no" / "cache", tmp_path)
    assert f"'{tmp_path / 'no' / 'cache'}': No such file" in reason


def test_a_full_disk_is_said(tmp_path: Path, template: Path) -> None:
    add(load(template), tmp_path / "store", silent)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
        (reason,) = filled(tmp_path / "cache", tmp_path / "store")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, previous)
    assert "File too large" in reason
    assert not list((tmp_path / "cache").glob(".new-*"))


def test_a_store_that_cannot_be_written_is_named(tmp_path: Path, template: Path) -> None:
    (tmp_path / "store").write_text("a file")
    with pytest.raises(SpaceError, match="cannot publish to"):
        add(load(template), tmp_path / "store", silent)


def test_publishing_that_fails_leaves_what_was_there(
    tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    add(load(template), store, silent)
    second = load(made_template(tmp_path / "second", "second"))

    def stop(step: str) -> None:
        if "system" in step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        add(second, store, stop)
    assert filled(tmp_path / "cache", store) == []
    assert len(entries(tmp_path / "cache")) == 1
    assert not list(store.glob(".new-*"))


def test_a_store_whose_index_is_damaged_is_not_published_over(
    tmp_path: Path, template: Path
) -> None:
    store = tmp_path / "store"
    add(load(template), store, silent)
    damage_index(store)
    with pytest.raises(TemplateError) as caught:
        add(load(template), store, silent)
    assert caught.value.remedy.startswith(f"remove '{store / 'templates.json'}'")
    assert len(list(store.glob("*/0.gz"))) == 1


def test_a_store_without_its_index_is_begun_anew(tmp_path: Path, template: Path) -> None:
    store = tmp_path / "store"
    add(load(template), store, silent)
    (store / "templates.json").unlink()
    add(load(template), store, silent)
    assert filled(tmp_path / "cache", store) == []
    assert len(entries(tmp_path / "cache")) == 1
