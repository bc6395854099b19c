"""What a run leaves for TensorBoard, read by TensorBoard's own reader."""

import pytest

from fl_privacy.simulations import configure, simulate
from fl_privacy.simulations.report.track import check_tracker, track
from fl_privacy.simulations.results.files import slug

TINY = configure(
    name="tiny",
    dataset={"name": "digits", "size": 16},
    attack={"name": "grnn", "iterations": 2, "width": 4},
    clients=2,
    clients_per_round=2,
    rounds=2,
)


def test_the_curves_and_scores_are_what_tensorboard_reads(tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    result = simulate(TINY, out=tmp_path / "run", backend="local", note=lambda text: None)
    folder = track(result)
    controls = [row["attack"] for row in result.summary if row["attack"].startswith("control")]
    assert sorted(path.name for path in folder.iterdir()) == sorted(slug(name) for name in ("none", *controls))
    events = reader.EventAccumulator(str(folder / "none")).Reload()
    measured = [row["evaluate_metrics_serverapp"]["accuracy"] for row in result.conditions[0]["rounds"]]
    assert [each.value for each in events.Scalars("round/accuracy")] == pytest.approx(measured)
    assert [each.step for each in events.Scalars("round/accuracy")] == [0, 1, 2]
    assert events.Scalars("score/psnr/grnn")[0].value == pytest.approx(result.summary[0]["psnr"], rel=1e-6)


def test_a_tracker_that_is_not_there_is_said_before_anything_runs(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    with pytest.raises(ValueError, match=r"pip install 'fl-privacy\[tensorboard\]'"):
        check_tracker("tensorboard")
    with pytest.raises(ValueError, match="takes tensorboard, not 'wandb'"):
        check_tracker("wandb")
