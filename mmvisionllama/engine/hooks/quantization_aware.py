"""Training with simulated 8-bit arithmetic."""

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from ...errors import OptionError
from ...quantization import simulate_int8
from ..sharding import FullyShardedModel
from ..unwrapping import unwrapped


@HOOKS.register_module()
class QuantizationAwareTrainingHook(Hook):
    """Rounds weights and activations of the blocks' linear layers to 8 bits from the first iteration on.

    Checkpoints hold the ordinary fp32 weights; ``tools/analysis_tools/quantize.py`` makes the 8-bit model from them.
    Validation during the training runs with the simulated rounding. See :mod:`mmvisionllama.quantization`.

    Raises:
        ImportError: Without torchao.
        OptionError: If the model has no layer to quantise.
        OptionError: For a :class:`~mmvisionllama.engine.FullyShardedModel`.
    """

    def before_train(self, runner) -> None:
        """Puts the simulation into the model."""
        if isinstance(runner.model, FullyShardedModel):
            raise OptionError(
                'simulated 8 bits do not work with FullyShardedModel: train with MMDistributedDataParallel'
            )
        simulate_int8(unwrapped(runner.model))
