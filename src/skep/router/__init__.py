"""Pure decisions about where: which node runs a task. Usable alone, as a library: see `Balancer`.

Names are loaded when they are first used, since most of them need NumPy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from skep.router.library import Balancer, Endpoint, Needs, NoEndpointError
    from skep.router.look import Costs, Look, Policy
    from skep.router.predictor import Prediction, Predictor
    from skep.router.router import Router
    from skep.router.settings import RouterSettings, Weights
    from skep.router.wanted import Choice, Kind, Wanted

__all__ = (
    "Balancer",
    "Choice",
    "Costs",
    "Endpoint",
    "Kind",
    "Look",
    "Needs",
    "NoEndpointError",
    "Policy",
    "Prediction",
    "Predictor",
    "Router",
    "RouterSettings",
    "Wanted",
    "Weights",
)

_FROM: Final = {
    **dict.fromkeys(("Balancer", "Endpoint", "Needs", "NoEndpointError"), "library"),
    **dict.fromkeys(("Costs", "Look", "Policy"), "look"),
    **dict.fromkeys(("Prediction", "Predictor"), "predictor"),
    "Router": "router",
    **dict.fromkeys(("RouterSettings", "Weights"), "settings"),
    **dict.fromkeys(("Choice", "Kind", "Wanted"), "wanted"),
}


def __getattr__(name: str) -> Any:
    if name not in _FROM:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"{__name__}.{_FROM[name]}"), name)
    return found
