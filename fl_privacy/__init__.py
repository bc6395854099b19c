"""Privacy attacks, defences and measurements for federated learning; no Flower and no Ray in here.

    import fl_privacy as flp

    attack = flp.ATTACKS.configure("grnn", {"iterations": 300})
    scores = flp.evaluate(attack, observations, truths, seed=0)

`fl_privacy.strategies` speaks Flower, `fl_privacy.simulations` runs experiments. What is named here is loaded when it
is first used, so that importing takes no time.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fl_privacy import joint_training as joint_training
    from fl_privacy import testing as testing
    from fl_privacy.attacks import ATTACKS as ATTACKS
    from fl_privacy.attacks import Attack as Attack
    from fl_privacy.attacks import Capabilities as Capabilities
    from fl_privacy.data import DATASETS as DATASETS
    from fl_privacy.data import PARTITIONS as PARTITIONS
    from fl_privacy.data import DataSet as DataSet
    from fl_privacy.data import from_tensors as from_tensors
    from fl_privacy.data import load as load
    from fl_privacy.defences import DEFENCES as DEFENCES
    from fl_privacy.defences import Chain as Chain
    from fl_privacy.defences import Defence as Defence
    from fl_privacy.defences import chain as chain
    from fl_privacy.evaluation import Score as Score
    from fl_privacy.evaluation import Truth as Truth
    from fl_privacy.evaluation import controls as controls
    from fl_privacy.evaluation import evaluate as evaluate
    from fl_privacy.evaluation import score as score
    from fl_privacy.metrics import METRICS as METRICS
    from fl_privacy.models import MODELS as MODELS
    from fl_privacy.models import build_model as build_model
    from fl_privacy.observation import ChannelName as ChannelName
    from fl_privacy.observation import Images as Images
    from fl_privacy.observation import LocalTraining as LocalTraining
    from fl_privacy.observation import Observation as Observation
    from fl_privacy.observation import Reconstruction as Reconstruction
    from fl_privacy.observation import Spec as Spec
    from fl_privacy.seeding import stream as stream

__version__ = "0.1.0"

for _folder in ("strategies", "simulations"):
    if find_spec(f"{__name__}.{_folder}") is None:
        raise ImportError(
            f"fl_privacy.{_folder} is missing: in the repository it is a symbolic link to ../{_folder}, and the "
            "checkout that Python found here, or that was installed, has none. On Windows, turn the Developer "
            "Mode on, then: git config core.symlinks true && git checkout -- fl_privacy; from a zip archive, unpack it "
            "with a program that makes links, or clone instead"
        )

_DOOR = {
    "attacks": ("ATTACKS", "Attack", "Capabilities"),
    "data": ("DATASETS", "DataSet", "PARTITIONS", "from_tensors", "load"),
    "defences": ("Chain", "DEFENCES", "Defence", "chain"),
    "evaluation": ("Score", "Truth", "controls", "evaluate", "score"),
    "metrics": ("METRICS",),
    "models": ("MODELS", "build_model"),
    "observation": ("ChannelName", "Images", "LocalTraining", "Observation", "Reconstruction", "Spec"),
    "seeding": ("stream",),
}
_MODULE_OF = {name: module for module, names in _DOOR.items() for name in names}

__all__ = [
    "ATTACKS",
    "Attack",
    "Capabilities",
    "Chain",
    "ChannelName",
    "DATASETS",
    "DEFENCES",
    "DataSet",
    "Defence",
    "Images",
    "LocalTraining",
    "METRICS",
    "MODELS",
    "Observation",
    "PARTITIONS",
    "Reconstruction",
    "Score",
    "Spec",
    "Truth",
    "build_model",
    "chain",
    "controls",
    "evaluate",
    "from_tensors",
    "joint_training",
    "load",
    "score",
    "stream",
    "testing",
]


def __getattr__(name: str) -> object:
    if name in ("joint_training", "testing"):
        return import_module(f"{__name__}.{name}")
    if name in _MODULE_OF:
        return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
