"""Files of weights: what is read, what is refused, and that nothing in them is executed."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hierphase.diffusion.state_dicts import differences, read_state_dict

NAMES = ["model.pt", "old.pt", "model.safetensors"]
STATE_DICT = {
    "out.weight": torch.randn(40, 30, generator=torch.Generator().manual_seed(0)),
    "out.bias": torch.zeros(40),
}


def saved(directory, name, content=STATE_DICT):
    """Content in a file of the kind that its name says: zip, PyTorch's old kind, or safetensors."""
    path = directory / name
    if path.suffix == ".safetensors":
        save_file(content, path)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=name != "old.pt")
    return path


@pytest.mark.parametrize("name", NAMES)
def test_every_kind_of_file_is_read(tmp_path, name):
    path = saved(tmp_path, name)
    for given in (path, str(path)):
        found = read_state_dict(given)
        assert found.keys() == STATE_DICT.keys()
        assert all(torch.equal(found[key], value) for key, value in STATE_DICT.items())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.999])
def test_a_file_cut_short_is_refused(tmp_path, name, share):
    path = saved(tmp_path, name)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ValueError, match=rf"{name}: cut short or no "):
        read_state_dict(path)


@pytest.mark.parametrize(
    "content, message",
    [
        ([torch.zeros(3)], "holds a list, not names and tensors"),
        ({"model": {"out.2.bias": torch.zeros(6)}, "step": 3}, "holds a dict, not names and ten"),
    ],
)
def test_a_file_that_holds_something_else_is_refused(tmp_path, content, message):
    with pytest.raises(ValueError, match=rf"model.pt: .*{message}"):
        read_state_dict(saved(tmp_path, "model.pt", content))


def test_what_is_no_file_is_not_found(tmp_path):
    for path in (tmp_path / "absent.pt", tmp_path):
        with pytest.raises(FileNotFoundError, match=f"no checkpoint {path}"):
            read_state_dict(path)


class Hostile:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["model.pt", "old.pt", "pickle.pt"])
def test_nothing_in_a_pickle_is_executed(tmp_path, name):
    trace = tmp_path / "trace"
    path = saved(tmp_path, name, STATE_DICT | {"hook": Hostile(trace)})
    if name == "pickle.pt":
        path.write_bytes(pickle.dumps(Hostile(trace), protocol=2))
    with pytest.raises(ValueError, match=rf"{name}: (holds more than tensors|cut short or no)"):
        read_state_dict(path)
    assert not trace.exists()
    if name == "pickle.pt":
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert trace.exists()  # an ordinary load executes it


def test_differences_are_counted_and_the_first_named():
    assert differences(STATE_DICT, STATE_DICT) == ""
    assert differences(STATE_DICT, {}) == "2 missing (out.bias, out.weight)"
    other = {"out.bias": torch.zeros(3), **{f"{i}.bias": torch.zeros(1) for i in range(4)}}
    assert differences(STATE_DICT, other) == (
        "1 missing (out.weight); 4 unexpected (0.bias, 1.bias, 2.bias, ...); 1 of another shape "
        "(out.bias: (3,) instead of (40,))"
    )
