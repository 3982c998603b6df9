import subprocess
import sys

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMInverseScheduler,
    DDIMScheduler,
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    UNet2DModel,
    UniPCMultistepScheduler,
)

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


class GaussianDenoiser:
    """Exact noise prediction for data drawn from N(0, std^2)."""

    def __init__(self, std, scheduler):
        self.std, self.scheduler = std, scheduler

    def __call__(self, x_t, t):
        alpha = self.scheduler.alphas_cumprod[t]
        noise = (1 - alpha).sqrt() * x_t / (alpha * self.std**2 + 1 - alpha)
        return type("Output", (), {"sample": noise})


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


@pytest.fixture(scope="module")
def unet():
    return small_unet(1)


@pytest.fixture(scope="module")
def variance_unet():
    """Predicts the noise and, in a second channel, its variance."""
    return small_unet(2)


@pytest.fixture(scope="module")
def images():
    return torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(2)) * 2 - 1


def generators(n=5):
    return [torch.Generator().manual_seed(100 + i) for i in range(n)]


def stream(image, t, occurrence):
    """The documented stream of one (image, time), derived here without the package."""
    key = int(torch.randint(2**63 - 1, (), generator=generators()[image]))
    words = [3, key % 2**32, key // 2**32, t, 0, occurrence, 0]
    state = np.random.SeedSequence(words).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def plain_loop(model, scheduler, x0, t, steps, generator, start_below=False):
    """One image, one time, one step after the other, as the convention says."""
    scheduler = type(scheduler).from_config(scheduler.config)
    noise = torch.randn(x0.shape, generator=generator)
    scheduler.set_timesteps(steps)
    grid = [int(g) for g in scheduler.timesteps]
    path = [g for g in grid if g < t]
    if t == 1000:
        x = noise
    else:
        alpha = scheduler.alphas_cumprod[t]
        x = alpha.sqrt() * x0 + (1 - alpha).sqrt() * noise
        path = path if start_below else [t, *path]
        if isinstance(scheduler, ANYWHERE):
            scheduler.set_timesteps(timesteps=path)
    learned = isinstance(scheduler, DDPMScheduler) and scheduler.variance_type == "learned_range"
    random = not isinstance(scheduler, UniPCMultistepScheduler | DEISMultistepScheduler)
    for step in path:
        predicted = model(x, torch.tensor(step)).sample
        predicted = predicted if learned else predicted[:, :1]
        given = {"generator": generator} if random else {}
        x = scheduler.step(predicted, step, x, **given).prev_sample
    return x


ANYWHERE = (DDPMScheduler, DPMSolverMultistepScheduler, DPMSolverSinglestepScheduler)
BETWEEN = [0, 100, 333, 1000, 333]  # between the 20 steps of these, and on the grid of the others
DDIM = [0, 100, 350, 1000, 350]
OTHERS = [0, 94, 329, 1000, 329]
CASES = {
    "ddpm": (DDPMScheduler(timestep_spacing="linspace"), BETWEEN),
    "ddpm-leading": (DDPMScheduler(timestep_spacing="leading"), BETWEEN),
    "ddpm-sample": (DDPMScheduler(prediction_type="sample"), BETWEEN),
    "ddpm-v": (DDPMScheduler(prediction_type="v_prediction"), BETWEEN),
    "ddim": (DDIMScheduler(), DDIM),
    "ddim-sample": (DDIMScheduler(prediction_type="sample"), DDIM),
    "ddim-v": (DDIMScheduler(prediction_type="v_prediction"), DDIM),
    "dpm": (DPMSolverMultistepScheduler(), BETWEEN),
    "dpm-third": (DPMSolverMultistepScheduler(solver_order=3, prediction_type="sample"), BETWEEN),
    "dpm-v": (DPMSolverMultistepScheduler(prediction_type="v_prediction"), BETWEEN),
    "dpm-sde": (DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++"), BETWEEN),
    "unipc": (UniPCMultistepScheduler(timestep_spacing="leading"), OTHERS),
    "deis": (DEISMultistepScheduler(timestep_spacing="leading"), OTHERS),
    "singlestep": (DPMSolverSinglestepScheduler(), BETWEEN),
}
LEARNED_CASES = {
    "range": (DDPMScheduler(variance_type="learned_range"), BETWEEN),
    "range-v": (
        DDPMScheduler(variance_type="learned_range", prediction_type="v_prediction"),
        BETWEEN,
    ),
    "fixed": (DDPMScheduler(), BETWEEN),
    "ddim": (DDIMScheduler(), DDIM),
    "dpm": (DPMSolverMultistepScheduler(variance_type="learned_range"), BETWEEN),
}


def compare_with_plain_loop(model, image, scheduler, times, start_below=False):
    samples = ForwardBackwardPipeline(model, scheduler)(
        image,
        times,
        num_inference_steps=20,
        generator=generators(1),
        batch_size=1,  # rows alone, as in the plain loop: batched convolutions round differently
        start_below=start_below,
    ).samples
    assert samples.shape == (len(times), 1, 1, 8, 8)
    assert samples.dtype == torch.float32
    assert torch.equal(samples[0], image)  # t = 0
    for k, t in enumerate(times[1:], 1):
        with torch.no_grad():
            expected = plain_loop(
                model, scheduler, image, t, 20, stream(0, t, times[:k].count(t)), start_below
            )
        torch.testing.assert_close(samples[k], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_follows_a_plain_loop_with_the_same_noise(unet, images, case):
    compare_with_plain_loop(unet, images[:1], *CASES[case])


@pytest.mark.parametrize("case", LEARNED_CASES)
def test_learned_variance_follows_a_plain_loop(variance_unet, images, case):
    compare_with_plain_loop(variance_unet, images[:1], *LEARNED_CASES[case])


@pytest.mark.parametrize("case", ["ddpm", "ddim", "dpm-sde", "unipc"])
def test_start_below_follows_a_plain_loop_from_the_next_step(unet, images, case):
    scheduler, _ = CASES[case]  # at any time, since the first step is a respaced one
    compare_with_plain_loop(unet, images[:1], scheduler, [0, 94, 100, 333, 1000], True)


def test_full_resolution_takes_every_step(unet, images):
    scheduler = DDPMScheduler(num_train_timesteps=30)
    seen = []
    hook = unet.register_forward_pre_hook(lambda module, inputs: seen.append(int(inputs[1])))
    ForwardBackwardPipeline(unet, scheduler)(images, [7, 12], num_inference_steps=30)
    hook.remove()
    assert seen == list(range(12, -1, -1))


def test_start_below_reads_as_the_published_code(unet, images):
    """Step k of a respaced process: noise at its index k, denoising from its index k - 1."""
    scheduler = DDPMScheduler(timestep_spacing="linspace")
    scheduler.set_timesteps(20)
    respaced = scheduler.timesteps.tolist()[::-1]
    seen = []
    hook = unet.register_forward_pre_hook(
        lambda module, inputs: seen.append((int(inputs[1]), inputs[0].clone()))
    )
    ForwardBackwardPipeline(unet, scheduler)(
        images[:1], [respaced[7]], 20, generators(1), start_below=True
    )
    hook.remove()
    assert [t for t, _ in seen] == respaced[6::-1]
    noise = torch.randn(images[:1].shape, generator=stream(0, respaced[7], 0))
    alpha = scheduler.alphas_cumprod[respaced[7]]
    noised = alpha.sqrt() * images[0] + (1 - alpha).sqrt() * noise[0]
    torch.testing.assert_close(seen[0][1][0], noised)


def test_learned_variance_is_between_the_two_fixed_ones(variance_unet, images):
    """Ancestral steps written out; log variance from log beta~ (at -1) to log beta (at 1)."""
    scheduler = DDPMScheduler(variance_type="learned_range", clip_sample=False)
    scheduler.set_timesteps(10)
    path = [333, *(g for g in scheduler.timesteps.tolist() if g < 333)]
    samples = ForwardBackwardPipeline(variance_unet, scheduler)(
        images[:1], [333], 10, generators(1), batch_size=1
    ).samples
    abar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    abar = [abar[t] for t in path] + [torch.ones((), dtype=torch.float64)]
    generator = stream(0, 333, 0)
    noise = torch.randn(1, 1, 8, 8, generator=generator)
    x = abar[0].sqrt() * images[:1] + (1 - abar[0]).sqrt() * noise
    for k, t in enumerate(path):
        with torch.no_grad():
            epsilon, share = variance_unet(x.float(), torch.tensor(t)).sample.double().chunk(2, 1)
        alpha = abar[k] / abar[k + 1]
        x = (x - (1 - alpha) / (1 - abar[k]).sqrt() * epsilon) / alpha.sqrt()
        if t > 0:
            small = (1 - alpha) * (1 - abar[k + 1]) / (1 - abar[k])
            share = (share + 1) / 2
            log_variance = share * (1 - alpha).log() + (1 - share) * small.log()
            x = x + (log_variance / 2).exp() * torch.randn(1, 1, 8, 8, generator=generator)
    torch.testing.assert_close(samples[0], x.float(), rtol=1e-4, atol=1e-4)


def test_multistep_solver_is_of_higher_order_from_midway():
    """The exact probability flow of N(0, std^2) scales x_t: an answer that no solver knows."""
    std, t, x0 = 0.5, 600, torch.randn(4, 6, generator=torch.Generator().manual_seed(5))
    errors = {}
    for kind in (DDIMScheduler, DPMSolverMultistepScheduler):
        options = {"clip_sample": False} if kind is DDIMScheduler else {}
        scheduler = kind(**options)
        pipeline = ForwardBackwardPipeline(GaussianDenoiser(std, scheduler), scheduler)
        samples = pipeline(x0, [t], 200, generators(4)).samples[0]
        noise = [torch.randn(1, 6, generator=stream(i, t, 0)) for i in range(4)]
        alpha = scheduler.alphas_cumprod[t]
        x_t = alpha.sqrt() * x0 + (1 - alpha).sqrt() * torch.cat(noise)
        exact = x_t * std / (alpha * std**2 + 1 - alpha).sqrt()
        errors[kind] = (samples - exact).norm() / exact.norm()
    assert errors[DDIMScheduler] < 0.03
    assert errors[DPMSolverMultistepScheduler] < errors[DDIMScheduler] / 20


@pytest.mark.parametrize(
    "scheduler",
    [
        DPMSolverMultistepScheduler(solver_order=3, algorithm_type="sde-dpmsolver++"),
        UniPCMultistepScheduler(),
        DDPMScheduler(variance_type="learned_range"),
    ],
)
def test_state_of_a_scheduler_does_not_mix_rows(variance_unet, images, scheduler):
    scheduler.set_timesteps(12)
    low, high = scheduler.timesteps[[8, 3]].tolist()
    call = {"num_inference_steps": 12, "batch_size": 3}
    pipeline = ForwardBackwardPipeline(variance_unet, scheduler)
    together = pipeline(images, [low, 1000, high, low], generator=generators(), **call).samples
    for i in range(5):
        for times, kept in ([high], [2]), ([1000, low], [1, 0]):
            own = [generators()[i]]
            alone = pipeline(images[i : i + 1], times, generator=own, **call).samples
            assert torch.equal(alone[:, 0], together[kept, i])


def test_same_bits_however_images_and_times_are_split(unet, images):
    pipeline = ForwardBackwardPipeline(unet, DDPMScheduler())
    together = pipeline(images, TIMES, num_inference_steps=12, generator=generators()).samples
    for i in range(5):
        alone = pipeline(
            images[i : i + 1], TIMES, num_inference_steps=12, generator=[generators()[i]]
        ).samples
        assert torch.equal(alone[:, 0], together[:, i])
    few = pipeline(images, [1000, 333], num_inference_steps=12, generator=generators()).samples
    assert torch.equal(few[0], together[4])
    assert torch.equal(few[1], together[2])
    assert not torch.equal(together[2], together[5])  # a repeated time is another draw
    single = torch.Generator().manual_seed(3)
    whole = pipeline(images, [640], num_inference_steps=12, generator=single).samples
    single.manual_seed(3)
    parts = [
        pipeline(part, [640], num_inference_steps=12, generator=single).samples
        for part in images.split(2)
    ]
    assert torch.equal(torch.cat(parts, dim=1), whole)
    rounded = pipeline(
        images, TIMES, num_inference_steps=12, generator=generators(), batch_size=3
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


def test_x0_is_left_alone_and_fresh_noise_differs(unet, images):
    pipeline = ForwardBackwardPipeline(unet, DDPMScheduler())
    before = images.clone()
    first = pipeline(images, [500], num_inference_steps=5).samples
    second = pipeline(images, [500], num_inference_steps=5).samples
    assert torch.equal(images, before)
    assert not torch.equal(first, second)


def test_autocast_is_for_the_model_only(unet, images):
    seen = []

    class Step(DDPMScheduler):
        def step(self, predicted, t, sample, **options):
            seen.append((predicted.dtype, sample.dtype))
            return super().step(predicted, t, sample, **options)

    pipeline = ForwardBackwardPipeline(unet, Step())
    call = {"timesteps": [30], "num_inference_steps": 20}
    exact = pipeline(images, generator=generators(), **call).samples
    hook = unet.conv_in.register_forward_hook(lambda module, x, y: seen.append((y.dtype,) * 2))
    halved = pipeline(images, generator=generators(), autocast_dtype=torch.bfloat16, **call).samples
    hook.remove()
    assert set(seen) == {(torch.float32,) * 2, (torch.bfloat16,) * 2}
    assert halved.dtype == torch.float32
    assert not torch.equal(halved, exact)
    torch.testing.assert_close(halved, exact, rtol=0, atol=0.1)


def test_no_progress_bar_in_a_file(unet, images, capfd):
    ForwardBackwardPipeline(unet, DDPMScheduler())(images, [500], num_inference_steps=3)
    assert capfd.readouterr() == ("", "")


FRESH = """
import sys, torch
from hierphase.diffusion.forward_backward import ForwardBackwardPipeline
pipeline = ForwardBackwardPipeline.from_pretrained(sys.argv[1])
call = torch.load(sys.argv[1] + "/call.pt", weights_only=True)
generators = [torch.Generator().manual_seed(100 + i) for i in range(5)]
torch.save(pipeline(generator=generators, **call).samples, sys.argv[1] + "/samples.pt")
"""


def test_saved_pipeline_gives_the_same_samples_in_a_fresh_process(unet, images, tmp_path):
    pipeline = ForwardBackwardPipeline(unet, DPMSolverMultistepScheduler(beta_end=0.03))
    pipeline.save_pretrained(tmp_path)
    assert list(tmp_path.rglob("*.safetensors"))
    call = {"x0": images, "num_inference_steps": 8, "timesteps": [300, 700]}
    torch.save(call, tmp_path / "call.pt")
    subprocess.run([sys.executable, "-c", FRESH, str(tmp_path)], check=True)
    expected = pipeline(generator=generators(), **call).samples
    assert torch.equal(torch.load(tmp_path / "samples.pt", weights_only=True), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"timesteps": []}, "non-empty list"),
        ({"timesteps": [[1, 2]]}, "non-empty list"),
        ({"timesteps": [100, 1001]}, "1000 .pure noise., got 1001"),
        ({"timesteps": [-1]}, "got -1"),
        ({"timesteps": [10.5]}, "got 10.5"),
        ({"timesteps": [float("nan")]}, "got nan"),
        ({"num_inference_steps": 0}, "num_inference_steps must be at least 1, got 0"),
        ({"num_inference_steps": 1001}, "at most the 1000 steps of the scheduler, got 1001"),
        ({"num_inference_steps": 10.0}, "num_inference_steps must be an integer, got 10.0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"autocast_dtype": torch.float32}, "torch.float16 or None, got torch.float32"),
        ({"generator": [torch.Generator()] * 4}, "a list of 5, one a sample; got 4"),
        ({"x0": torch.zeros(5, 1, 8, 8, dtype=torch.float64)}, "float32 tensor, got torch.float64"),
        ({"x0": np.zeros((5, 1, 8, 8))}, "float32 tensor, got float64"),
        ({"x0": torch.zeros(5)}, r"shape \(n, ...\) with n >= 1, got \(5,\)"),
        ({"x0": torch.full((5, 1, 8, 8), float("inf"))}, "finite, got inf"),
    ],
)
def test_bad_arguments_are_named(unet, images, arguments, message):
    pipeline = ForwardBackwardPipeline(unet, DDPMScheduler())
    call = {"x0": images, "timesteps": [100], "num_inference_steps": 5} | arguments
    with pytest.raises(ValueError, match=message):
        pipeline(**call)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (EulerDiscreteScheduler, "EulerDiscreteScheduler rescales x_t .* instead of 1.; use DDPM"),
        (HeunDiscreteScheduler, "HeunDiscreteScheduler rescales x_t"),
        (LMSDiscreteScheduler, "LMSDiscreteScheduler rescales x_t"),
        (FlowMatchEulerDiscreteScheduler, "is not for the variance-preserving .*; use DDPM"),
        (dict, "scheduler dict is not for the variance-preserving process"),
    ],
)
def test_schedulers_of_other_processes_are_refused(unet, kind, message):
    with pytest.raises(ValueError, match=message):
        ForwardBackwardPipeline(unet, kind())


@pytest.mark.parametrize(
    ("scheduler", "options", "message"),
    [
        (DDIMScheduler(), {}, "time 333 is not among the 25 steps of DDIMScheduler"),
        (UniPCMultistepScheduler(), {}, "time 333 is not among the 25 steps of UniPC"),
        (PNDMScheduler(), {}, "PNDMScheduler takes step .* but steps must fall"),
        (DDIMInverseScheduler(), {}, "DDIMInverse.* must fall|not for the variance-preserving"),
        (
            DPMSolverMultistepScheduler(use_karras_sigmas=True),
            {},
            "noise levels of DPMSolverMultistepScheduler are not those of its alphas_cumprod",
        ),
        (
            DDPMScheduler(timestep_spacing="trailing"),
            {"timesteps": [39], "start_below": True},
            "no respaced step is below t = 39; the smallest is 39",
        ),
        (DDPMScheduler(variance_type="learned"), {}, r"returned shape \(5, 1, 8, 8\) .* \(5, 2,"),
    ],
)
def test_steps_that_cannot_be_taken_are_refused(unet, images, scheduler, options, message):
    with pytest.raises(ValueError, match=message):
        ForwardBackwardPipeline(unet, scheduler)(
            images, **{"timesteps": [320, 333], "num_inference_steps": 25} | options
        )
