"""The mixture of experts against a dense reference, and how its load is balanced."""

import pytest
import torch
import torch.nn.functional as F

from policy.model.moe import MoE, mixtures
from policy.model.quantize import set_quantized


def mixture(**options: int) -> MoE:
    torch.manual_seed(0)
    return MoE(64, 128, **options)


def dense_reference(moe: MoE, x: torch.Tensor) -> torch.Tensor:
    """The same, token by token and expert by expert."""
    outputs = []
    for token in x.flatten(0, 1):
        scores = torch.sigmoid(moe.router.weight @ token)
        best = (scores + moe.selection_bias).argsort(descending=True)[: moe.top_k]
        total = scores[best].sum()
        output = moe.shared(token)
        for expert in best:
            hidden = moe.up[expert] @ token
            output = output + scores[expert] / total * (
                moe.down[expert] @ (F.silu(hidden[0::2]) * hidden[1::2])
            )
        outputs.append(output)
    return torch.stack(outputs).view_as(x)


def test_agrees_with_the_dense_reference():
    moe = mixture()
    moe.selection_bias.copy_(torch.linspace(-0.2, 0.2, 8))
    x = torch.randn(2, 9, 64)
    torch.testing.assert_close(moe(x)[0], dense_reference(moe, x), rtol=1e-4, atol=1e-5)


def test_gradients_agree_with_the_dense_reference():
    moe = mixture()
    x = torch.randn(1, 6, 64)
    moe(x)[0].square().sum().backward()
    found = {name: p.grad.clone() for name, p in moe.named_parameters()}
    moe.zero_grad()
    dense_reference(moe, x).square().sum().backward()
    for name, parameter in moe.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("quantized", [False, True])
def test_exported_form_agrees(monkeypatch, quantized):
    moe = mixture()
    set_quantized(moe, quantized)
    x = torch.randn(2, 5, 64)
    expected, _ = moe(x)
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    torch.testing.assert_close(moe(x)[0], expected, rtol=1e-4, atol=1e-5)


def test_export_hook_gets_log_weights(monkeypatch):
    moe = mixture()
    seen = {}

    def hook(owner, x, log_weights):
        seen["weights"] = torch.softmax(log_weights, -1)
        return torch.zeros_like(x)

    moe.export_experts = hook
    x = torch.randn(1, 4, 64)
    chosen, weights = moe.route(x[0])
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    torch.testing.assert_close(moe(x)[0], moe.shared(x))
    torch.testing.assert_close(seen["weights"].gather(1, chosen), weights)
    assert torch.equal(moe(x)[1][0], chosen), "the choice is told"
    torch.testing.assert_close(seen["weights"].sum(1), torch.ones(4))
    assert ((seen["weights"] > 1e-6).sum(1) == 2).all()


def test_counts_choices_in_training_only():
    moe = mixture().train()
    moe(torch.randn(2, 10, 64))
    assert moe.expert_use.sum() == 2 * 10 * 2
    moe.eval()(torch.randn(2, 10, 64))
    assert moe.expert_use.sum() == 40


def test_bias_brings_even_use_without_changing_weights():
    moe = mixture().train()
    with torch.no_grad():
        moe.router.weight[0] += 0.3  # favours one expert for most tokens
    tokens = torch.randn(1, 512, 64) + 0.2

    def use() -> torch.Tensor:
        moe.expert_use.zero_()
        moe(tokens)
        return moe.expert_use.clone()

    before = use()
    for _ in range(300):
        moe.rebalance(use(), rate=0.005)
    after = use()
    assert before.max() / before.mean() > 2
    assert after.max() / after.mean() < 1.3
    _, weights = moe.route(tokens[0])
    torch.testing.assert_close(weights.sum(1), torch.ones(512))


def test_an_idle_expert_is_no_error():
    moe = mixture()
    moe.selection_bias[3] = -10
    chosen, _ = moe.route(torch.randn(50, 64))
    assert not (chosen == 3).any()
    assert moe(torch.randn(1, 50, 64))[0].isfinite().all()


def test_mixtures_finds_all():
    assert len(mixtures(torch.nn.Sequential(mixture(), torch.nn.Linear(2, 2), mixture()))) == 2
