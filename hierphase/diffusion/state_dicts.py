"""Published weights: named tensors in a file, read without running anything it may hold."""

import re
import zipfile
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file


def read_state_dict(path: Path | str) -> dict[str, torch.Tensor]:
    """The state dict in a file; nothing but tensors is ever unpickled.

    Args:
        path: ``.safetensors``, or anything that ``torch.save`` wrote.

    Returns:
        Name -> tensor, on the CPU.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is cut short, holds something else, or more than tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint {path}: give a .pt, .pth or .safetensors file")
    try:
        return _read(path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def differences(expected: dict[str, tuple[int, ...]], found: dict[str, torch.Tensor]) -> str:
    """How a state dict differs from the one that was expected; empty if it does not.

    Args:
        expected: name -> shape.
        found: name -> tensor.

    Returns:
        How many tensors are missing, unexpected or of another shape, and the first three of each.
    """
    kinds = {
        "missing": sorted(expected.keys() - found.keys()),
        "unexpected": sorted(map(str, found.keys() - expected.keys())),
        "of another shape": [
            f"{name}: {tuple(found[name].shape)} instead of {shape}"
            for name, shape in expected.items()
            if name in found and tuple(found[name].shape) != shape
        ],
    }
    return "; ".join(
        f"{len(names)} {kind} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for kind, names in kinds.items()
        if names
    )


def _read(path: Path) -> dict[str, torch.Tensor]:
    """The state dict in an existing file; errors do not name it."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # Mapped into memory, the file is not held there a second time.
        state_dict = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except SafetensorError as error:
        raise ValueError(f"cut short or no safetensors file ({error})") from None
    except Exception as error:  # unpickling a broken file fails in many ways
        found = re.search(r"GLOBAL (\S+)", str(error))
        if found:
            raise ValueError(
                f"holds more than tensors ({found[1]}) and was not loaded, because doing so could "
                "run code; give a file with the model's state dict only"
            ) from None
        raise ValueError(
            f"cut short or no PyTorch checkpoint ({path.stat().st_size} bytes)"
        ) from None
    if not isinstance(state_dict, dict) or not state_dict:
        raise ValueError(f"holds a {type(state_dict).__name__}, not a state dict")
    others = [key for key, value in state_dict.items() if not isinstance(value, torch.Tensor)]
    if others:
        raise ValueError(
            f"holds no plain state dict: {len(others)} of its entries are not tensors "
            f"({', '.join(map(repr, others[:3]))})"
        )
    return state_dict
