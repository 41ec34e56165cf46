"""The quantizers in plain PyTorch, from the published formulas (docs/numerics.md): what one writes without a program of its own.

Weights are [N, M], scales [N, 1]. Fake quantization runs in every forward pass, as usual.
"""

import json
import math

import torch
from torch import nn

SCALE_FLOOR = 1e-5
AMPLITUDE = 0.21
INITIAL_ALPHA = 0.2


def code_range(bits):
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


def round_forward(weight, scale, q_min, q_max):
    step = scale.clamp(min=SCALE_FLOOR)
    return torch.clamp(torch.round(weight / step), q_min, q_max) * step


def round_backward(gradient, weight, scale, q_min, q_max, amplitude):
    """LSQ's gradients; amplitude 0 is straight-through, above it the rotated damped Fourier surrogate of order 0."""
    x = weight / scale.clamp(min=SCALE_FLOOR)
    code = torch.clamp(torch.round(x), q_min, q_max)
    inside = (x >= q_min) & (x <= q_max)
    slope = torch.ones_like(x)
    if amplitude:
        wave = math.sqrt(2) * math.pi * amplitude * torch.cos(math.pi * (x + code))
        slope = (1 - wave) / (1 + wave)
    weight_gradient = torch.where(inside, gradient * slope, 0)
    factor = 1 / math.sqrt(weight.numel() * q_max)
    scale_gradient = (gradient * torch.where(inside, code - x, code)).sum(1, keepdim=True) * factor
    return weight_gradient, scale_gradient


class Round(torch.autograd.Function):
    """`forward_function` and `backward_function` are the two above, plain or compiled."""

    @staticmethod
    def forward(ctx, weight, scale, q_min, q_max, amplitude, forward_function, backward_function):
        ctx.save_for_backward(weight, scale)
        ctx.constants = q_min, q_max, amplitude
        ctx.backward_function = backward_function
        return forward_function(weight, scale, q_min, q_max)

    @staticmethod
    def backward(ctx, gradient):
        weight_gradient, scale_gradient = ctx.backward_function(gradient, *ctx.saved_tensors, *ctx.constants)
        return weight_gradient, scale_gradient, None, None, None, None, None


class ScaleGradient(torch.autograd.Function):
    """Identity whose gradient is multiplied by a factor."""

    @staticmethod
    def forward(ctx, scale, factor):
        ctx.factor = factor
        return scale.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.factor, None


def soft_round(weight, scale, alpha, q_min, q_max):
    """Differentiable soft quantization: a tanh in every interval [k, k + 1), then a sign with a straight-through gradient."""
    factor = 1 / math.sqrt(weight.numel() * q_max)
    step = ScaleGradient.apply(scale, factor).clamp(min=SCALE_FLOOR)
    x = torch.clamp(weight / step, q_min - 0.5, q_max + 0.5)
    interval = torch.floor(x.detach())
    sharpness = torch.log(2 / alpha - 1)
    soft = torch.tanh(sharpness * (x - interval - 0.5)) / (1 - alpha)
    hard = soft + (torch.where(soft > 0, 1.0, -1.0) - soft).detach()
    return torch.clamp(interval + (hard + 1) / 2, q_min, q_max) * step


class QuantizedLinear(nn.Module):
    """A linear layer whose weight is fake-quantized in every forward pass."""

    def __init__(self, linear, method, bits, compiled):
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.method = method
        self.q_min, self.q_max = code_range(bits)
        largest = self.weight.detach().abs().amax(1, keepdim=True)
        self.weight_clip_val = nn.Parameter((largest if bits == 2 else largest / self.q_max).clamp(min=SCALE_FLOOR))
        self.amplitude = AMPLITUDE if method == "stableqat" else 0.0
        if method == "dsq":
            self.alpha_dsq = nn.Parameter(torch.full((1,), INITIAL_ALPHA))
            self.soft = torch.compile(soft_round, dynamic=False) if compiled else soft_round
        self.functions = (round_forward, round_backward)
        if compiled:
            self.functions = tuple(torch.compile(function, dynamic=False) for function in self.functions)

    def forward(self, x):
        if self.method == "dsq":
            weight = self.soft(self.weight, self.weight_clip_val, self.alpha_dsq, self.q_min, self.q_max)
        else:
            weight = Round.apply(self.weight, self.weight_clip_val, self.q_min, self.q_max, self.amplitude, *self.functions)
        return nn.functional.linear(x, weight, self.bias)


def quantize_layers(layers, method, bits, compiled):
    """Replaces every linear layer inside `layers` (a module)."""
    for module in list(layers.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, name, QuantizedLinear(child, method, bits, compiled))


def _draw(seed, rows, columns):
    state, values = seed, []
    for _ in range(rows * columns):
        total = 0.0
        for _ in range(3):
            state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
            total += (state >> 11) / 2**53 * 2 - 1
        values.append(total / 3)
    return torch.tensor(values, dtype=torch.float64).view(rows, columns)


def check(golden_file):
    """Compares outputs and gradients with golden numbers in float64; returns the number of cases. The order is that of tests/golden."""
    with open(golden_file, encoding="utf-8") as file:
        cases = json.load(file)
    compared = 0
    for case in cases:
        method, bits = case["method"], case["bits"]
        if method not in ("ste", "stableqat", "dsq") or bits < 2 or case["order"] != 0:
            continue
        rows, columns = case["rows"], case["cols"]
        weight = (_draw(case["seed"], rows, columns) * 0.1).requires_grad_()
        scale = torch.tensor(case["scale"], dtype=torch.float64).view(rows, 1).requires_grad_()
        q_min, q_max = code_range(bits)
        if method == "dsq":
            output = soft_round(weight, scale, torch.tensor([case.get("alpha", INITIAL_ALPHA)], dtype=torch.float64), q_min, q_max)
        else:
            amplitude = AMPLITUDE if method == "stableqat" else 0.0
            output = Round.apply(weight, scale, q_min, q_max, amplitude, round_forward, round_backward)
        output.backward(_draw(case["seed"] + 1, rows, columns))
        for key, found in (("output", output.detach()), ("grad_weight", weight.grad), ("grad_scale", scale.grad)):
            expected = torch.tensor(case[key], dtype=torch.float64).view(found.shape)
            deviation = (found - expected).abs().max().item()
            if not deviation <= 1024 * torch.finfo(torch.float64).eps * expected.abs().max().item():
                raise SystemExit(f"{golden_file}: {method}, {bits} bits, {key}: deviation {deviation}")
        compared += 1
    return compared
