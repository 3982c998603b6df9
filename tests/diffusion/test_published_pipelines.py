"""Reversal from pure noise, beside the pipelines of diffusers from the same noise."""

import json
import re
from pathlib import Path

import pytest
import stand_ins
import torch
from diffusers import AutoencoderKL, DDIMScheduler, EulerDiscreteScheduler, PNDMScheduler, VQModel
from forward_backward_reference import generators, stream

from hierphase.diffusion.forward_backward import ForwardBackwardPipeline
from hierphase.diffusion.model_folders import LatentSpace, load_denoiser

N, STEPS = 4, 20
pytestmark = pytest.mark.filterwarnings("ignore:.* changes the variance of Gaussian data")


def reversed_from_noise(folder, channels, **conditions):
    """Our x̂0 from t = T, of a folder, as images."""
    model, scheduler, own, space = load_denoiser(folder)
    call = {"num_inference_steps": STEPS, "generator": generators(N)}
    call["conditions"] = own | {k: torch.as_tensor(rows) for k, rows in conditions.items()}
    pipeline = ForwardBackwardPipeline(model, scheduler)
    found = pipeline(torch.zeros(N, channels, 8, 8), [1000], **call).samples
    return found[0] if space is None else space.decode(found)[0]


def of_diffusers(pipeline, *arguments, **options):
    """What their call gives from the streams that ours derives: images in [0, 1]."""
    pipeline.set_progress_bar_config(disable=True)
    streams = [stream(i, 1000, 0) for i in range(N)]
    call = {"num_inference_steps": STEPS, "output_type": "np", "generator": streams}
    return torch.as_tensor(pipeline(*arguments, **call, **options).images).permute(0, 3, 1, 2)


def assert_same(found, expected):
    assert ((expected > 0) & (expected < 1)).float().mean() > 0.5  # most are not clipped
    assert 0.1 < expected.std() < 1
    torch.testing.assert_close((found / 2 + 0.5).clamp(0, 1), expected, rtol=0, atol=3e-5)


def test_pixels(tmp_path):
    pipeline = stand_ins.pixels()
    pipeline.save_pretrained(tmp_path)
    assert_same(reversed_from_noise(tmp_path, 3), of_diffusers(pipeline, N))


def test_latents(tmp_path):
    pipeline = stand_ins.latents()
    pipeline.save_pretrained(tmp_path)
    assert_same(reversed_from_noise(tmp_path, 3), of_diffusers(pipeline, N))


def test_classes_and_pixels(tmp_path):
    """No pipeline of diffusers tells a model of pixels a class: the loop of DDPMPipeline does."""
    stand_ins.classes(tmp_path, 4)
    model, scheduler, _, _ = load_denoiser(tmp_path)
    labels, streams = torch.tensor([3, 0, 1, 2]), [stream(i, 1000, 0) for i in range(N)]
    scheduler.set_timesteps(STEPS)
    x = torch.cat([torch.randn(1, 3, 8, 8, generator=own) for own in streams])
    with torch.no_grad():
        for t in scheduler.timesteps:
            noise = model(x, t, class_labels=labels).sample
            x = scheduler.step(noise, t, x, generator=streams).prev_sample
    found = reversed_from_noise(tmp_path, 3, class_labels=labels)
    assert_same(found, (x / 2 + 0.5).clamp(0, 1))
    other = reversed_from_noise(tmp_path, 3, class_labels=labels.roll(1))
    assert (other - found).abs().amax((1, 2, 3)).min() > 1e-2


@pytest.mark.parametrize("name", ["DiTTransformer2DModel", "Transformer2DModel"])
def test_classes_and_latents(tmp_path, name):
    """Also under the name that the published folder gives the transformer."""
    pipeline, labels = stand_ins.classes_and_latents(), [3, 999, 1000, 5]
    pipeline.save_pretrained(tmp_path)
    config = tmp_path / "transformer/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"_class_name": name}))
    found = reversed_from_noise(tmp_path, 4, class_labels=labels)
    assert_same(found, of_diffusers(pipeline, labels, guidance_scale=1.0))
    one = reversed_from_noise(tmp_path, 4, class_labels=[3])  # for all of them
    torch.testing.assert_close(one[0], found[0])
    assert (one - found)[1:].abs().amax((1, 2, 3)).min() > 1e-2


@pytest.mark.parametrize("shift", [None, 0.3])
def test_latents_are_those_that_the_pipelines_of_images_begin_with(shift):
    vae, images = stand_ins.autoencoder(AutoencoderKL, 4), stand_ins.noise(3, 3, 16, 16)
    vae.register_to_config(shift_factor=shift)
    space = LatentSpace(vae)
    with torch.no_grad():
        means = vae.encode(images).latent_dist.mean
        decoded = vae.decode(means).sample
    torch.testing.assert_close(space.encode(images), (means - (shift or 0)) * 0.4)
    torch.testing.assert_close(space.decode(space.encode(images)), decoded)
    several = space.encode(images).expand(2, 5, 3, 4, 8, 8)
    assert torch.equal(space.decode(several)[1, 4], space.decode(several[1, 4]))
    assert torch.equal(space.encode(images)[1:2], space.encode(images[1:2]))  # alone or not


def test_latents_of_a_codebook_are_not_yet_of_it():
    vae, images = stand_ins.autoencoder(VQModel, 3), stand_ins.noise(2, 3, 16, 16)
    with torch.no_grad():
        latents = vae.encode(images).latents
        torch.testing.assert_close(LatentSpace(vae).encode(images), latents * 0.4)


@pytest.mark.parametrize("kind", [PNDMScheduler, DDIMScheduler, EulerDiscreteScheduler])
def test_text_and_latents(tmp_path, kind):
    """Guidance 1 is the network alone: the loop of StableDiffusionPipeline is five lines."""
    scheduler = kind.from_config(PNDMScheduler(skip_prk_steps=True).config | stand_ins.STABLE)
    unet, vae, prompt = stand_ins.text_and_latents(tmp_path, scheduler)
    scheduler.set_timesteps(STEPS)
    x = torch.cat([torch.randn(1, 4, 8, 8, generator=stream(i, 1000, 0)) for i in range(N)])
    x *= scheduler.init_noise_sigma
    with torch.no_grad():
        for t in scheduler.timesteps:
            given = scheduler.scale_model_input(x, t)
            noise = unet(given, t, encoder_hidden_states=prompt.expand(N, 5, 12)).sample
            x = scheduler.step(noise, t, x).prev_sample
        expected = (vae.decode(x / vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)
    assert_same(reversed_from_noise(tmp_path, 4), expected)


@pytest.fixture
def transformers():
    return pytest.importorskip("transformers", reason="StableDiffusionPipeline needs transformers")


def test_empty_prompt_of_diffusers(tmp_path, transformers):
    """The page's block writes the prompt; the rest is StableDiffusionPipeline's own call."""
    from diffusers import StableDiffusionPipeline

    scheduler = PNDMScheduler.from_config(stand_ins.STABLE | {"skip_prk_steps": True})
    stand_ins.text_and_latents(tmp_path, scheduler)
    words = {"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2}
    tokenizer = transformers.CLIPTokenizer(vocab=words, merges=[], model_max_length=5)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    sizes = {"hidden_size": 12, "intermediate_size": 12, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 2, "vocab_size": 3, "max_position_embeddings": 5}
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = transformers.CLIPTextModel(transformers.CLIPTextConfig(**sizes, **ends))
    encoder.eval().save_pretrained(tmp_path / "text_encoder")
    page = (Path(__file__).parents[2] / "book/running.md").read_text()
    (block,) = re.findall(r"```{code-block} python\n(from safetensors.*?)```", page, re.DOTALL)
    exec(block.replace("/data/stable-diffusion", str(tmp_path)), {})

    (model, _, conditions, space), own = load_denoiser(tmp_path), {"safety_checker": None}
    assert conditions["encoder_hidden_states"].shape == (1, 5, 12)
    pipeline = StableDiffusionPipeline(
        vae=space.vae, unet=model, scheduler=scheduler, tokenizer=tokenizer, text_encoder=encoder,
        feature_extractor=None, requires_safety_checker=False, **own,
    )  # fmt: skip
    call = {"prompt": [""] * N, "guidance_scale": 1.0, "height": 16, "width": 16}
    assert_same(reversed_from_noise(tmp_path, 4), of_diffusers(pipeline, **call))
