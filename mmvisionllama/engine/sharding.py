"""FSDP2 as a model wrapper of mmengine: every process keeps a part of parameters, gradients and optimizer state."""

import contextlib
import inspect
from collections.abc import Mapping
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Union

import torch
from mmengine.device import get_device
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS, MODEL_WRAPPERS
from torch import Tensor, distributed, nn

from ..checkpoints import sharded
from ..checkpoints.writing import ATOMIC, NOWHERE
from ..errors import CheckpointError, OptionError
from ..layers.options import checked_choice

try:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
    from torch.distributed.tensor import DTensor, distribute_tensor

    if 'src_data_rank' not in inspect.signature(distribute_tensor).parameters:
        fully_shard = None  # before torch 2.7 whole weights would be sent to all processes
except ImportError:
    fully_shard = None

#: Classes of the blocks of our backbones and of DiT
BLOCKS = ('TransformerBlock', 'AdaLNBlock')


#: what a checkpoint of a sharded model is: a file in one piece, or a folder to which every process writes its part
CHECKPOINTS = ('whole', 'parts')

_gathers = True


@contextlib.contextmanager
def in_parts() -> Iterator[None]:
    """Within, ``state_dict`` of sharded models and their optimizers gives sharded tensors."""
    global _gathers
    _gathers = False
    try:
        yield
    finally:
        _gathers = True


def gathered(value: Any) -> Any:
    """A sharded tensor in one piece on the CPU, the same in all processes, which all have to ask for it."""
    return value.full_tensor().cpu() if isinstance(value, DTensor) and _gathers else value


def spread(value: Tensor, like: Tensor) -> Tensor:
    """This process's part of a tensor that all processes have, if ``like`` is sharded and has its shape."""
    if not isinstance(like, DTensor) or isinstance(value, DTensor) or value.shape != like.shape:
        return value
    value = value.to(like.device)
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


def _gather_state(module: nn.Module, state_dict: Dict[str, Any], prefix: str, metadata: Any) -> None:
    for name, value in state_dict.items():
        state_dict[name] = gathered(value)


def _spread_state(module: nn.Module, state_dict: Dict[str, Any], prefix: str, *rest: Any) -> None:
    """Runs after the module's own hooks, such as those that resize."""
    for name, parameter in module._parameters.items():
        if isinstance(state_dict.get(prefix + name), Tensor):
            state_dict[prefix + name] = spread(state_dict[prefix + name], parameter)


def _plain_copy(self: nn.Module, memo: Dict[int, Any]) -> nn.Module:
    """Copy for averaged weights: as sharded, but without FSDP2's machinery, so that it is not to be run."""
    cls = next(base for base in type(self).__mro__[1:] if not issubclass(base, FSDPModule))
    copy = cls.__new__(cls)
    memo[id(self)] = copy
    kept = {key: value for key, value in self.__dict__.items() if not str(key).startswith('__composable')}
    for hooks in (
        '_forward_hooks',
        '_forward_pre_hooks',
        '_forward_hooks_with_kwargs',
        '_forward_pre_hooks_with_kwargs',
    ):
        kept[hooks] = type(kept[hooks])()
    copy.__dict__.update(deepcopy(kept, memo))
    return copy


@MODEL_WRAPPERS.register_module()
class FullyShardedModel(nn.Module):
    """FSDP2 (``fully_shard``) in mmengine's place for a model wrapper.

    Each block is a unit: its parameters are gathered before it computes and dropped afterwards; the rest of the model
    is one more. Optimizers, layer decay, gradient clipping and averaged weights see sharded tensors. ``state_dict``
    gathers and ``load_state_dict`` spreads, so that checkpoints are the usual files in one piece: they resume on any
    number of processes, with or without sharding, and every tool reads them. ``checkpoint='parts'`` writes a folder
    instead, to which every process adds what it holds, see :mod:`mmvisionllama.checkpoints.sharded`; it resumes on any
    number of processes as well, and every tool reads it, too.

    The model is built and initialised whole in every process before it is sharded. One process alone is not sharded
    (the Runner wraps no model then). What calls the model in other ways than by its ``forward`` has to take a
    :func:`whole_copy`.

    Args:
        module: The model.
        blocks: Names of the classes that become units.
        param_dtype: In what to compute and to gather parameters, such as ``'bfloat16'``; they stay float32 themselves.
            Learned directions of rotary embeddings (``directions='mixed'``) are rounded with the rest, which moves
            positions far from the origin: keep float32 with them. Image generators take autocast in its place.
        reduce_dtype: In what to add gradients up.
        reshard_after_forward: Drop gathered parameters between forward and backward.
        checkpoint: ``'whole'`` or ``'parts'``; parts need a disk that all processes share.

    Raises:
        OptionError: Without torch 2.7, without a process group, if no block has one of these names, for an unknown
            dtype or kind of checkpoint, and for ``param_dtype`` of an image generator.

    Examples:
        >>> model_wrapper_cfg = dict(type='FullyShardedModel', param_dtype='bfloat16', reduce_dtype='float32')
    """

    def __init__(
        self,
        module: nn.Module,
        blocks: Sequence[str] = BLOCKS,
        param_dtype: Optional[str] = None,
        reduce_dtype: Optional[str] = None,
        reshard_after_forward: bool = True,
        checkpoint: str = 'whole',
    ) -> None:
        super().__init__()
        self.checkpoint = checked_choice('checkpoint', checkpoint, CHECKPOINTS)
        if fully_shard is None:
            raise OptionError('FullyShardedModel needs torch 2.7 or later')
        if not (distributed.is_available() and distributed.is_initialized()):
            raise OptionError('FullyShardedModel needs several processes: start with tools/dist_train.sh')
        if param_dtype is not None and hasattr(module, 'objective'):
            raise OptionError(
                'image generators make noise and steps in float32: leave param_dtype out, and compute in bfloat16 by '
                "optim_wrapper=dict(_delete_=True, type='AutocastOptimWrapper', optimizer=...)"
            )
        units = [part for part in module.modules() if type(part).__name__ in blocks]
        if not units:
            raise OptionError(f'the model has no {" or ".join(blocks)}: name the classes of its blocks with blocks=')
        policy = MixedPrecisionPolicy(param_dtype=_dtype(param_dtype), reduce_dtype=_dtype(reduce_dtype))
        if hasattr(module, 'init_weights'):
            module.init_weights()  # random numbers are those of a whole model
        for tensor in [*module.parameters(), *module.buffers()]:
            distributed.broadcast(tensor.data, 0)
        mesh = init_device_mesh(get_device().split(':')[0], (distributed.get_world_size(),))
        for part in [*units, module]:
            fully_shard(
                part, mesh=mesh, mp_policy=policy, reshard_after_forward=reshard_after_forward or part is module
            )
            type(part).__deepcopy__ = _plain_copy
        module.register_state_dict_post_hook(_gather_state)
        for part in module.modules():
            if part._parameters:
                part._register_load_state_dict_pre_hook(_spread_state, with_module=True)
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's."""
        return self.module(*args, **kwargs)

    @contextlib.contextmanager
    def no_sync(self) -> Iterator[None]:
        """Backward passes within accumulate whole gradients in every process and send none.

        In :meth:`train_step` it saves nothing: backward follows after it, so that every iteration, also one that is
        accumulated, adds gradients up over the processes, of which each keeps its part. (DDP decides in its forward.)
        """
        self.module.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            self.module.set_requires_gradient_sync(True)

    def train_step(self, data: Union[dict, tuple, list], optim_wrapper: OptimWrapper) -> Dict[str, Tensor]:
        """As :meth:`mmengine.model.BaseModel.train_step`."""
        with optim_wrapper.optim_context(self):
            data = self.module.data_preprocessor(data, training=True)
            losses = self(**data, mode='loss') if isinstance(data, dict) else self(*data, mode='loss')
        loss, log_vars = self.module.parse_losses(losses)
        optim_wrapper.update_params(loss)
        return log_vars

    def val_step(self, data: Union[dict, tuple, list]) -> List[Any]:
        """The model's."""
        return self.module.val_step(data)

    def test_step(self, data: Union[dict, tuple, list]) -> List[Any]:
        """The model's."""
        return self.module.test_step(data)


def whole_copy(model: nn.Module) -> nn.Module:
    """A copy of a sharded model, or of its averaged weights, that every process can run by itself in any way.

    All processes have to ask for it; others than sharded models are returned as they are.
    """
    if fully_shard is None or not any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        return model
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    try:
        for parameter, _ in gradients:  # sharded ones cannot be copied
            parameter.grad = None
        copy = deepcopy(model)
    finally:
        for parameter, gradient in gradients:
            parameter.grad = gradient
    for part in copy.modules():
        for name, parameter in part._parameters.items():
            if isinstance(parameter, DTensor):
                part._parameters[name] = nn.Parameter(parameter.detach().full_tensor(), requires_grad=False)
    return copy


def _targets(runner: Any, checkpoint: Dict[str, Any]) -> Dict[str, Tensor]:
    """Sharded tensors to read a checkpoint's into: as the model's weights and as what the optimizer updates."""
    with in_parts():
        weights: Mapping = runner.model.module.state_dict()
    optimizer = runner.optim_wrapper.optimizer
    indices = [index for group in checkpoint.get('optimizer', {}).get('param_groups', []) for index in group['params']]
    updated = dict(zip(indices, (parameter for group in optimizer.param_groups for parameter in group['params'])))
    found = {}
    for name, (top, *place) in sharded.left_out(checkpoint).items():
        if top == 'optimizer':
            like = updated.get(place[1])
        else:
            like = weights.get(place[0].removeprefix('module.') if top == 'ema_state_dict' else place[0])
        if not isinstance(like, DTensor):
            raise CheckpointError(f'a checkpoint in parts does not fit: the model has no sharded {name}')
        found[name] = torch.empty_like(like.detach())
    return found


def _dtype(name: Optional[str]) -> Optional[torch.dtype]:
    dtype = getattr(torch, name, None) if name else None
    if name and not isinstance(dtype, torch.dtype):
        raise OptionError(f'{name!r} is no dtype: take for example bfloat16')
    return dtype


@HOOKS.register_module()
class ShardedCheckpointHook(Hook):
    """Lets a :class:`FullyShardedModel` and its optimizer be saved and loaded by all processes.

    :func:`mmvisionllama.launch.build_runner` adds it.
    """

    priority = 'LOWEST'  # after the hooks that add to a checkpoint

    def __init__(self) -> None:
        self._parts: Optional[Dict[str, Tensor]] = None

    def before_run(self, runner: Any) -> None:
        """Before a checkpoint is resumed."""
        optimizer = getattr(runner.optim_wrapper, 'optimizer', None)
        # in a test it stays a config
        if isinstance(runner.model, FullyShardedModel) and isinstance(optimizer, torch.optim.Optimizer):
            optimizer.register_state_dict_post_hook(self._gather)
            optimizer.register_load_state_dict_pre_hook(self._spread)
            save = self._save_parts if runner.model.checkpoint == 'parts' else self._save
            runner.save_checkpoint = partial(save, runner)
            runner.load_checkpoint = partial(self._load, runner)

    @staticmethod
    def _save(runner: Any, *args: Any, **kwargs: Any) -> None:
        """The Runner's, which is the first process's alone; gathering takes all of them."""
        if not is_main_process():
            kwargs['backend_args'] = dict(backend=NOWHERE)
        type(runner).save_checkpoint.__wrapped__(runner, *args, **kwargs)

    def _save_parts(self, runner: Any, out_dir: str, filename: str, *args: Any, **kwargs: Any) -> None:
        """A folder, written aside, checked and renamed."""
        folder, is_first = Path(out_dir, filename), is_main_process()
        part = sharded.begin(folder, is_first)
        kwargs['backend_args'] = dict(backend=ATOMIC if is_first else NOWHERE)
        self._parts = {}
        try:
            with in_parts():
                type(runner).save_checkpoint.__wrapped__(runner, str(part), sharded.STATE, *args, **kwargs)
            distributed.barrier()
            sharded.save_parts(part, self._parts)
        finally:
            self._parts = None
        if is_first:
            sharded.finish(part, folder)
        distributed.barrier()

    def before_save_checkpoint(self, runner: Any, checkpoint: Dict[str, Any]) -> None:
        """Leaves the sharded tensors to the parts."""
        if self._parts is not None:
            self._parts.update(sharded.take_out(checkpoint, lambda value: isinstance(value, DTensor)))

    @staticmethod
    def _load(runner: Any, *args: Any, **kwargs: Any) -> Any:
        """The Runner's; every process reads its own share of a folder of parts."""
        with sharded.reading_into(partial(_targets, runner)):
            return type(runner).load_checkpoint(runner, *args, **kwargs)

    @staticmethod
    def _gather(optimizer: torch.optim.Optimizer, state_dict: Dict[str, Any]) -> Dict[str, Any]:
        # the optimizer's own dictionaries must not change
        state = {}
        for index, values in state_dict['state'].items():
            state[index] = {}
            for key, value in values.items():
                whole = gathered(value)
                state[index][key] = whole if is_main_process() or whole is value else torch.empty(0)
        return {**state_dict, 'state': state}

    @staticmethod
    def _spread(optimizer: torch.optim.Optimizer, state_dict: Dict[str, Any]) -> Dict[str, Any]:
        parameters = [parameter for group in optimizer.param_groups for parameter in group['params']]
        indices = [index for group in state_dict['param_groups'] for index in group['params']]
        state = dict(state_dict['state'])
        for index, parameter in zip(indices, parameters):
            state[index] = {
                key: spread(value, parameter) if isinstance(value, Tensor) else value
                for key, value in state.get(index, {}).items()
            }
        return {**state_dict, 'state': {index: values for index, values in state.items() if values}}
