"""The settings of the output channel: what its server trains before it hands a classifier out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fl_privacy.data import DataSet
from fl_privacy.defences import Chain
from fl_privacy.joint_training import JointLoss, JointSettings, PairSpec
from fl_privacy.models.decoders import DECODERS
from fl_privacy.settings import check_settings

NOTHING = Chain()


@dataclass(frozen=True)
class JointServer:
    """A server that trains the experiment's `model`, and with beta_r > 0 a `decoder` of its outputs beside it.

    `beta_r` and `beta_c` weigh reconstruction and classification (1/0 is a pure autoencoder, 0/1 an honest server,
    which trains no decoder); `gamma_h`, `gamma_s` and `delta` as in `JointLoss`. `task` 'attributes' has one output for
    each of the data set's binary `attributes` (all of them unless some are named). The decoder is trained through the
    experiment's `training_defences`, so it is adapted to them; `inference_defences` puts others in the place of those
    when clients answer.

    The last `validation` training images (a tenth of all by default) choose the best epoch, and the first `images` of
    the rest (all by default) are trained on; `shuffled` draws them at random first, the same ones for every seed,
    because many sets are sorted. `epochs`, `pair_batch`, `pair_learning_rate`, `schedule`, `augment`, `selection` and
    `compiled` as in `JointSettings`. Trained pairs are kept in `cache`, by all that decides their bits, for other
    experiments to share; without it, in the run's own folder.

    With `labelled` images (of the validation images, every class with its share) a user fine-tunes the classifier by
    the claimed loss to see whether it is vicious; 0 leaves that out.

    Raises:
        UnknownName: no such decoder or setting. ValueError: a value that does not fit.
    """

    decoder: Mapping[str, Any] | str = "small"
    beta_c: float = 1.0
    beta_r: float = 3.0
    gamma_h: float = 5.0
    gamma_s: float = 1.0
    delta: float = 1.0
    task: Literal["categorical", "attributes"] = "categorical"
    attributes: tuple[str, ...] = ()
    images: int = 0
    validation: int = 0
    shuffled: bool = True
    epochs: int = 50
    pair_batch: int = 250
    pair_learning_rate: float = 1e-3
    schedule: Literal["constant", "cosine"] = "constant"
    augment: bool = False
    selection: Literal["paper", "code"] = "paper"
    compiled: bool = False
    labelled: int = 0
    cache: str = ""

    def __post_init__(self) -> None:
        decoder = {"name": self.decoder} if isinstance(self.decoder, str) else self.decoder
        if not isinstance(decoder, Mapping) or not isinstance(decoder.get("name"), str):
            raise ValueError(f"'decoder' takes a name or a table that has one, not {self.decoder!r}")
        object.__setattr__(self, "decoder", dict(decoder))
        check_settings(f"decoder '{decoder['name']}'", DECODERS[decoder["name"]], self.decoder_settings)
        if min(self.images, self.validation, self.labelled) < 0:
            raise ValueError(f"'images', 'validation' and 'labelled' must not be negative: {self}")
        if self.attributes and self.task != "attributes":
            raise ValueError("'attributes' are the outputs of task = 'attributes', and this task is 'categorical'")
        _ = self.training  # its numbers are checked where it is made

    @property
    def decoder_settings(self) -> dict[str, Any]:
        assert isinstance(self.decoder, Mapping)
        return {key: value for key, value in self.decoder.items() if key != "name"}

    @property
    def honest(self) -> bool:
        return self.beta_r == 0

    @property
    def training(self) -> JointSettings:
        """How the pair is trained."""
        return JointSettings(
            loss=JointLoss(self.task, self.beta_c, self.beta_r, self.gamma_h, self.gamma_s, self.delta),
            epochs=self.epochs,
            batch_size=self.pair_batch,
            learning_rate=self.pair_learning_rate,
            schedule=self.schedule,
            augment=self.augment,
            selection=self.selection,
            compiled=self.compiled,
        )

    def law(self, trained: Chain) -> Chain:
        """The defences between F and G in training; an honest server has no G that they could matter to."""
        return NOTHING if self.honest else trained

    def names(self, data: DataSet) -> tuple[str, ...]:
        """What every output stands for: a class's number, or an attribute.

        Raises:
            ValueError: attributes that the data set does not have.
        """
        if self.task == "categorical":
            return tuple(map(str, range(data.classes)))
        unknown = [name for name in self.attributes if name not in data.attributes]
        if unknown or not data.attributes:
            known = ", ".join(data.attributes) or "none"
            raise ValueError(f"'{data.name}' has no attribute {', '.join(unknown) or 'at all'}. Known: {known}.")
        return self.attributes or data.attributes

    def spec(self, data: DataSet, model: Mapping[str, Any]) -> PairSpec:
        """The two networks for these data, the classifier being the experiment's `model`."""
        assert isinstance(self.decoder, Mapping)
        return PairSpec(
            data.image_shape,
            len(self.names(data)),
            model["name"],
            self.decoder["name"],
            {key: value for key, value in model.items() if key != "name"},
            self.decoder_settings,
        )
