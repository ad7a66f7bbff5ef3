"""8-bit weights: rounding by hand, packing, and training through it."""

import torch
from torch import nn

from policy.model.moe import MoE
from policy.model.quantize import (
    QuantLinear,
    block_scales,
    fake_quantize,
    pack,
    quantizable,
    set_quantized,
    unpack,
)


def test_packed_gives_back_what_training_saw():
    torch.manual_seed(0)
    for shape in ((8, 64), (3, 128, 192)):
        weight = torch.randn(shape) * torch.rand(shape[:-1]).unsqueeze(-1)
        packed = pack(weight)
        assert packed.codes.dtype == torch.uint8
        assert packed.codes.shape == weight.shape
        assert packed.scales.shape == (*shape[:-1], shape[-1] // 64)
        # Not equal to the last bit only because training adds a difference to the weight.
        torch.testing.assert_close(unpack(packed), fake_quantize(weight), rtol=0, atol=1e-6)


def test_codes_by_hand():
    weight = torch.zeros(1, 64)
    weight[0, :4] = torch.tensor([1.27, -1.27, 0.014, -0.006])
    packed = pack(weight)
    assert packed.codes[0, :5].tolist() == [255, 1, 129, 127, 128]
    torch.testing.assert_close(packed.scales, torch.tensor([[0.01]]))


def test_blocks_have_their_own_scale_and_zeros_stay_zero():
    weight = torch.cat([torch.full((1, 64), 100.0), torch.full((1, 64), 0.001)], dim=1)
    torch.testing.assert_close(fake_quantize(weight), weight)
    assert not fake_quantize(torch.zeros(2, 64)).any()
    assert block_scales(torch.zeros(2, 64)).tolist() == [[1.0], [1.0]]


def test_error_is_at_most_half_a_code():
    torch.manual_seed(1)
    weight = torch.randn(16, 128)
    error = (fake_quantize(weight) - weight).abs().unflatten(-1, (-1, 64)).amax(-1)
    assert (error <= block_scales(weight) * 0.5001).all()


def test_packing_again_changes_nothing():
    torch.manual_seed(2)
    packed = pack(torch.randn(4, 64))
    again = pack(unpack(packed))
    assert torch.equal(packed.codes, again.codes)


def test_gradient_passes_straight_through():
    weight = torch.randn(2, 64, requires_grad=True)
    fake_quantize(weight).mul(3).sum().backward()
    torch.testing.assert_close(weight.grad, torch.full((2, 64), 3.0))


def test_set_quantized_reaches_dense_layers_and_experts_but_not_the_router():
    model = nn.ModuleList([QuantLinear(64, 64), MoE(64, 64), nn.Linear(64, 4)])

    def run(x):
        mixed, _ = model[1](model[0](x))
        return model[2](mixed)

    names = [name for name, _ in quantizable(model)]
    assert names == ["0", "1", "1.shared.up", "1.shared.down"]
    x = torch.randn(1, 5, 64)
    exact = run(x)
    set_quantized(model, True)
    rounded = run(x)
    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(exact, rounded, atol=0.05, rtol=0.05)
    set_quantized(model, False)
    assert torch.equal(run(x), exact)
