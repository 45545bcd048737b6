"""Training and testing: hooks, optimizer constructors and what the command-line tools share."""

from .reseed import ReseedHook

__all__ = ['ReseedHook']
