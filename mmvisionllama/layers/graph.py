"""Parameters that stay in autograd's graph whether or not anything depends on them."""

import torch
from torch import Tensor, nn

from . import kernels


class _KeepInGraph(torch.autograd.Function):
    """The first input; the others get gradients of zero."""

    @staticmethod
    def forward(ctx, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(*parameters)
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad: Tensor):
        return grad, *(torch.zeros_like(parameter) for parameter in ctx.saved_tensors)


def keep_in_graph(x: Tensor, module: nn.Module) -> Tensor:
    """``x`` as it is, tied to the parameters of a module whose output may go unused.

    A stage's norm stands beside the trunk, on an output that many necks and heads leave out. Its parameters then have
    no gradient, and ``DistributedDataParallel``, which waits for the gradient of every parameter, stops at the second
    iteration. Tied to the trunk they have one, of zero, that is added to whatever else they get: nothing is learned
    about who reads the outputs, so it holds for a model whose losses come and go, and no value changes.

    Args:
        x: A tensor that the loss depends on.
        module: The module whose parameters are tied to it.
    """
    if not torch.is_grad_enabled() or kernels.transformed() or torch.jit.is_tracing():
        return x  # no training step
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not parameters:
        return x
    if torch.compiler.is_compiling():  # torch 2.5's cannot take the function; the sum of nothing is 0 and gets fused
        return x + sum(parameter[:0].sum() for parameter in parameters)
    return _KeepInGraph.apply(x, *parameters)
