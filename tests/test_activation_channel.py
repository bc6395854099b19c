"""Split learning as experiments: trained once, served under every chain, attacked by the party that is named."""

import dataclasses

import pytest
import torch
from addresses import ALL
from safetensors.torch import load_file

from fl_privacy.federated.client import accuracy
from fl_privacy.simulations.channels import CHANNELS
from fl_privacy.simulations.channels.activation import federation as split_federation
from fl_privacy.simulations.channels.activation.federation import evaluated, evaluator_holdout, targets
from fl_privacy.simulations.channels.activation.protocol import trainings
from fl_privacy.simulations.config.build import federation_of
from fl_privacy.simulations.config.load import configure, load_experiment, reconfigure
from fl_privacy.simulations.report import figures, gallery
from fl_privacy.simulations.results.storage import Key
from fl_privacy.simulations.run.again import attack_again
from fl_privacy.simulations.run.attack import jobs
from fl_privacy.simulations.run.pipeline import execute, plan, simulate
from fl_privacy.simulations.run.stages import observed, redraw
from fl_privacy.split.rules import TITCOMBE

KIND = CHANNELS["activation"]
SMALL = {"batch_size": 32}
DECODER = {"name": "decoder", "steps": 4, "width": 4, "blocks": 1, "copies": 1, **SMALL}
PUBLISHED = {"name": "decoder_as_published", "epochs": 1, **SMALL}
AVERAGING = {**DECODER, "name": "averaging", "repeats": 2}
NOISE, NOPEEK = {"name": "laplace_noise", "scale": 0.5}, {"name": "nopeek", "weight": 0.5}
DIGITS = {"name": "digits", "size": 8}
PROTOCOL = {"cut": ["conv2"], "targets": [300, 364], "evaluated": [0, 100], "dcor_rows": 50, "queries": 2}
TINY = configure(
    name="tiny",
    channel="activation",
    dataset=DIGITS,
    model={"name": "convnet"},
    attacks=(DECODER, PUBLISHED, AVERAGING),
    training_defences=([], [NOPEEK]),
    inference_defences=([], [NOISE]),
    public={**DIGITS, "first": 200, "count": 100},
    protocol=PROTOCOL,
    train_images=(0, 200),
    clients=2,
    clients_per_round=2,
    attacked_clients=2,
    batch_size=32,
    learning_rate=0.01,
)


def quiet(text):
    """Progress that nobody reads."""


def local(experiment, out, **choices):
    return simulate(experiment, out=out, backend="local", note=quiet, **choices)


def changed(experiment=TINY, **protocol):
    return reconfigure(experiment, protocol={**experiment.protocol, **protocol})


def federation(experiment=TINY):
    return federation_of(experiment.to_json(), None)


def weights(result, name):
    return load_file(result.folder / "models" / f"{name}.safetensors")


@pytest.fixture(scope="module", autouse=True)
def _quick_reader():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fl_privacy.metrics.class_recognition.JUDGE_STEPS", 30)
        yield


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return local(TINY, tmp_path_factory.mktemp("runs") / "tiny")


@pytest.fixture(scope="module")
def seen(tiny):
    return observed(federation(), tiny.folder)


def test_each_chain_is_trained_once_and_served_under_every_one(tiny):
    assert trainings(TINY) == {0: [0, 1], 2: [2, 3]}
    assert {path.stem for path in (tiny.folder / "models").iterdir()} == {"0", "2"}
    assert [condition["defence"] for condition in tiny.conditions] == list(TINY.condition_labels)
    plain, noisy, peek, _ = (condition["rounds"] for condition in tiny.conditions)
    assert [row["round"] for row in plain] == [0, 1, 2]
    assert plain[:2] == noisy[:2] != peek[:2]
    losses = [rows[-1]["evaluate_metrics_serverapp"]["loss"] for rows in (plain, noisy)]
    assert losses[0] == pytest.approx(plain[1]["evaluate_metrics_serverapp"]["loss"])
    assert losses[1] > losses[0]
    assert plain[1]["counts"]["received"] == plain[1]["counts"]["expected"] > 0
    assert plain[2]["counts"]["message_type"] == "query.activation"


def test_a_kept_training_is_not_repeated_and_gives_the_same_bits(tiny, tmp_path, monkeypatch):
    kept = changed(cache=str(tmp_path / "cache"))
    first = local(kept, tmp_path / "first")
    assert first.digests == tiny.digests

    def start(*args, **kwargs):
        raise AssertionError("trained again")

    monkeypatch.setattr("fl_privacy.strategies.split.strategy.SplitLearning.configure_train", start)
    assert local(kept, tmp_path / "second").digests == tiny.digests
    with pytest.raises(AssertionError, match="trained again"):
        local(dataclasses.replace(kept, seed=1), tmp_path / "third")


def test_the_reported_accuracy_is_that_of_the_saved_model(tiny):
    model = federation().model()
    model.load_state_dict(weights(tiny, 0))
    hits, _ = accuracy(model, *evaluated(federation()))
    row = next(row for row in tiny.summary if row["defence"] == TINY.condition_labels[0])
    assert row["model_accuracy"] == pytest.approx(hits)


def test_the_adversary_gets_the_segment_whose_activations_it_sees(seen):
    plain = seen[Key(0, 1, 1)]
    private, _ = targets(federation(), 1)
    assert torch.allclose(plain.query(private), plain.payload["activation"], atol=1e-6)
    assert not torch.equal(targets(federation(), 0)[0], private)
    assert torch.equal(plain.public.inputs, federation().public().inputs)
    assert not plain.spec.training_mode


def test_every_query_shows_the_same_input_under_fresh_noise(seen):
    def released(condition, query):
        return seen[Key(condition, query, 0)].payload["activation"]

    assert torch.equal(released(0, 1), released(0, 2))
    first, second = (released(1, query) - released(0, 1) for query in (1, 2))
    assert first.std() == pytest.approx(0.5 * 2**0.5, rel=0.1)
    assert abs(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1]) < 0.1


def test_repeats_of_one_input_are_attacked_together_and_scored_once(tiny, seen):
    for attack in TINY.resolved.attacks:
        assert sum(row["attack"] == attack for row in tiny.samples) == 4 * 64
    todo = {(job.label, job.keys[0].condition): job for job in jobs(TINY, KIND, seen, lambda attack, condition: attack)}
    assert {key.round for key in todo["decoder", 1].keys} == {1}
    assert {(key.condition, key.round, key.client) for key in todo["averaging", 1].keys} == {
        (1, query, client) for query in (1, 2) for client in (0, 1)
    }
    assert {path.stem.split("_")[1] for path in (tiny.folder / "reconstructions" / "averaging").iterdir()} == {"r1"}


def test_the_decoder_that_ignores_defences_is_fitted_once_a_training(seen):
    todo = jobs(TINY, KIND, seen, lambda attack, condition: attack)
    published = [{key.condition for key in job.keys} for job in todo if job.label == "decoder_as_published"]
    assert published == [{0, 1}, {2, 3}]
    assert [{key.condition for key in job.keys} for job in todo if job.label == "decoder"] == [{0}, {1}, {2}, {3}]


def test_distance_correlations_come_with_their_floors(tiny):
    rows = {row["defence"]: row for row in tiny.summary if row["attack"] == "decoder"}
    plain, noisy = (rows[TINY.condition_labels[condition]] for condition in (0, 1))
    assert plain["model_dcor"] == noisy["model_dcor"] == plain["model_dcor_released"]
    assert noisy["model_dcor_released"] < plain["model_dcor_released"]
    assert (plain["model_dcor_n"], plain["model_dcor_batches"]) == (50, 2)
    for name in ("model_dcor", "model_dcor_euclidean", "model_dcor_released_u", "dcor_guess"):
        assert -0.1 < plain[f"{name}_floor"] < plain[name] <= 1
    assert abs(plain["model_dcor_u_floor"]) < 0.1
    assert plain["model_dcor_euclidean_floor"] > 0.3


def test_the_reader_is_the_evaluators_own(tiny):
    images, _ = evaluator_holdout(federation())
    assert len(images) == 360
    public = {**DIGITS, "split": "test", "first": 10, "count": 50}
    assert len(evaluator_holdout(federation(reconfigure(TINY, public=public)))[0]) == 310
    controls = {row["attack"]: row for row in tiny.summary if row["attack"].startswith("control")}
    assert controls["control: random guess"]["class_recognised"] < 0.35
    assert all(0 <= row["class_recognised"] <= 1 for row in tiny.summary)


@pytest.mark.parametrize(
    ("settings", "model", "defence"),
    [
        ({}, False, True),
        ({"white_box": True}, True, True),
        ({"adversary": "server"}, True, False),
        ({"adversary": "data owner"}, False, True),
    ],
)
def test_each_party_holds_what_is_its_own(tiny, settings, model, defence):
    experiment = changed(**settings)
    held = observed(federation(experiment), tiny.folder)[Key(1, 1, 0)]
    assert (held.model is not None, held.defence is not None) == (model, defence)
    assert held.query is not None
    assert ("model" in KIND.adversary.knowledge(experiment, 0)) == model


def test_an_attack_may_need_what_only_the_arms_it_is_kept_to_hold():
    variants = ({"label": "owner"}, {"label": "thief", "adversary": "server"})
    white_box = {"name": "rmle", "iterations": 2}
    experiment = reconfigure(
        TINY,
        variants=variants,
        attacks=(
            DECODER,
            {**white_box, "conditions": ["thief"]},
        ),
    )
    assert {
        experiment.condition_labels[i].split(";")[0]
        for i in range(len(experiment.condition_labels))
        if experiment.concerns("rmle", i)
    } == {"thief"}
    with pytest.raises(ValueError, match=r"rmle' needs the observation's model; the adversary holds .* in 'owner"):
        reconfigure(TINY, variants=variants, attacks=(DECODER, white_box))


def test_another_adversary_attacks_the_saved_run_with_images_of_its_own(tiny):
    own = 'public={name="glyphs", size=8, train_images=40, test_images=1}'
    again = attack_again(tiny.folder, attack="decoder_as_published", changes=[own], note=quiet)
    assert again.experiment.public["name"] == "glyphs"
    before = tiny.digests["reconstructions"]["decoder_as_published/1_r1_c0"]
    assert again.digests["reconstructions"]["decoder_as_published/1_r1_c0"] != before
    with pytest.raises(ValueError, match="include the targets"):
        attack_again(tiny.folder, changes=["public.count=101"])


def test_every_column_is_on_some_page_that_names_the_others(tiny, monkeypatch):
    assert [path.stem for path in tiny.figures] == [*(f"reconstructions{n}" for n in ("", "_2", "_3")), "tradeoff"]
    drawn = []
    monkeypatch.setattr(figures, "draw", lambda path, title, columns, note: drawn.append((path.stem, title, note)))
    redraw(federation(), tiny.folder, tiny.folder)
    assert [stem for stem, _, _ in drawn] == ["reconstructions", "reconstructions_2", "reconstructions_3"]
    assert all(f"page {number} of 3" in " ".join(title.split()) for number, (_, title, _) in enumerate(drawn, start=1))
    for _, _, note in drawn:
        assert "All 12 columns: reconstructions.png to reconstructions_3.png." in " ".join(note.split())
    redraw(federation(), tiny.folder, tiny.folder)


@pytest.mark.parametrize(("attacks", "defences"), [(1, 1), (1, 39), (14, 2), (2, 8), (3, 5), (6, 1), (7, 1)])
def test_pages_deal_every_column_once_and_evenly(attacks, defences):
    keys = [(f"attack {a}", f"defence {d}") for a in range(attacks) for d in range(defences)]
    made = gallery.pages(keys)
    assert sorted(key for page in made for key in page) == sorted(keys)
    assert all(1 <= len(page) <= gallery.MOST for page in made)
    for page in made:
        assert len({attack for attack, _ in page}) == 1 or len({defence for _, defence in page}) == 1


def test_the_server_alone_trains_on_while_the_segment_stays(tmp_path):
    variants = ({"label": "fixed", "server_epochs": 0}, {"label": "on", "server_epochs": 2})
    experiment = reconfigure(
        TINY, attacks=(DECODER,), training_defences=([],), inference_defences=([NOISE],), variants=variants
    )
    result = local(experiment, tmp_path / "on")
    assert trainings(experiment) == {0: [0, 1]}
    before, after = weights(result, 0), weights(result, "1_retrained")
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert moved == {"head.weight", "head.bias"}
    fixed, on = (condition["rounds"] for condition in result.conditions)
    assert [row["round"] for row in on] == [0, 1, 2, 3, 4]
    assert on[-1]["evaluate_metrics_serverapp"]["loss"] < fixed[-1]["evaluate_metrics_serverapp"]["loss"]


def test_u_shaped_and_parallel_clients_give_the_same_by_messages(tmp_path):
    short = reconfigure(
        TINY, attacks=(DECODER,), training_defences=([NOPEEK, NOISE],), inference_defences=(), train_images=(0, 80)
    )
    shared = {"cut": ["conv1", "flatten"], "labels": "client", "parallel": True, "together": 2, "shuffle": True}
    one, other = (local(changed(short, link=link, **shared), tmp_path / link) for link in ("local", "messages"))
    assert one.digests == other.digests
    assert one.digests["payloads"].keys() == {f"0_r{query}_c{client}" for query in (1, 2) for client in (0, 1)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"protocol": {**PROTOCOL, "queries": 1}}, "averages 2 releases of one input, and 'protocol.queries' is 1"),
        ({"protocol": {**PROTOCOL, "targets": [1]}}, "'targets' takes a first image and an end"),
        ({"protocol": {**PROTOCOL, "cut": ["conv1", "conv2"]}}, "two cuts need labels='client'"),
        ({"protocol": {**PROTOCOL, "adversary": "mallory"}}, "'server and data owner', 'server', 'data owner'"),
        ({"protocol": {**PROTOCOL, "preset": "as-published"}}, "--set learning_rate=0.0001 --set batch_size=128"),
        ({"variants": [{"label": "x", "targets": [0, 64]}]}, "a variant cannot change 'targets'"),
        ({"variants": [{"label": "x", "dcor_rows": 32}]}, "a variant cannot change 'dcor_rows'"),
        ({"protocol": {**PROTOCOL, "dcor_rows": 3}}, "'dcor_rows' must be at least 4"),
        ({"rounds": 2, "attacked_rounds": (2,)}, "the inference rounds are attacked"),
        ({"attacks": [{"name": "rmle"}]}, "needs the observation's model"),
        ({"public": {}}, "needs the observation's public"),
        ({"min_replies": 2}, "'min_replies' has no meaning on the activation channel"),
        ({"attacks": [{**DECODER, "steps": 0}]}, "steps must be at least 1"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_starts(change, words):
    with pytest.raises(ValueError, match=words):
        reconfigure(TINY, **change)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"public": {**DIGITS, "first": 200, "count": 101}}, "include the targets"),
        ({"public": {**DIGITS, "split": "test"}}, "all of the test images"),
        ({"protocol": {**PROTOCOL, "targets": [1400, 1500]}}, "has 1437 to train with"),
        ({"protocol": {**PROTOCOL, "evaluated": [0, 400]}}, "has 360 test images"),
        ({"protocol": {**PROTOCOL, "cut": ["fc1"]}}, "the model's stages are conv1"),
        ({"attacks": [{**DECODER, "public_images": 101}]}, "public_images is 101, and the adversary has 100 images"),
        ({"attacks": [{"name": "autoencoder_as_published"}]}, "reads maps .* of at least 4 pixels a side"),
    ],
)
def test_images_and_cuts_are_checked_before_the_clients_start(change, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        plan(reconfigure(TINY, **change), out=tmp_path / "x", backend="local")


def test_the_shipped_experiments_of_titcombe_are_theirs():
    of_ours = {"titcombe_untold"}  # their network in a shorter training; its file says that it is not in the paper
    names = [name for name, _ in ALL if name.startswith("titcombe") and name not in of_ours]
    assert len(names) >= 10
    for name in names:
        experiment = load_experiment(name)
        assert experiment.resolved.protocol.preset == "as-published"
        assert experiment.rounds == TITCOMBE["as-published"].epochs
        assert experiment.train_images == (0, 40_000)
        assert experiment.resolved.protocol.targets[0] == 45_000
    with pytest.raises(ValueError, match=r"needs --set learning_rate=0\.001 --set batch_size=32"):
        load_experiment("titcombe_table1/b00", ["protocol.preset=paper"])


def test_an_attack_on_a_later_arm_of_a_training_is_checked_too(tmp_path):
    attack = {"name": "autoencoder_as_published", "conditions": [TINY.condition_labels[3]]}
    with pytest.raises(ValueError, match="pixels a side"):
        plan(reconfigure(TINY, attacks=(DECODER, attack)), out=tmp_path / "x", backend="local")


def test_clients_that_take_turns_at_once_need_a_worker_each(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ValueError, match=r"lets 2 clients .* there are 1\. Ask for --workers 2"):
        plan(changed(parallel=True, together=3), out=tmp_path / "x", backend="ray", workers=1)
    plan(changed(parallel=True, together=3), out=tmp_path / "y", backend="ray", workers=2)


def test_a_training_that_no_client_finishes_is_an_error_with_the_cause(tmp_path, monkeypatch):
    def torn(federation, condition, client, round, step):
        raise OSError("the images are gone")

    checked = plan(TINY, out=tmp_path / "torn", backend="local")
    monkeypatch.setattr(split_federation, "mini_batch", torn)
    with pytest.raises(RuntimeError, match=r"no client finished a turn under 'none.*the images are gone"):
        execute(checked, quiet)


def test_messages_that_were_lost_are_told(tmp_path, monkeypatch):
    whole = split_federation.mini_batch

    def torn(federation, condition, client, round, step):
        if client == 1 and step == 1:
            raise OSError("the images are gone")
        return whole(federation, condition, client, round, step)

    monkeypatch.setattr(split_federation, "mini_batch", torn)
    summarise_reasons = []
    simulate(TINY, out=tmp_path / "torn", backend="local", note=summarise_reasons.append)
    assert any("brought no valid reply" in line and "the images are gone" in line for line in summarise_reasons)


@pytest.mark.ray
def test_ray_and_this_process_give_the_same_bits(tmp_path):
    short = reconfigure(TINY, attacks=(DECODER, PUBLISHED), train_images=(0, 80), rounds=2)
    here = local(short, tmp_path / "here")
    there = simulate(short, out=tmp_path / "there", backend="ray", workers=2, note=quiet)
    assert there.digests == here.digests
    assert there.summary == here.summary
