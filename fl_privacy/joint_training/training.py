"""The trainer: one loop over epochs that can stop anywhere and go on with the same bits."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor, nn

from fl_privacy.data.base import ImageSet
from fl_privacy.defences.base import Chain
from fl_privacy.joint_training.augmentation import augment
from fl_privacy.joint_training.checkpoint import EpochReport, Run
from fl_privacy.joint_training.losses import JointLoss, class_weights
from fl_privacy.joint_training.pair import OUTPUTS, Pair, PairSpec, build_pair
from fl_privacy.joint_training.scores import Selection, evaluate, targets
from fl_privacy.seeding import stream, subseed

NO_DEFENCE = Chain()


@dataclass(frozen=True)
class Phase:
    """The epochs from `start` to before `end`, in which one loss trains both networks or one of them."""

    name: Literal["joint", "polish", "refit"]
    loss: JointLoss
    start: int
    end: int


@dataclass(frozen=True)
class JointSettings:
    """How to train a pair. Defaults are the paper's; its code differs in 2 epochs and selection 'code'.

    With `augment`, half of every batch is augmented copies of the other half, which the paper does not mention and its
    code does. `schedule`: 'constant' as published, or 'cosine' down to 0. `selection` of the best epoch: 'paper' by
    equation 4 on the validation set, 'code' by (1 - accuracy) + gamma_s (1 - SSIM) + gamma_h MSE. `compiled` networks
    take a minute or more to start (torch.compile needs a C++ compiler); a CPU then steps a few per cent faster.

    A server that expects to be tested goes on for `polish` epochs in which the classifier alone is trained, with the
    honest loss, and for `refit` epochs in which the decoder alone is, on what the classifier then says. Each phase
    begins where the last epoch before it ended, has a schedule of its own, and the last one has the best epoch.

    Raises:
        ValueError: a number out of range, or a phase whose loss has no weight.

    Source: Malekzadeh and Gündüz, section 4 and setting.py.
    """

    loss: JointLoss = field(default_factory=JointLoss)
    epochs: int = 50
    batch_size: int = 250
    learning_rate: float = 1e-3
    schedule: Literal["constant", "cosine"] = "constant"
    augment: bool = True
    selection: Selection = "paper"
    compiled: bool = False
    polish: int = 0
    refit: int = 0

    def __post_init__(self) -> None:
        if min(self.polish, self.refit) < 0 or (self.polish and not self.loss.beta_c) or (self.refit and self.honest):
            raise ValueError(
                "polish and refit must not be negative; polishing needs the classification's beta_c above 0, and "
                f"refitting a decoder needs beta_r above 0: {self}"
            )
        if self.epochs < 1 or self.batch_size < 4 or not self.learning_rate > 0:
            raise ValueError(f"epochs must be at least 1, batch_size at least 4 and learning_rate above 0: {self}")

    @property
    def honest(self) -> bool:
        return self.loss.beta_r == 0

    @property
    def phases(self) -> tuple[Phase, ...]:
        """What is trained, in order; phases without an epoch are left out."""
        polished, refitted = self.epochs + self.polish, self.epochs + self.polish + self.refit
        found = [Phase("joint", self.loss, 0, self.epochs)]
        if self.polish:
            found.append(Phase("polish", replace(self.loss, beta_r=0.0), self.epochs, polished))
        if self.refit:
            found.append(Phase("refit", self.loss, polished, refitted))
        return tuple(found)

    @property
    def fresh(self) -> int:
        """Images that one step takes from the data set; the rest of its batch are augmented copies."""
        return self.batch_size // 2 if self.augment else self.batch_size

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of `step` out of `steps`: a function of nothing else, so that resuming needs no state."""
        if self.schedule == "constant":
            return self.learning_rate
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * step / steps))


def honest(settings: JointSettings) -> JointSettings:
    """The same training without reconstruction: beta_r = 0, and no decoder to refit."""
    return replace(settings, loss=replace(settings.loss, beta_r=0.0), refit=0)


@dataclass(frozen=True)
class Trained:
    """The pair with the weights of its best epoch, in eval mode, and the reports of all epochs."""

    pair: Pair
    history: tuple[EpochReport, ...]

    @property
    def best(self) -> EpochReport:
        """The report of the epoch whose weights the pair has.

        Raises:
            ValueError: no epoch of the last phase had a finite criterion.
        """
        found = [each for each in self.history if each.best]
        if not found:
            raise ValueError("no epoch of this training had a finite validation loss: lower its learning rate")
        return found[-1]


def joint_loss(
    pair: Pair,
    loss: JointLoss,
    images: Tensor,
    labels: Tensor,
    weights: Tensor | None = None,
    law: Chain = NO_DEFENCE,
    seed: int = 0,
) -> Tensor:
    """The joint loss of one batch: images (N, C, H, W) in [0, 1] to F, through the clients' defences `law`, to G.

    `seed` names the draws of `law`. Without beta_r the decoder is not run.

    Source: Malekzadeh and Gündüz, equation 4.
    """
    with torch.autocast(images.device.type, torch.bfloat16, enabled=images.is_cuda):
        logits = pair.classifier(images)
        classification = loss.classification(logits, labels, weights)
        extra = loss.uncertainty(logits) if loss.beta_e else 0.0
        if loss.beta_r == 0:
            return loss.total(classification, None) + extra
        guess = pair.decoder(law.on_release({OUTPUTS: logits.float()}, seed)[OUTPUTS])
    return loss.total(classification, loss.reconstruction(guess, images)) + extra


def refit_loss(pair: Pair, loss: JointLoss, images: Tensor, law: Chain, seed: int) -> Tensor:
    """G's own loss of one batch of images (N, C, H, W), with F as it stands; `law` and `seed` as in `joint_loss`."""
    with torch.autocast(images.device.type, torch.bfloat16, enabled=images.is_cuda):
        with torch.no_grad():
            logits = pair.classifier(images)
        guess = pair.decoder(law.on_release({OUTPUTS: logits.float()}, seed)[OUTPUTS])
    return loss.reconstruction(guess, images)


def compile_pair(pair: Pair) -> Pair:
    """The same weights behind compiled forward and backward passes; training and saving `pair` itself still works."""
    classifier, decoder = (cast(nn.Module, torch.compile(part)) for part in (pair.classifier, pair.decoder))
    return Pair(classifier, decoder)


def train(
    spec: PairSpec,
    settings: JointSettings,
    data: ImageSet,
    validation: ImageSet,
    seed: int,
    *,
    law: Chain = NO_DEFENCE,
    checkpoint: Path | None = None,
    progress: Callable[[EpochReport], None] = lambda report: None,
    device: torch.device | str = "cpu",
) -> Trained:
    """Train F and G together; the same arguments give the same bits on a CPU, interrupted or not.

    `law`: the clients' defences, which an adaptive server trains through. `checkpoint`: a file written after every
    epoch and resumed from where it exists. The step runs channels-last, and on a GPU in bfloat16.

    Raises:
        ValueError: fewer images than one step takes, or a checkpoint of another training.

    Source: Malekzadeh and Gündüz, section 3. One Adam over both networks equals their two: it treats every number by
    itself.
    """
    if len(data) < settings.fresh:
        raise ValueError(f"{len(data)} images are fewer than the {settings.fresh} of one step: lower batch_size")
    place = torch.device(device)
    pair = build_pair(spec, seed).to(place).to(memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(pair.parameters(), settings.learning_rate, fused=True)
    identity = {"spec": asdict(spec), "settings": asdict(settings), "seed": seed, "law": law.label, "images": len(data)}
    run = Run(pair, optimiser, spec, identity, checkpoint)
    stepped = compile_pair(pair) if settings.compiled else pair
    attributes = settings.loss.task == "attributes"
    pixels, labels = data.pixels.to(place), targets(settings.loss.task, data).to(place)
    weights = class_weights(labels) if attributes else None
    total = settings.phases[-1].end
    for epoch in range(len(run.history), total):
        phase = next(each for each in settings.phases if epoch < each.end)
        began = time.perf_counter()
        loss = _epoch(run, stepped, settings, phase, pixels, labels, weights, law, seed, epoch)
        scores = evaluate(pair, phase.loss, validation, law, weights, subseed(seed, "validation"))
        value = scores.criterion(phase.loss, settings.selection)
        seconds = time.perf_counter() - began
        best = value < run.best_criterion(phase.start)
        report = EpochReport(epoch, total, seconds, loss, scores, value, best)
        run.record(report)
        progress(report)
    pair.load_state_dict(run.best)
    return Trained(pair.to(memory_format=torch.contiguous_format).eval(), tuple(run.history))


def _epoch(
    run: Run,
    pair: Pair,
    settings: JointSettings,
    phase: Phase,
    pixels: Tensor,
    labels: Tensor,
    weights: Tensor | None,
    law: Chain,
    seed: int,
    epoch: int,
) -> float:
    """One pass over the data in an order of its own; an incomplete last batch is left out. Returns the mean loss."""
    run.pair.train()
    if phase.name == "refit":
        run.pair.classifier.eval()  # its statistics are those that users get
    order = torch.randperm(len(labels), generator=stream(seed, "order", epoch)).to(pixels.device)
    batches = order[: len(order) // settings.fresh * settings.fresh].view(-1, settings.fresh)
    total = torch.zeros((), device=pixels.device)
    for number, chosen in enumerate(batches):
        images, wanted = pixels[chosen].float() / 255, labels[chosen]
        if settings.augment:
            images = torch.cat([images, augment(images, stream(seed, "augment", epoch, number))])
            wanted = torch.cat([wanted, wanted])
        step, steps = (epoch - phase.start) * len(batches) + number, (phase.end - phase.start) * len(batches)
        rate = settings.rate(step, steps)
        run.optimiser.param_groups[0]["lr"] = rate
        run.optimiser.zero_grad()
        drawn = subseed(seed, "law", epoch, number)
        if phase.name == "refit":
            loss = refit_loss(pair, phase.loss, images, law, drawn)
        else:
            loss = joint_loss(pair, phase.loss, images, wanted, weights, law, drawn)
        loss.backward()  # type: ignore[no-untyped-call]
        run.optimiser.step()
        total += loss.detach()
    return float(total) / len(batches)
