"""Small denoisers, images and random streams for the tests of the forward-backward experiment."""

import numpy as np
import torch
from diffusers import UNet2DModel


def small_unet(out_channels):
    model = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=out_channels,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=8,
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


UNET = small_unet(1)
VARIANCE_UNET = small_unet(2)  # predicts the noise and, in a second channel, its variance
IMAGES = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(2)) * 2 - 1


def generators(n=5):
    return [torch.Generator().manual_seed(100 + i) for i in range(n)]


def stream(image, t, occurrence):
    """The documented stream of one (image, time), derived here without the package."""
    key = int(torch.randint(2**63 - 1, (), generator=generators()[image]))
    words = [3, key % 2**32, key // 2**32, t, 0, occurrence, 0]
    state = np.random.SeedSequence(words).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))
