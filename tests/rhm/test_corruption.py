import math

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

from hierphase.rhm import corruption
from hierphase.rhm.belief_propagation import BeliefPropagation
from hierphase.rhm.corruption import EpsilonProcess, GaussianProcess, MaskingProcess, UniformProcess
from hierphase.rhm.model import RandomHierarchyModel

LEAVES = torch.tensor([[0, 2, 1, 3], [3, 3, 0, 0]])


def test_epsilon_beliefs():
    beliefs = EpsilonProcess(4).beliefs(LEAVES, 0.4)
    assert beliefs.shape == (2, 4, 4) and beliefs.dtype == torch.float32
    torch.testing.assert_close(beliefs[0, 1], torch.tensor([0.1, 0.1, 0.7, 0.1]))
    torch.testing.assert_close(beliefs.sum(-1), torch.ones(2, 4))


def test_gaussian_corruption_has_the_stated_moments():
    scheduler = DDPMScheduler()
    leaves = torch.zeros(20_000, 1, dtype=torch.int64)
    x_t = GaussianProcess(scheduler, v=3).corrupt(leaves, 300, torch.Generator().manual_seed(0))
    abar = scheduler.alphas_cumprod[300].item()
    assert x_t.shape == (20_000, 3, 1) and x_t.dtype == torch.float32
    error = 4 * math.sqrt((1 - abar) / 20_000)
    assert x_t[:, 0].mean().item() == pytest.approx(math.sqrt(abar), abs=error)
    assert x_t[:, 1:].mean().item() == pytest.approx(0, abs=error)
    assert x_t.var(0).mean().item() == pytest.approx(1 - abar, rel=0.02)


def test_gaussian_beliefs_are_the_likelihood():
    """Against the normal density of each one-hot code, computed by torch.distributions."""
    scheduler = DDPMScheduler()
    process = GaussianProcess(scheduler, v=4)
    x_t = process.corrupt(LEAVES, 200, torch.Generator().manual_seed(1))
    abar = scheduler.alphas_cumprod[200].double()
    codes = abar.sqrt() * torch.eye(4, dtype=torch.float64)  # symbol, channel
    density = torch.distributions.Normal(codes, (1 - abar).sqrt())
    log_likelihood = density.log_prob(x_t.mT[:, :, None].double()).sum(-1)
    torch.testing.assert_close(
        process.beliefs(x_t, 200).double(), log_likelihood.softmax(-1), atol=1e-6, rtol=1e-5
    )
    assert process.snr(200).item() == pytest.approx((abar / (1 - abar)).item())


def test_gaussian_times_may_differ_between_samples():
    process = GaussianProcess(DDPMScheduler(), v=4)
    t = torch.tensor([10, 700])

    def generators():
        return [torch.Generator().manual_seed(seed) for seed in range(2)]

    x_t = process.corrupt(LEAVES, t, generators())
    beliefs = process.beliefs(x_t, t)
    for i, generator in enumerate(generators()):
        alone = process.corrupt(LEAVES[i : i + 1], int(t[i]), [generator])
        assert torch.equal(alone, x_t[i : i + 1])
        assert torch.equal(process.beliefs(alone, int(t[i])), beliefs[i : i + 1])


def test_gaussian_symbols_are_counted_when_v_is_not_given():
    process = GaussianProcess(DDPMScheduler())
    x_t = process.corrupt(LEAVES, 0, torch.Generator().manual_seed(0))
    assert x_t.shape == (2, 4, 4)
    assert torch.equal(process.beliefs(x_t, 0).argmax(-1), LEAVES)


def test_gaussian_reference_values():
    """The values of ../shared/science.md for (32,8,2,10), whose t counts the noising steps."""
    scheduler = DDPMScheduler(beta_schedule="linear", beta_start=1e-4, beta_end=0.02)
    process = GaussianProcess(scheduler, 32)
    table = {105: (0.951, 0.979, 0.941), 115: (0.487, 0.805, 0.859), 125: (0.046, 0.410, 0.724)}
    known = {steps: [] for steps in table}
    for seed in range(12):
        rhm = RandomHierarchyModel(32, 8, 2, 10, seed=seed)
        levels = rhm.sample(8, seed=seed)
        for steps in table:
            x_t = process.corrupt(levels[0], steps - 1, torch.Generator().manual_seed(seed))
            beliefs = process.log_beliefs(x_t, steps - 1)
            probability = BeliefPropagation(rhm)(beliefs, log=True).probability_of(levels)
            known[steps].append(probability.mean(0)[[10, 5, 0]])
    for steps, reference in table.items():
        ours = torch.stack(known[steps])
        error = ours.std(0) * math.sqrt(1 / 12 + 1 / 6)  # theirs is a mean over 6 draws
        assert (abs(ours.mean(0) - torch.tensor(reference)) < 3 * error + 1e-3).all(), steps


def test_masking_erases_the_stated_fraction():
    leaves = torch.randint(4, (500, 64), generator=torch.Generator().manual_seed(0))
    process = MaskingProcess(4, T=50)
    x_t = process.corrupt(leaves, 20, torch.Generator().manual_seed(0))
    erased = x_t == 4
    assert erased.float().mean().item() == pytest.approx(0.4, abs=0.012)
    assert torch.equal(x_t[~erased], leaves[~erased])
    assert torch.equal(process.corrupt(leaves, 0), leaves)
    assert (process.corrupt(leaves, 50) == 4).all()


def test_masking_beliefs():
    x_t = torch.tensor([[1, 4]])
    beliefs = MaskingProcess(4).beliefs(x_t, 500)
    assert torch.equal(beliefs, torch.tensor([[[0.0, 1, 0, 0], [1, 1, 1, 1]]]))


def test_masking_evidence_counts_the_data_that_fit():
    """The evidence of masked data is the share of all data that agree with what is seen."""
    rhm = RandomHierarchyModel(v=3, m=2, s=2, L=2, seed=0)
    data = rhm.sample(40_000, seed=1)[0]
    x_t = data[:1].clone()
    x_t[0, [1, 2]] = 3
    share = (data[:, [0, 3]] == x_t[0, [0, 3]]).all(-1).float().mean().item()
    evidence = BeliefPropagation(rhm)(MaskingProcess(3).beliefs(x_t)).log_evidence.exp().item()
    assert evidence == pytest.approx(share, abs=4 * math.sqrt(share / 40_000))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: EpsilonProcess(1), "v must be at least 2, got 1"),
        (
            lambda: EpsilonProcess(4).beliefs(LEAVES, 1.01),
            "epsilon must be between 0 and 1, got 1.01",
        ),
        (lambda: EpsilonProcess(4).beliefs(LEAVES, math.nan), "between 0 and 1, got nan"),
        (lambda: EpsilonProcess(4).beliefs(LEAVES, "0.5"), "a number between 0 and 1, got '0.5'"),
        (lambda: EpsilonProcess(4).beliefs(LEAVES, True), "a number between 0 and 1, got True"),
        (
            lambda: EpsilonProcess(4).beliefs(LEAVES, torch.tensor([0.1, 0.2])),
            r"one number, got an array of shape \(2,\)",
        ),
        (lambda: EpsilonProcess(3).beliefs(LEAVES, 0.5), "symbol 3, outside 0..2"),
        (
            lambda: GaussianProcess(FlowMatchEulerDiscreteScheduler()),
            "must have alphas_cumprod.*Flow",
        ),
        (lambda: GaussianProcess(DDPMScheduler(), 4).corrupt(LEAVES, 1000), "0 to 999, got 1000"),
        (lambda: GaussianProcess(DDPMScheduler(), 4).corrupt(LEAVES, 0.5), "integer, .* got 0.5"),
        (lambda: GaussianProcess(DDPMScheduler(), 4).corrupt(LEAVES, -1), "got -1"),
        (
            lambda: GaussianProcess(DDPMScheduler()).beliefs(torch.full((2, 4, 3), torch.nan), 1),
            "x_t must be finite, got nan",
        ),
        (lambda: GaussianProcess(DDPMScheduler(), 3).corrupt(LEAVES, 1), "symbol 3, outside 0..2"),
        (
            lambda: GaussianProcess(DDPMScheduler(), 4).corrupt(LEAVES, torch.tensor([1, 2, 3])),
            r"t, where .*, must be of shape \(2,\), got \(3,\)",
        ),
        (
            lambda: GaussianProcess(DDPMScheduler(), 4).corrupt(LEAVES, 1, [torch.Generator()]),
            "list of 2, one a sample; got 1",
        ),
        (
            lambda: GaussianProcess(DDPMScheduler(), 4).corrupt(LEAVES, 1, 5),
            "one torch.Generator or a list, got 5",
        ),
        (
            lambda: GaussianProcess(DDPMScheduler(), 4).corrupt(LEAVES, True),
            "integer, 0 to 999, got True",
        ),
        (
            lambda: GaussianProcess(DDPMScheduler(), 4).corrupt(LEAVES, "1"),
            "integer, 0 to 999, got '1'",
        ),
        (lambda: GaussianProcess(DDPMScheduler()).corrupt(LEAVES[:0], 1), r"got \(0, 4\)"),
        (lambda: GaussianProcess(DDPMScheduler()).corrupt(LEAVES - 9, 1), "must not hold symbol -"),
        (
            lambda: GaussianProcess(DDPMScheduler()).beliefs(torch.zeros(2, 4, 4).long(), 1),
            "float32 or float64, got torch.int64",
        ),
        (
            lambda: GaussianProcess(DDPMScheduler(), 4).beliefs(torch.zeros(2, 5, 4), 1),
            r"\(n, 4, d\), got \(2, 5, 4\)",
        ),
        (
            lambda: GaussianProcess(DDPMScheduler()).beliefs(torch.zeros(2, 4), 1),
            r"\(n, v, d\), got",
        ),
        (lambda: MaskingProcess(4, T=0), "T must be at least 1, got 0"),
        (lambda: MaskingProcess(4, T=10).corrupt(LEAVES, 11), "a number, 0 to 10, got 11"),
        (lambda: MaskingProcess(4).corrupt(LEAVES, None), "a number, 0 to 1000, got None"),
        (lambda: MaskingProcess(2).beliefs(LEAVES), "x_t .* symbol 3, outside 0..2"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_noise_is_what_was_added():
    scheduler = DDPMScheduler(beta_schedule="linear")
    process, leaves = GaussianProcess(scheduler, 5), torch.arange(18).view(3, 6) % 5
    times = torch.tensor([0, 300, 999])
    x_t = process.corrupt(leaves, times, torch.Generator().manual_seed(1))
    x_0 = torch.nn.functional.one_hot(leaves, 5).mT.float()
    drawn = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(process.noise(x_t, x_0, times), drawn, rtol=0, atol=1e-4)
    torch.testing.assert_close(scheduler.add_noise(x_0, drawn, times), x_t)


def test_uniform_noise_leaves_the_belief_that_bayes_says():
    process, generator = UniformProcess(v=4, T=10), torch.Generator().manual_seed(0)
    leaves = torch.arange(4).repeat_interleave(20_000)[None]  # equally likely
    seen = process.corrupt(leaves, t=6, generator=generator)
    counts = torch.zeros(4, 4).index_put_((seen[0], leaves[0]), torch.ones(80_000), accumulate=True)
    expected = process.beliefs(torch.arange(4)[None], t=6)[0]
    torch.testing.assert_close(counts / counts.sum(1, keepdim=True), expected, atol=0.015, rtol=0)
    assert expected[0, 0] == pytest.approx(0.4 + 0.6 / 4)


def test_uniform_noise_at_its_ends_and_per_sample():
    process, leaves = UniformProcess(v=5, T=2), torch.tensor([[1, 4, 0], [1, 4, 0]])
    assert (process.corrupt(leaves, 0) == leaves).all()
    beliefs = process.beliefs(leaves, torch.tensor([0, 2]))
    assert (beliefs[0] == torch.nn.functional.one_hot(leaves[0], 5)).all()
    torch.testing.assert_close(beliefs[1], torch.full((3, 5), 0.2))
    with pytest.raises(ValueError, match="x_t must not hold symbol 5"):
        process.beliefs(torch.tensor([[5]]), 1)


@pytest.mark.parametrize("noise", corruption.NOISES)
def test_likelihoods_of_every_noise_are_those_of_its_process(noise):
    leaves, t = RandomHierarchyModel(6, 2, 2, 3).sample(5)[0], 0.3
    ours = corruption.log_likelihood(noise, leaves, 6, t, torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(1)
    if noise == "epsilon":
        beliefs = EpsilonProcess(6).beliefs(leaves, t)
    elif noise == "Gaussian":
        process = GaussianProcess(corruption.ddpm_scheduler(), 6)
        beliefs = process.beliefs(process.corrupt(leaves, 300, generator), 300)
    else:
        process = {"masking": MaskingProcess, "uniform": UniformProcess}[noise](6, T=1)
        beliefs = process.beliefs(process.corrupt(leaves, t, generator), t)
    ours = ours.softmax(-1)
    torch.testing.assert_close(ours.float(), beliefs / beliefs.sum(-1, keepdim=True))


def test_a_finer_schedule_carries_the_same_noise():
    coarse, fine = (GaussianProcess(corruption.ddpm_scheduler(T), 4) for T in (1000, 20_000))
    ratio = fine.snr(6000) / coarse.snr(300)
    assert ratio.item() == pytest.approx(1, rel=0.01)
