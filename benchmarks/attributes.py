"""What smashed data tell of a person: ethnicity and age read from the activations of a model that learns gender.

    python -m benchmarks.attributes --runs FOLDER ... --data-root DATA [--out results/attributes.json]

Each FOLDER is a run of an experiment on UTKFace, kept with `benchmarks.experiment nopeek/weights --keep`. The attacker
owns the experiment's public images with their attributes, and learns from their releases, under the condition's own
defence, to read the attributes of the private ones from theirs: logistic regression on principal components, their
number and its strength by cross validation on the attacker's own images. Balanced accuracy has its chance level at
1 / classes.
"""

import argparse
import json
import warnings
from pathlib import Path

import torch
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from benchmarks.record import options, write
from benchmarks.table_parts import Row
from fl_privacy.data import load
from fl_privacy.seeding import subseed
from fl_privacy.simulations.channels.activation.collection import weights_file
from fl_privacy.simulations.channels.activation.federation import target_index
from fl_privacy.simulations.channels.activation.protocol import SplitProtocol, trainings
from fl_privacy.simulations.config.build import federation_of
from fl_privacy.simulations.config.load import load_experiment, reconfigure
from fl_privacy.simulations.results.layout import CONFIG
from fl_privacy.simulations.results.storage import load_own_weights
from fl_privacy.split.cutting import cut
from fl_privacy.split.segments import ACTIVATION, SERVED_AT_ONCE

ATTRIBUTES = ("gender", "ethnicity", "age_group")
"""The first is the task: what the model is there to tell."""
COMPONENTS, STRENGTHS, FOLDS = (10, 40, 120), (0.001, 0.03, 1.0), 5


def read(own: Tensor, known: Tensor, private: Tensor, truth: Tensor, seed: int) -> Row:
    """How often a reader fitted on `own` (M, ...) with `known` labels (M,) reads those of `private` (N, ...)."""
    reader = GridSearchCV(
        make_pipeline(StandardScaler(), PCA(random_state=seed), LogisticRegression(class_weight="balanced")),
        {"pca__n_components": COMPONENTS, "logisticregression__C": STRENGTHS},
        scoring="balanced_accuracy",
        cv=FOLDS,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = reader.fit(own.flatten(1).numpy(), known.numpy()).predict(private.flatten(1).numpy())
    return {
        "accuracy": float((torch.from_numpy(found) == truth).float().mean()),
        "balanced": float(balanced_accuracy_score(truth.numpy(), found)),
        "most_frequent": float(truth.bincount().max()) / len(truth),
        "chance": 1 / len(torch.unique(truth)),
    }


@torch.no_grad()
def released(front: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([front(part) for part in torch.split(images, SERVED_AT_ONCE)])


def measure(experiment_name: str, seed: int, folder: Path, root: Path) -> list[Row]:
    experiment = reconfigure(load_experiment(experiment_name, []), seed=seed)
    federation = federation_of(experiment.to_json(), root)
    owned, targets = federation.public(), target_index(federation)
    assert owned is not None
    first = experiment.public["first"]
    settings = {key: value for key, value in experiment.dataset.items() if key != "name"}
    labels = {name: load("utkface", root, {**settings, "target": name}).train.labels for name in ATTRIBUTES}
    private = federation.data.train.images(targets)
    rows = []
    cases: list[tuple[str, Tensor, Tensor]] = [("the private images themselves", owned.inputs, private)]
    for training, conditions in trainings(experiment).items():
        model = federation.model()
        load_own_weights(model, weights_file(folder, training))
        front = cut(model.eval(), experiment.conditions[training].settings(SplitProtocol).cut[0])[0]
        clean = [released(front, images) for images in (owned.inputs, private)]
        for condition in conditions:
            chain = experiment.conditions[condition].released
            own, theirs = (
                chain.on_release({ACTIVATION: z}, subseed(seed, "attributes", condition, number))[ACTIVATION]
                for number, z in enumerate(clean)
            )
            cases.append((experiment.conditions[condition].label, own, theirs))
    for label, own, theirs in cases:
        for name in ATTRIBUTES:
            known, truth = labels[name][first : first + len(owned)], labels[name][targets]
            rows.append({"defence": label, "attribute": name, "seed": seed} | read(own, known, theirs, truth, seed))
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, nargs="+", required=True, help="run folders, whose models are read")
    parser.add_argument("--experiment", default="nopeek/weights")
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("results/attributes.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows, seeds = list[Row](), list[int]()
    for run in arguments.runs:
        seeds.append(json.loads((run / CONFIG).read_text())["experiment"]["seed"])
        rows += measure(arguments.experiment, seeds[-1], run, arguments.data_root)
    settings = {key: value for key, value in options(arguments).items() if key != "runs"}
    write(arguments.out, rows, settings=settings, seeds=seeds)


if __name__ == "__main__":
    main()
