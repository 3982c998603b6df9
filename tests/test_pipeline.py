import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, UNet2DModel

from hierphase.bp import BeliefPropagation
from hierphase.denoisers import BayesDenoiser
from hierphase.pipeline import ForwardBackwardPipeline
from hierphase.rhm import RandomHierarchyModel

TIMES = [0, 100, 333, 640, 1000, 333]  # 100 and 333 lie between the steps of 25


class PointMassDenoiser:
    """Exact noise prediction for data that is a single point: every reversal ends there."""

    def __init__(self, point, scheduler):
        self.point, self.scheduler = point, scheduler

    def __call__(self, x_t, t):
        alpha = self.scheduler.alphas_cumprod[t]
        noise = (x_t - alpha.sqrt() * self.point) / (1 - alpha).sqrt()
        return type("Output", (), {"sample": noise})


@pytest.fixture(scope="module")
def unet():
    model = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
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
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


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


def plain_loop(model, scheduler, x0, t, steps, generator):
    """One image, one time, one step after the other, as the convention says."""
    noise = torch.randn(x0.shape, generator=generator)
    scheduler.set_timesteps(steps)
    grid = [int(g) for g in scheduler.timesteps]
    if t == 1000:
        x, path = noise, grid
    else:
        alpha = scheduler.alphas_cumprod[t]
        x = alpha.sqrt() * x0 + (1 - alpha).sqrt() * noise
        path = [t, *(g for g in grid if g < t)]
    if isinstance(scheduler, DDPMScheduler):
        scheduler.set_timesteps(timesteps=path)
    for step in path:
        predicted = model(x, torch.tensor(step)).sample
        x = scheduler.step(predicted, step, x, generator=generator).prev_sample
    return x


@pytest.mark.parametrize(
    ("scheduler", "times"),
    [
        (DDPMScheduler(timestep_spacing="linspace"), TIMES),
        (DDPMScheduler(timestep_spacing="leading"), TIMES),
        (DDIMScheduler(), [0, 120, 320, 640, 1000, 320]),
        (DDIMScheduler(prediction_type="v_prediction"), [960, 40]),
    ],
)
def test_follows_a_plain_loop_with_the_same_noise(unet, images, scheduler, times):
    pipeline = ForwardBackwardPipeline(unet, scheduler)
    images = images[:2]
    samples = pipeline(
        images, times, num_inference_steps=25, generator=generators(2), batch_size=1
    ).samples  # rows alone, as in the plain loop: batched convolutions round differently
    assert samples.shape == (len(times), 2, 1, 8, 8)
    assert samples.dtype == torch.float32
    for k, t in enumerate(times):
        if t == 0:
            assert torch.equal(samples[k], images)
            continue
        for i in range(2):
            generator = stream(i, t, times[:k].count(t))
            with torch.no_grad():
                expected = plain_loop(unet, scheduler, images[i : i + 1], t, 25, generator)
            torch.testing.assert_close(samples[k, i], expected[0], rtol=0, atol=1e-5)


def test_full_resolution_takes_every_step(unet, images):
    scheduler = DDPMScheduler(num_train_timesteps=30)
    seen = []
    hook = unet.register_forward_pre_hook(lambda module, inputs: seen.append(int(inputs[1])))
    ForwardBackwardPipeline(unet, scheduler)(images, [7, 12], num_inference_steps=30)
    hook.remove()
    assert seen == list(range(12, -1, -1))


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


def test_saved_and_loaded_pipeline_gives_the_same_samples(unet, images, tmp_path):
    pipeline = ForwardBackwardPipeline(unet, DDPMScheduler(beta_end=0.03))
    pipeline.save_pretrained(tmp_path)
    loaded = ForwardBackwardPipeline.from_pretrained(tmp_path)
    call = {"num_inference_steps": 8, "timesteps": [300, 700]}
    expected = pipeline(images, generator=generators(), **call).samples
    assert torch.equal(loaded(images, generator=generators(), **call).samples, expected)


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
        ({"generator": [torch.Generator()] * 4}, "got 4 generators for 5 images"),
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


def test_schedulers_that_cannot_start_there_are_refused(unet, images):
    with pytest.raises(ValueError, match="DPMSolverMultistepScheduler cannot start midway"):
        ForwardBackwardPipeline(unet, DPMSolverMultistepScheduler())
    pipeline = ForwardBackwardPipeline(unet, DDIMScheduler())
    with pytest.raises(ValueError, match=r"\[333\] are not among the 25 steps of DDIMScheduler"):
        pipeline(images, [320, 333], num_inference_steps=25)
