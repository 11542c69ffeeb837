"""Products with four-bit weights that an engine can take away between forward and backward."""

from __future__ import annotations

from typing import Any

from ftadvisor.execution import stack


def free_weights() -> None:
    """Let bitsandbytes keep the parameter itself for backward.

    It keeps a view of the weights that ZeRO-3 has gathered (0.50.2 autograd/_functions.py line
    431), and DeepSpeed, which gives the parameter an empty tensor instead, frees none of them: all
    of the model would be on every GPU by the end of forward. The gradients are the same.
    """
    theirs = stack.bitsandbytes.matmul_4bit
    if getattr(theirs, "keeps_parameters", False):
        return

    class Product(stack.torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, inputs: Any, weight: Any, bias: Any, state: Any) -> Any:
            ctx.weight, ctx.state = weight, state
            return theirs(inputs, weight, quant_state=state, bias=bias)

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            (gradient,) = gradients
            of_inputs = of_bias = None
            if ctx.needs_input_grad[0]:
                packed = ctx.weight.view(-1, 1)
                weight = stack.bitsandbytes.functional.dequantize_4bit(packed, ctx.state)
                of_inputs = gradient @ weight.to(gradient.dtype)
            if ctx.needs_input_grad[2]:
                of_bias = gradient.flatten(0, -2).sum(0)
            return of_inputs, None, of_bias, None

    def product(inputs: Any, weight: Any, quant_state: Any, bias: Any = None) -> Any:
        return Product.apply(inputs, weight, bias, quant_state)

    product.keeps_parameters = True  # pyright: ignore[reportFunctionMemberAccess]
    stack.bitsandbytes.matmul_4bit = product
