"""The settings of the output channel: what its server trains before it hands a classifier out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from fl_privacy.data import DataSet
from fl_privacy.defences import Chain
from fl_privacy.joint_training import JointLoss, JointSettings, PairSpec
from fl_privacy.models.decoders import DECODERS
from fl_privacy.settings import PlainTable, ReadTable, check_settings

NOTHING = Chain()


@dataclass(frozen=True)
class JointServer:
    """A server that trains the experiment's `model`, and with beta_r > 0 a `decoder` of its outputs beside it.

    The decoder is trained through the experiment's `training_defences`, so it is adapted to them; `inference_defences`
    puts others in the place of those when clients answer. 1/0 is a pure autoencoder; 0/1 an honest server, which trains
    no decoder.

    Raises:
        UnknownName: no such decoder or setting. ValueError: a value that does not fit.
    """

    decoder: ReadTable | str = "small"
    """The network that rebuilds an input from the outputs, with its settings."""
    beta_c: float = 1.0
    """The weight of classification."""
    beta_r: float = 3.0
    """The weight of reconstruction; 0 is an honest server."""
    gamma_h: float = 5.0
    """The Huber term's share of the reconstruction loss."""
    gamma_s: float = 1.0
    """The SSIM term's share of the reconstruction loss."""
    delta: float = 1.0
    """Huber's delta."""
    beta_e: float = 0.0
    """The weight of the answers' entropy: above 0 it is minimised, below 0 maximised."""
    entropy: float | None = None
    """The entropy in bits that the server's answers shall have, to pass those who look at it; needs a beta_e."""
    task: Literal["categorical", "attributes", "binaries"] = "categorical"
    """Classes that exclude each other, binary attributes, or such classes as one yes-or-no question each."""
    attributes: tuple[str, ...] = ()
    """Which attributes have an output; all of them unless some are named."""
    images: int = 0
    """How many training images are trained on; all that are left by default."""
    validation: int = 0
    """The last training images, which choose the best epoch; a tenth by default."""
    shuffled: bool = True
    """Whether both are drawn at random first, the same ones for every seed: many sets are sorted."""
    epochs: int = 50
    """Epochs of joint training."""
    polish: int = 0
    """Epochs of the honest loss after them, by which a server hides from those who fine-tune."""
    refit: int = 0
    """Epochs at the end in which the decoder alone is fitted to the classifier; an honest server has none."""
    pair_batch: int = 250
    """Its mini-batch."""
    pair_learning_rate: float = 1e-3
    """Its step."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Of the step."""
    augment: bool = False
    """Whether training images are augmented."""
    selection: Literal["paper", "code"] = "paper"
    """By which score the best epoch is chosen: the paper's, or its code's."""
    compiled: bool = False
    """Whether the pair is compiled first."""
    labelled: int = 0
    """Labelled images of a user who fine-tunes the classifier to see whether it is vicious; 0 leaves that out."""
    cache: str = ""
    """A folder in which trained pairs are kept, by all that decides their bits, for other experiments."""

    def __post_init__(self) -> None:
        decoder = {"name": self.decoder} if isinstance(self.decoder, str) else self.decoder
        if not isinstance(decoder, Mapping) or not isinstance(decoder.get("name"), str):
            raise ValueError(f"'decoder' takes a name or a table that has one, not {self.decoder!r}")
        object.__setattr__(self, "decoder", dict(decoder))
        check_settings(f"decoder '{decoder['name']}'", DECODERS[decoder["name"]], self.decoder_settings)
        if min(self.images, self.validation, self.labelled) < 0:
            raise ValueError(f"'images', 'validation' and 'labelled' must not be negative: {self}")
        if self.attributes and self.task != "attributes":
            raise ValueError(f"'attributes' are the outputs of task = 'attributes', and this task is '{self.task}'")
        _ = self.training  # its numbers are checked where it is made

    @property
    def decoder_settings(self) -> PlainTable:
        assert isinstance(self.decoder, Mapping)
        return {key: value for key, value in self.decoder.items() if key != "name"}

    @property
    def honest(self) -> bool:
        return self.beta_r == 0

    @property
    def training(self) -> JointSettings:
        """How the pair is trained."""
        return JointSettings(
            loss=JointLoss(
                self.task,
                self.beta_c,
                self.beta_r,
                self.gamma_h,
                self.gamma_s,
                self.delta,
                self.beta_e,
                self.entropy,
            ),
            epochs=self.epochs,
            polish=self.polish,
            refit=0 if self.honest else self.refit,
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
        if self.task != "attributes":
            return tuple(map(str, range(data.classes)))
        unknown = [name for name in self.attributes if name not in data.attributes]
        if unknown or not data.attributes:
            known = ", ".join(data.attributes) or "none"
            raise ValueError(f"'{data.name}' has no attribute {', '.join(unknown) or 'at all'}. Known: {known}.")
        return self.attributes or data.attributes

    def spec(self, data: DataSet, model: ReadTable) -> PairSpec:
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
