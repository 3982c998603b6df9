"""Images per second of one forward pass of ADM-256, the paper's model, with random weights.

Prints one row for each way to run it, all from this one run, on the accelerator if there is one:
fp32; tf32 (accelerators); bf16 by autocast; bf16 with channels last; the same compiled. "Error" is
the relative difference of the output from that of fp32. An image of the experiment costs as many
forward passes as there are reverse steps below its time.

Usage: python benchmarks/adm.py [--batch N] [--compile] [--small]
"""

import argparse
import time

import torch
from diffusers import UNet2DModel
from torch.utils.flop_counter import FlopCounterMode

from hierphase.diffusion.guided_diffusion import empty_unet
from hierphase.diffusion.guided_diffusion_flags import ADMFlags

SMALL = ADMFlags(
    image_size=64, num_channels=64, channel_mult="1,2,4", attention_resolutions="16",
    num_head_channels=32,
)  # fmt: skip


def flop_per_image(flags):
    """Floating-point operations, two for each multiplication with its addition."""
    images = torch.empty((1, 3, flags.image_size, flags.image_size), device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        empty_unet(flags)(images, torch.empty(1, device="meta"))
    return counter.get_total_flops()


def synchronize(device):
    if device.type != "cpu":
        torch.accelerator.synchronize()


def measure(model, images, times, device, dtype, repetitions):
    """Shortest seconds a call after one to warm up, and the output."""
    seconds = []
    with torch.no_grad(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        for _ in range(repetitions + 1):
            synchronize(device)
            start = time.perf_counter()
            output = model(images, times).sample
            synchronize(device)
            seconds.append(time.perf_counter() - start)
    return min(seconds[1:]), output.float()


def device_name(device):
    if device.type == "cuda":
        return torch.cuda.get_device_name()
    return f"{device.type}, {torch.get_num_threads()} threads"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, metavar="N", help="default: 16, on a CPU 1")
    parser.add_argument("--compile", action="store_true", help="compile on a CPU too")
    parser.add_argument("--small", action="store_true", help="a small model, to try the script")
    options = parser.parse_args()
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    on_cpu = device.type == "cpu"
    batch = options.batch or (1 if on_cpu else 16)
    repetitions = 2 if on_cpu else 10

    flags = SMALL if options.small else ADMFlags()
    flop = flop_per_image(flags)
    torch.manual_seed(0)
    model = UNet2DModel.from_config(empty_unet(flags).config).eval().to(device)
    size = flags.image_size
    images = torch.randn(batch, 3, size, size).to(device)
    times = torch.full((batch,), 500, device=device)
    print(
        f"{device_name(device)}; {model.num_parameters() / 1e6:.1f} M parameters, "
        f"{flop / 1e12:.3f} Tflop an image of {size}x{size}; batch {batch}, "
        f"best of {repetitions} calls; torch {torch.__version__}"
    )
    print(f"{'':>28} {'s/call':>9} {'images/s':>9} {'ratio':>6} {'Tflop/s':>8} {'error':>8}")

    fp32, bf16 = torch.float32, torch.bfloat16
    rows = [("fp32", fp32, False, False), ("bf16", bf16, False, False)]
    if not on_cpu:
        rows.insert(1, ("tf32", fp32, False, False))
    rows.append(("bf16 channels last", bf16, True, False))
    if not on_cpu or options.compile:
        rows.append(("bf16 channels last compiled", bf16, True, True))
    reference = None
    for name, dtype, channels_last, compiled in rows:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = name == "tf32"
        layout = torch.channels_last if channels_last else torch.contiguous_format
        run = torch.compile(model) if compiled else model.to(memory_format=layout)
        given = images.to(memory_format=layout)
        seconds, output = measure(run, given, times, device, dtype, repetitions)
        if reference is None:
            reference, first = output, seconds
        error = (output - reference).norm() / reference.norm()
        print(
            f"{name:>28} {seconds:>9.3f} {batch / seconds:>9.3f} {first / seconds:>5.2f}x "
            f"{batch * flop / seconds / 1e12:>8.3f} {error:>8.1e}",
            flush=True,
        )


if __name__ == "__main__":
    main()
