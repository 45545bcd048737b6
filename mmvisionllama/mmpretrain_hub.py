"""Adds the zoo to mmpretrain's hub when the hub is first asked, whichever of the two packages is imported first.

mmpretrain fills its hub by ``ModelHub._register_mmpretrain_models`` at the first question; ours follow there, so that
nothing is read before and mmpretrain is not imported for it.
"""

import importlib.abc
import importlib.util
import sys
from typing import Any, Optional

HUB, FILLS = 'mmpretrain.apis.model', '_register_mmpretrain_models'


def offer(module: Any) -> None:
    """Lets the hub of ``mmpretrain.apis.model`` take our models after its own."""
    hub = getattr(module, 'ModelHub', None)
    stock = getattr(hub, FILLS, None)
    if stock is None or hasattr(stock, 'offers_mmvisionllama'):
        return

    def fill(cls: type) -> None:
        from .zoo import register_in_mmpretrain

        stock()
        register_in_mmpretrain()

    fill.offers_mmvisionllama = True
    setattr(hub, FILLS, classmethod(fill))


class _Watch(importlib.abc.MetaPathFinder):
    """Waits for the import of the hub's module, once."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Optional[Any]:
        if name != HUB:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_offer(module: Any) -> None:
                execute(module)
                offer(module)

            spec.loader.exec_module = execute_and_offer
        return spec


def install() -> None:
    """Offers the zoo now, or as soon as mmpretrain is there."""
    if HUB in sys.modules:
        offer(sys.modules[HUB])
    elif not any(isinstance(finder, _Watch) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watch())
