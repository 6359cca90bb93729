"""Plan how often each harmful action is done to a pipeline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class ActionPlan:
    """Plan actions. Each field of a subclass has the name of a method, and says how often the method is called."""

    def actions(self, actor: object) -> list[Callable[[], None]]:
        """Return the methods of ``actor``, each as often as planned."""
        return [action for name, times in vars(self).items() for action in [getattr(actor, name)] * times]
