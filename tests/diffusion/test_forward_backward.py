import subprocess
import sys

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from forward_backward_reference import IMAGES, UNET, VARIANCE_UNET, generators

from hierphase.diffusion.forward_backward import ForwardBackwardPipeline
from hierphase.rhm.bayes_denoiser import BayesDenoiser
from hierphase.rhm.belief_propagation import BeliefPropagation
from hierphase.rhm.model import RandomHierarchyModel

TIMES = [0, 100, 333, 640, 1000, 333]  # 100 and 333 lie between the steps of 25


class PointMassDenoiser:
    """Exact noise prediction for data that is a single point: every reversal ends there."""

    def __init__(self, point, scheduler):
        self.point, self.scheduler = point, scheduler

    def __call__(self, x_t, t):
        alpha = self.scheduler.alphas_cumprod[t]
        noise = (x_t - alpha.sqrt() * self.point) / (1 - alpha).sqrt()
        return type("Output", (), {"sample": noise})


@pytest.mark.parametrize(
    "scheduler",
    [
        DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++"),
        UniPCMultistepScheduler(),
        DDPMScheduler(variance_type="learned_range"),
    ],
)
def test_state_of_a_scheduler_does_not_mix_rows(scheduler):
    scheduler.set_timesteps(12)
    low, high = scheduler.timesteps[[8, 3]].tolist()
    call = {"num_inference_steps": 12, "batch_size": 3}
    pipeline = ForwardBackwardPipeline(VARIANCE_UNET, scheduler)
    together = pipeline(IMAGES, [low, 1000, high, low], generator=generators(), **call).samples
    for i in range(5):
        for times, kept in ([high], [2]), ([1000, low], [1, 0]):
            own = [generators()[i]]
            alone = pipeline(IMAGES[i : i + 1], times, generator=own, **call).samples
            assert torch.equal(alone[:, 0], together[kept, i])


def test_times_between_integers_have_streams_of_their_own():
    pipeline = ForwardBackwardPipeline(UNET, FlowMatchEulerDiscreteScheduler())
    pipeline.scheduler.set_timesteps(1900)
    near = [t for t in pipeline.scheduler.timesteps.tolist() if int(t) == 2]
    assert len(near) == 2
    call = {"num_inference_steps": 1900, "batch_size": 5}
    together = pipeline(IMAGES, near, generator=generators(), **call).samples
    for t, own in zip(near, together, strict=True):
        assert torch.equal(pipeline(IMAGES, [t], generator=generators(), **call).samples[0], own)


def test_same_bits_however_images_and_times_are_split():
    pipeline = ForwardBackwardPipeline(UNET, DDPMScheduler())
    together = pipeline(IMAGES, TIMES, num_inference_steps=12, generator=generators()).samples
    for i in range(5):
        alone = pipeline(
            IMAGES[i : i + 1], TIMES, num_inference_steps=12, generator=[generators()[i]]
        ).samples
        assert torch.equal(alone[:, 0], together[:, i])
    few = pipeline(IMAGES, [1000, 333], num_inference_steps=12, generator=generators()).samples
    assert torch.equal(few[0], together[4])
    assert torch.equal(few[1], together[2])
    assert not torch.equal(together[2], together[5])  # a repeated time is another draw
    single = torch.Generator().manual_seed(3)
    whole = pipeline(IMAGES, [640], num_inference_steps=12, generator=single).samples
    single.manual_seed(3)
    parts = [
        pipeline(part, [640], num_inference_steps=12, generator=single).samples
        for part in IMAGES.split(2)
    ]
    assert torch.equal(torch.cat(parts, dim=1), whole)
    rounded = pipeline(
        IMAGES, TIMES, num_inference_steps=12, generator=generators(), batch_size=3
    ).samples
    torch.testing.assert_close(rounded, together, rtol=0, atol=1e-4)


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 6), (2, 3, 4, 4)])
def test_exact_denoiser_of_any_shape_leads_to_its_data(shape):
    scheduler = DDPMScheduler(clip_sample=False)
    point = torch.randn(shape[1:], generator=torch.Generator().manual_seed(4))
    pipeline = ForwardBackwardPipeline(PointMassDenoiser(point, scheduler), scheduler)
    x0 = torch.zeros(shape)
    samples = pipeline(x0, [0, 250, 1000], num_inference_steps=50, generator=generators(shape[0]))
    assert torch.equal(samples.samples[0], x0)
    expected = point.expand(2, *shape)
    torch.testing.assert_close(samples.samples[1:], expected, rtol=0, atol=1e-3)


def test_bayes_denoiser_returns_trees_of_its_model():
    rhm = RandomHierarchyModel(v=4, m=2, s=2, L=2, seed=0)
    scheduler = DDPMScheduler(clip_sample=False)
    denoiser = BayesDenoiser(BeliefPropagation(rhm), scheduler)
    leaves = rhm.sample(60, seed=1)[0]
    x0 = torch.nn.functional.one_hot(leaves, 4).mT.to(torch.float32)
    times = [30, 300, 1000]
    pipeline = ForwardBackwardPipeline(denoiser, scheduler)
    samples = pipeline(x0, times, num_inference_steps=100, generator=generators(60)).samples
    assert samples.shape == (3, 60, 4, 4)  # times, samples, symbols, leaves
    returned = samples.argmax(dim=2)
    assert all((rhm.parse(leaves)[-1] >= 0).float().mean() > 0.95 for leaves in returned)
    same = (returned == leaves).all(dim=-1).float().mean(dim=1)
    assert same[0] == 1
    assert same[0] > same[1] > same[2]
    assert same[2] < 0.2  # 60 draws among 4 * 2**3 = 32 equally likely strings


def test_x0_is_left_alone_and_fresh_noise_differs():
    pipeline = ForwardBackwardPipeline(UNET, DDPMScheduler())
    before = IMAGES.clone()
    first = pipeline(IMAGES, [500], num_inference_steps=5).samples
    second = pipeline(IMAGES, [500], num_inference_steps=5).samples
    assert torch.equal(IMAGES, before)
    assert not torch.equal(first, second)


def test_autocast_is_for_the_model_only():
    seen = []

    class Step(DDPMScheduler):
        def step(self, predicted, t, sample, **options):
            seen.append((predicted.dtype, sample.dtype))
            return super().step(predicted, t, sample, **options)

    pipeline = ForwardBackwardPipeline(UNET, Step())
    call = {"timesteps": [30], "num_inference_steps": 20}
    exact = pipeline(IMAGES, generator=generators(), **call).samples
    hook = UNET.conv_in.register_forward_hook(lambda module, x, y: seen.append((y.dtype,) * 2))
    halved = pipeline(IMAGES, generator=generators(), autocast_dtype=torch.bfloat16, **call).samples
    hook.remove()
    assert set(seen) == {(torch.float32,) * 2, (torch.bfloat16,) * 2}
    assert halved.dtype == torch.float32
    assert not torch.equal(halved, exact)
    torch.testing.assert_close(halved, exact, rtol=0, atol=0.1)


def test_no_progress_bar_in_a_file(capfd):
    ForwardBackwardPipeline(UNET, DDPMScheduler())(IMAGES, [500], num_inference_steps=3)
    assert capfd.readouterr() == ("", "")


FRESH = """
import sys, torch
from hierphase.diffusion.forward_backward import ForwardBackwardPipeline
pipeline = ForwardBackwardPipeline.from_pretrained(sys.argv[1])
call = torch.load(sys.argv[1] + "/call.pt", weights_only=True)
generators = [torch.Generator().manual_seed(100 + i) for i in range(5)]
torch.save(pipeline(generator=generators, **call).samples, sys.argv[1] + "/samples.pt")
"""


def test_saved_pipeline_gives_the_same_samples_in_a_fresh_process(tmp_path):
    pipeline = ForwardBackwardPipeline(UNET, DPMSolverMultistepScheduler(beta_end=0.03))
    pipeline.save_pretrained(tmp_path)
    assert list(tmp_path.rglob("*.safetensors"))
    call = {"x0": IMAGES, "num_inference_steps": 8, "timesteps": [300, 700]}
    torch.save(call, tmp_path / "call.pt")
    subprocess.run([sys.executable, "-c", FRESH, str(tmp_path)], check=True)
    expected = pipeline(generator=generators(), **call).samples
    assert torch.equal(torch.load(tmp_path / "samples.pt", weights_only=True), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"timesteps": []}, r"timesteps must be of shape \(n,\), got \(0,\)"),
        ({"timesteps": [[1, 2]]}, r"timesteps must be of shape \(n,\), got \(1, 2\)"),
        ({"timesteps": [100, 1001]}, "a number, 0 to 1000, got .100, 1001"),
        ({"timesteps": [-1]}, "got .-1."),
        ({"timesteps": [10.5]}, "time 10.5 is no step"),
        ({"timesteps": [float("nan")]}, "got .nan."),
        ({"num_inference_steps": 0}, "num_inference_steps must be at least 1, got 0"),
        ({"num_inference_steps": 1001}, "num_inference_steps must be at most 1000, got 1001"),
        ({"num_inference_steps": 10.0}, "num_inference_steps must be an integer, got 10.0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"autocast_dtype": torch.float32}, "autocast_dtype .torch.float32.*known: None, torch.b"),
        ({"generator": [torch.Generator()] * 4}, "a list of 5, one a sample; got 4"),
        ({"x0": torch.zeros(5, 1, 8, 8, dtype=torch.float64)}, "float32 tensor, got torch.float64"),
        ({"x0": np.zeros((5, 1, 8, 8))}, "float32 tensor, got float64"),
        ({"x0": torch.zeros(5, 1, 0, 8)}, r"channels, ...\), got \(5, 1, 0, 8\)"),
        ({"x0": torch.zeros(5)}, r"shape \(n, channels, ...\), got \(5,\)"),
        ({"x0": torch.full((5, 1, 8, 8), float("inf"))}, "finite, got inf"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    pipeline = ForwardBackwardPipeline(UNET, DDPMScheduler())
    call = {"x0": IMAGES, "timesteps": [100], "num_inference_steps": 5} | arguments
    with pytest.raises(ValueError, match=message):
        pipeline(**call)


@pytest.mark.parametrize(
    ("scheduler", "options", "message"),
    [
        (DDIMScheduler(), {}, "time 333 is no step of DDIMScheduler with 25 steps"),
        (UniPCMultistepScheduler(), {}, "time 333 is no step of UniPC"),
        (
            DPMSolverMultistepScheduler(use_karras_sigmas=True),
            {},
            "time 320 is no step of DPMSolverMultistepScheduler .* or ln_snr",
        ),
        (
            DDPMScheduler(timestep_spacing="trailing"),
            {"timesteps": [39], "start_below": True},
            "no respaced step is below t = 39; the smallest is 39",
        ),
        (DDPMScheduler(variance_type="learned"), {}, r"\(5, 2, 8, 8\), got \(5, 1, 8, 8\)"),
    ],
)
def test_steps_that_cannot_be_taken_are_refused(scheduler, options, message):
    with pytest.raises(ValueError, match=message):
        ForwardBackwardPipeline(UNET, scheduler)(
            IMAGES, **{"timesteps": [320, 333], "num_inference_steps": 25} | options
        )
