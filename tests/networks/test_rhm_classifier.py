import pytest
import torch
from torch import nn

from hierphase.analysis.representations import activations
from hierphase.networks.rhm_classifier import LeafTransformer, PatchConvolution, TreeClassifier
from hierphase.rhm.dataset import TreeData, encode
from hierphase.rhm.model import RandomHierarchyModel


@pytest.mark.parametrize("s", [2, 3])
def test_patch_convolution_is_a_strided_convolution(s):
    ours, theirs = PatchConvolution(4, 5, s), nn.Conv1d(4, 5, s, stride=s)
    with torch.no_grad():
        theirs.weight.copy_(ours.weight.unflatten(1, (s, 4)).mT)
        theirs.bias.copy_(ours.bias)
    x = torch.randn(3, 4, 6 * s)
    torch.testing.assert_close(ours(x), theirs(x))


def test_a_unit_of_layer_l_sees_the_leaves_below_its_node_and_no_others():
    model = TreeClassifier(v=3, s=2, L=3, n_classes=4, width=8)
    x = torch.randn(1, 3, 8)
    changed = x.clone()
    changed[..., 5] += 1
    names = [f"layers.{i}.relu" for i in range(3)]
    before, after = activations(model, x, names), activations(model, changed, names)
    for level, name in enumerate(names, 1):
        moved = (before[name] != after[name]).any(1)[0]
        assert moved.shape == (2 ** (3 - level),)
        assert moved.nonzero().flatten().tolist() == [5 // 2**level]


def test_classifier_round_trip_and_refusals(tmp_path):
    model = TreeClassifier(v=3, s=2, L=2, n_classes=4, width=8)
    model.save_pretrained(tmp_path)
    again = TreeClassifier.from_pretrained(tmp_path)
    x = torch.randn(5, 3, 4)
    assert torch.equal(model(x), again(x)) and model(x).shape == (5, 4)
    with pytest.raises(ValueError, match=r"x must be of shape \(n, 3, 4\), got \(5, 3, 8\)"):
        model(torch.zeros(5, 3, 8))


def test_strides_give_a_network_another_shape(tmp_path):
    model = TreeClassifier(v=3, s=2, L=4, n_classes=4, width=8, strides=[4, 1, 4])
    x = torch.randn(5, 3, 16)
    seen = activations(model, x, model.probed)
    sizes = [seen[f"layers.{i}.relu"].shape[2] for i in range(3)]
    assert sizes == [4, 4, 1] and len(model.probed) == 7
    perceptron = TreeClassifier(v=3, s=2, L=2, n_classes=4, width=8, strides=[4, 1])
    hidden = x[:, :, :4].mT.flatten(1)  # position by position, all symbols of each
    for layer in perceptron.layers:
        hidden = nn.functional.linear(hidden, layer.convolution.weight, layer.convolution.bias)
        hidden = nn.functional.layer_norm(hidden.relu(), (8,))
    torch.testing.assert_close(perceptron.logits(hidden), perceptron(x[:, :, :4]))
    perceptron.save_pretrained(tmp_path)
    again = TreeClassifier.from_pretrained(tmp_path)
    assert torch.equal(again(x[:, :, :4]), perceptron(x[:, :, :4]))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):  # 4 positions are left
        TreeClassifier(s=2, L=4, strides=[2, 2])(torch.zeros(5, 16, 16))


def test_a_transformer_knows_leaves_by_their_learned_positions_alone(tmp_path):
    model = LeafTransformer(v=3, s=2, L=3, n_classes=4, width=8, n_blocks=2)
    x, order = torch.randn(5, 3, 8), torch.randperm(8)
    logits = model(x)
    model.save_pretrained(tmp_path)
    assert torch.equal(LeafTransformer.from_pretrained(tmp_path)(x), logits)
    assert activations(model, x, model.probed)["layers.1"].shape == (5, 8, 8)
    assert not torch.allclose(model(x[:, :, order]), logits, atol=1e-3)
    with torch.no_grad():
        model.positions.weight.copy_(model.positions.weight[:, order])
    torch.testing.assert_close(model(x[:, :, order]), logits)
    with pytest.raises(ValueError, match=r"x must be of shape \(n, 3, 8\), got \(5, 3, 4\)"):
        model(x[:, :, :4])


def test_training_sets_are_nested_and_fresh_data_never_repeat():
    rhm = RandomHierarchyModel(6, 3, 2, 3)
    leaves = rhm.sample(40, seed=0)[0]
    generator = torch.Generator().manual_seed(0)
    x, labels = TreeData(rhm, P=40).batch(100, generator)
    assert x.shape == (40, 6, 8) and x.sum(1).eq(1).all()
    assert sorted(x.argmax(1).tolist()) == sorted(leaves.tolist())
    assert torch.equal(rhm.parse(x.argmax(1))[-1][:, 0], labels)
    few, _ = TreeData(rhm, P=10).batch(10, generator)
    assert sorted(few.argmax(1).tolist()) == sorted(leaves[:10].tolist())
    fresh = [TreeData(rhm).batch(50, generator)[0].argmax(1) for _ in range(2)]
    assert not torch.equal(*fresh)
    assert (rhm.parse(fresh[0])[-1] >= 0).all()
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        TreeData(rhm, P=0).batch(1, generator)


def test_shuffled_leaves_keep_every_position_and_nothing_else():
    rhm = RandomHierarchyModel(6, 3, 2, 3)
    plain, shuffled = (TreeData(rhm, shuffled=flag).sample(3000, 5) for flag in (False, True))
    assert torch.equal(plain[0].sort(0).values, shuffled[0].sort(0).values)
    assert all(torch.equal(a, b) for a, b in zip(plain[1:], shuffled[1:], strict=True))
    pairs = encode(shuffled[0], 6)
    joint = torch.einsum("nai,nbj->ijab", pairs, pairs) / 3000
    shares = pairs.mean(0)
    independent = torch.einsum("ai,bj->ijab", shares, shares)
    off = (joint - independent)[~torch.eye(8, dtype=bool)]
    assert off.abs().max() < 6 * (1 / 36 / 3000) ** 0.5
    first, second = rhm.rules[0].flatten(0, 1).T
    valid = (shares[first, ::2] * shares[second, 1::2]).sum(0).mean()  # of independent leaves
    parsed = (rhm.parse(shuffled[0])[1] >= 0).float().mean()
    assert parsed.item() == pytest.approx(valid.item(), abs=0.02) and parsed < 0.8
