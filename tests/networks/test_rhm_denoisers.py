import pytest
import torch

from hierphase.networks.rhm_denoisers import TreeTransformer, TreeUNet
from hierphase.rhm.bayes_denoiser import BayesDenoiser
from hierphase.rhm.belief_propagation import BeliefPropagation
from hierphase.rhm.corruption import GaussianProcess, ddpm_scheduler
from hierphase.rhm.model import RandomHierarchyModel

SIZES = {TreeUNet: {"width": 8, "n_hidden": 12}, TreeTransformer: {"width": 8, "n_heads": 2}}
TIMES = torch.tensor([0, 70, 150, 400, 999])


def network(kind, **sizes):
    return kind(v=4, s=2, L=3, **SIZES[kind] | sizes)


def noisy():
    rhm = RandomHierarchyModel(4, 2, 2, 3)
    return GaussianProcess(ddpm_scheduler(), 4).corrupt(
        rhm.sample(len(TIMES))[0], TIMES, torch.Generator().manual_seed(0)
    )


@pytest.mark.parametrize("kind", SIZES)
def test_predicted_noise_leaves_a_distribution_over_symbols(kind):
    x_t = noisy().double()
    noise = network(kind).double()(x_t, TIMES).sample
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    alpha_bar = alpha_bar[TIMES].view(-1, 1, 1)
    x_0 = (x_t - (1 - alpha_bar).sqrt() * noise) / alpha_bar.sqrt()
    assert x_0.min() > -1e-4 and x_0.shape == (5, 4, 8)  # the scheduler has abar in float32
    torch.testing.assert_close(x_0.sum(1), torch.ones(5, 8).double(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("kind", SIZES)
def test_a_network_that_says_nothing_is_exact_for_independent_leaves(kind):
    free = RandomHierarchyModel(v=4, m=4, s=2, L=1)  # every tuple is a rule
    model = kind(v=4, s=2, L=1, **SIZES[kind])
    for parameter in model.head.parameters():
        torch.nn.init.zeros_(parameter)
    bayes = BayesDenoiser(BeliefPropagation(free), ddpm_scheduler())
    x_t = noisy()[..., :2]
    torch.testing.assert_close(model(x_t, TIMES).sample, bayes(x_t, TIMES).sample)


@pytest.mark.parametrize("kind", SIZES)
def test_scalar_times_round_trip_and_refusals(kind, tmp_path):
    model, x_t = network(kind), noisy()
    model.save_pretrained(tmp_path)
    again = kind.from_pretrained(tmp_path)
    assert torch.equal(model(x_t, TIMES).sample, again(x_t, TIMES).sample)
    alone = torch.cat([model(x[None], t).sample for x, t in zip(x_t, TIMES, strict=True)])
    torch.testing.assert_close(alone, model(x_t, TIMES).sample)
    with pytest.raises(ValueError, match=r"x_t must be of shape \(n, 4, 8\), got \(2, 4, 6\)"):
        model(torch.zeros(2, 4, 6), 3)
    with pytest.raises(ValueError, match=r"t must be integer, 0 to 999, got .*1000"):
        model(x_t, 1000)


def test_merged_positions_see_the_leaves_below_and_every_output_sees_all():
    model, x_t = network(TreeUNet), noisy()[2:3]
    merged = []
    for merge in model.merge:
        merge.register_forward_hook(lambda module, given, result: merged.append(result[0]))
    changed = x_t.clone()
    changed[..., 5] = changed[..., 5].flip(1) + 0.1
    before, after = (model(x, 150).sample for x in (x_t, changed))
    for level in range(1, 4):
        moved = (merged[level - 1] != merged[level + 2]).any(1)
        assert moved.nonzero().flatten().tolist() == [5 // 2**level]
    assert (before != after).any(1).all()


def test_the_transformer_knows_leaves_by_their_positions_only():
    model, x_t = network(TreeTransformer), noisy()
    order = torch.tensor([3, 1, 7, 0, 2, 6, 5, 4])
    before = model(x_t, TIMES).sample
    plain = model(x_t[..., order], TIMES).sample
    with torch.no_grad():
        model.positions.weight.copy_(model.positions.weight[:, order])
    torch.testing.assert_close(model(x_t[..., order], TIMES).sample, before[..., order])
    assert not torch.allclose(plain, before[..., order], atol=1e-5)
