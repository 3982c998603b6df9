"""Published kinds of models at a few thousand parameters, none of their layers at zero.

Each is the pipeline of diffusers that the published folder is for, so that ``save_pretrained``
writes a folder of that layout, and its call is what our reversal from pure noise must equal.
"""

import json

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    UNet2DConditionModel,
    UNet2DModel,
    VQModel,
)
from diffusers.pipelines.deprecated.latent_diffusion_uncond import LDMPipeline
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from hierphase.networks.classifiers import ConvClassifier

SMALL = {"norm_num_groups": 4, "layers_per_block": 1, "block_out_channels": (8, 16)}
ENCODER = {
    "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2,
    "sample_size": 16, "scaling_factor": 0.4, **SMALL,
}  # fmt: skip
UNET = {
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "sample_size": 8, "in_channels": 3,
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"), "attention_head_dim": 8, "out_channels": 3,
    **SMALL,
}  # fmt: skip
TEXT = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "cross_attention_dim": 12,
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"), "attention_head_dim": 2,
    "sample_size": 8, **SMALL,
}  # fmt: skip
TRANSFORMER = {
    "sample_size": 8, "in_channels": 4, "out_channels": 8, "num_layers": 2,
    "num_attention_heads": 2, "attention_head_dim": 8, "num_embeds_ada_norm": 1000,
}  # fmt: skip
#: Noise of Stable Diffusion, which leaves a signal-to-noise ratio of 0.005.
STABLE = {
    "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1,
    "set_alpha_to_one": False, "clip_sample": False,
}  # fmt: skip


def drawn(model, last, sd, *inputs, **options):
    """The model with random weights; its layer ``last`` gives its outputs this spread."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            for name, x in module.named_parameters(recurse=False):
                x.copy_(torch.randn(x.shape, generator=generator))
                if x.ndim > 1 and not isinstance(module, nn.Embedding):
                    x /= x[0].numel() ** 0.5
                elif x.ndim == 1:
                    x.mul_(0.2).add_(name == "weight")
        factor = sd / model.eval()(*inputs, **options).sample.std()
        for x in model.get_submodule(last).parameters():
            x *= factor
        assert min(float(x.abs().max()) for x in model.parameters()) > 0
    return model


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(7))


def unet(**options):
    """A UNet2DModel, told the classes 0 to 3 if it has any."""
    model, labels = UNet2DModel(**UNET, **options), {}
    if model.class_embedding is not None:
        labels["class_labels"] = torch.arange(4)
    return drawn(model, "conv_out", 1.0, noise(4, 3, 8, 8), torch.tensor(500), **labels)


def autoencoder(kind, channels):
    """Of images of 16 pixels, and latents of 8."""
    vae = kind(latent_channels=channels, **ENCODER)
    return drawn(vae, "decoder.conv_out", 0.5, noise(4, 3, 16, 16))


def pixels():
    """``google/ddpm-cifar10-32``."""
    return DDPMPipeline(unet(), DDPMScheduler())


def latents():
    """``CompVis/ldm-celebahq-256``."""
    return LDMPipeline(autoencoder(VQModel, 3), unet(), DDIMScheduler(**STABLE))


def classes_and_latents():
    """``facebook/DiT-XL-2-256``."""
    inputs = noise(4, 4, 8, 8), torch.full((4,), 500), torch.arange(4)
    transformer = drawn(DiTTransformer2DModel(**TRANSFORMER), "proj_out_2", 1.0, *inputs)
    scheduler = DDIMScheduler(clip_sample=False)
    return DiTPipeline(transformer, autoencoder(AutoencoderKL, 4), scheduler)


def text_and_latents(folder, scheduler):
    """Stable Diffusion: a folder, and in it the state of a prompt of five words; its parts."""
    prompt, vae = noise(1, 5, 12), autoencoder(AutoencoderKL, 4)
    inputs = noise(4, 4, 8, 8), torch.tensor(500), prompt.expand(4, 5, 12)
    model = drawn(UNet2DConditionModel(**TEXT), "conv_out", 1.0, *inputs)
    for name, part in {"unet": model, "vae": vae, "scheduler": scheduler}.items():
        part.save_pretrained(folder / name)
    save_file({"encoder_hidden_states": prompt}, folder / "unet/conditions.safetensors")
    return model, vae, prompt


def classes(folder, n_classes, names=None):
    """A class-conditional model of pixels, which may say the names of its classes."""
    DDPMPipeline(unet(num_class_embeds=n_classes), DDPMScheduler()).save_pretrained(folder)
    config = folder / "unet/config.json"
    named = {} if names is None else {"class_names": names}
    config.write_text(json.dumps(json.loads(config.read_text()) | named))


def images(folder, names):
    """A folder of three images a class, and a classifier of them."""
    for i, name in enumerate(names):
        (folder / "images" / name).mkdir(parents=True)
        for k in range(3):
            pixels = np.random.default_rng([i, k]).integers(0, 256, (20, 18, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / name / f"{k}.png")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        classifier = ConvClassifier(3, len(names), (8, 8), class_names=names)
    classifier.save_pretrained(folder / "classifier")
    return {
        "images": str(folder / "images"), "model": str(folder / "model"),
        "classifier": str(folder / "classifier"), "classifier_weights": None,
        "layers": ["stages.0", "logits"], "n_per_class": 2, "n_times": 2, "batch_size": 8,
        "num_inference_steps": 20, "n_shown": 1, "precision": "float32",
    }  # fmt: skip
