"""Published weights: named tensors in a file, read without running anything it may hold."""

import re
import zipfile
from pathlib import Path

import torch
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
        if path.suffix == ".safetensors":
            return load_file(path)
        # Mapped into memory, the file is not held there a second time.
        state_dict = torch.load(path, "cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # a broken file fails in many ways
        reason = f"cut short or no checkpoint ({path.stat().st_size} bytes)"
        if found := re.search(r"GLOBAL (\S+)", str(error)):
            reason = f"holds more than tensors ({found[1]}), which could run code"
        raise ValueError(f"{path}: {reason}; give a file with the state dict only") from None
    if not isinstance(state_dict, dict) or not all(map(torch.is_tensor, state_dict.values())):
        raise ValueError(f"{path}: holds a {type(state_dict).__name__}, not names and tensors")
    return state_dict


def differences(expected: dict, found: dict, dtype=torch.float32) -> str:
    """How a state dict differs from one that a model can use; empty if it does not.

    Args:
        expected: name -> tensor of the right shape and kind (numbers, integers); its values and
            width do not matter, and it may be on the meta device.
        found: name -> tensor.
        dtype: in which the model computes, and the floating-point numbers have to be finite.

    Returns:
        How many tensors are missing, unexpected, of another shape or kind, or not finite, and the
        first three of each.
    """
    kinds = {"missing": sorted(expected.keys() - found.keys())}
    kinds["unexpected"] = sorted(map(str, found.keys() - expected.keys()))
    for name, x in expected.items():
        y = found.get(name, x)
        if y.shape != x.shape:
            shapes = f"{name}: {tuple(y.shape)} instead of {tuple(x.shape)}"
            kinds.setdefault("of another shape", []).append(shapes)
        elif y.is_floating_point() != x.is_floating_point():
            kinds.setdefault(f"of {y.dtype} instead of {x.dtype}", []).append(name)
        elif x.is_floating_point() and not y.is_meta and not y.to(dtype).isfinite().all():
            kinds.setdefault(f"not finite in {dtype}", []).append(name)
    return "; ".join(
        f"{len(names)} {kind} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for kind, names in kinds.items()
        if names
    )
