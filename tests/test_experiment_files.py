"""Experiment files: what lies under what in base, profiles and matrix, and what is said of an address that is none."""

import hashlib
import json
import re
from pathlib import Path

import pytest

from fl_privacy.settings import UnknownName
from fl_privacy.simulations.config.files import cells, merged, profiles, read
from fl_privacy.simulations.config.load import load_experiment
from fl_privacy.simulations.experiment.spec import Experiment

FILES = {
    "ground.toml": """
        name = "named"
        seed = 1
        rounds = 1
        clients = 20
        protocol = { cut = 1, cache = "here" }
        default_profile = "cpu"
        [profile.cpu]
        model = { name = "small", width = 4 }
        [profile.full]
        model = { name = "large" }
        clients = 30
        [matrix.dataset.digits]
        dataset = { name = "digits" }
        [matrix.dataset.faces]
        rounds = 3
        clients = 40
        dataset = { name = "faces", size = 32 }
        [matrix.dataset.faces.profile.full]
        model = { mean = 0.5 }
        """,
    "over.toml": """
        base = "ground.toml"
        seed = 2
        model = { width = 8 }
        protocol = { cut = 2 }
        [profile.full]
        clients = 50
        """,
    "cell.toml": 'base = "ground.toml/faces"\nseed = 3\n',
    "grid.toml": """
        [matrix.dataset.digits]
        seed = 1
        [matrix.dataset.faces]
        seed = 2
        [matrix.noise.low]
        rounds = 3
        [matrix.noise.high]
        rounds = 4
        seed = 5
        """,
}


@pytest.fixture
def folder(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def settings(folder, address, profile=None):
    return read(str(folder / address), profile).settings


def test_the_cell_lies_over_the_file_each_with_its_profile(folder):
    cpu, full = settings(folder, "ground.toml/faces"), settings(folder, "ground.toml/faces", "full")
    assert (cpu["rounds"], cpu["clients"], cpu["model"]) == (3, 40, {"name": "small", "width": 4})
    assert (full["rounds"], full["clients"], full["model"]) == (3, 40, {"name": "large", "mean": 0.5})
    assert full["dataset"] == {"name": "faces", "size": 32}
    assert not {"profile", "default_profile", "matrix", "base"} & full.keys()


def test_a_file_has_the_settings_and_profiles_of_its_base_but_not_its_name_or_matrix(folder):
    cpu, full = settings(folder, "over.toml"), settings(folder, "over.toml", "full")
    assert (cpu["name"], full["name"]) == ("over", "over_full")
    assert (cpu["seed"], cpu["clients"], full["clients"]) == (2, 20, 50)
    assert cpu["model"] == {"name": "small", "width": 8}, "the file lies over the base's profile"
    assert cpu["protocol"] == {"cut": 2, "cache": "here"}
    assert "dataset" not in cpu


def test_a_base_may_be_one_cell_with_its_profiles(folder):
    made = settings(folder, "cell.toml", "full")
    assert (made["seed"], made["rounds"], made["clients"]) == (3, 3, 40)
    assert made["model"] == {"name": "large", "mean": 0.5}
    assert settings(folder, "cell.toml")["clients"] == 40


def test_an_address_has_a_value_of_every_axis_and_the_later_axis_lies_above(folder):
    assert cells(folder / "grid.toml") == ["digits/low", "digits/high", "faces/low", "faces/high"]
    assert [settings(folder, f"grid.toml/{cell}")["seed"] for cell in cells(folder / "grid.toml")] == [1, 5, 2, 5]
    assert settings(folder, "grid.toml/faces/low")["name"] == "grid_faces_low"


def test_the_default_profile_comes_first(folder):
    (folder / "late.toml").write_text('default_profile = "z"\n[profile.a]\n[profile.z]\nseed = 1\n')
    assert profiles(folder / "late.toml") == ["z", "a"]
    assert settings(folder, "late.toml")["seed"] == 1
    assert [settings(folder, "late.toml", name)["name"] for name in ("z", "a")] == ["late", "late_a"]


@pytest.mark.parametrize(
    ("under", "over", "made"),
    [
        ({"model": {"name": "a", "x": 1}}, {"model": {"name": "b"}}, {"model": {"name": "b"}}),
        ({"model": {"name": "a", "x": 1}}, {"model": {"name": "a", "y": 2}}, {"model": {"name": "a", "x": 1, "y": 2}}),
        ({"model": {"x": 1}}, {"model": {"name": "a"}}, {"model": {"name": "a", "x": 1}}),
        ({"attack": "a"}, {"attacks": ["b", "c"]}, {"attacks": ["b", "c"]}),
        ({"attacks": ["b", "c"]}, {"attack": "a"}, {"attack": "a"}),
        ({"rounds": [1, 2]}, {"rounds": [3]}, {"rounds": [3]}),
        ({"public": {"name": "a"}}, {"public": {}}, {"public": {}}),
    ],
)
def test_tables_are_changed_key_by_key_and_all_else_is_replaced(under, over, made):
    before = repr(under)
    assert merged(under, over) == made
    assert repr(under) == before


@pytest.mark.parametrize(
    ("address", "profile", "words"),
    [
        ("grid.toml", None, "grid is several experiments, by dataset and noise: choose one of grid/digits/low, "),
        ("grid.toml/digits", None, "none is 'digits': choose one of grid/digits/low, grid/digits/high, grid/faces"),
        ("grid.toml/digits/lo", None, "none is 'digits/lo': choose"),
        ("over.toml/digits", None, "over is one experiment and has no 'digits': leave that away"),
        ("over.toml", "ful", "no profile of over is called 'ful'. Did you mean 'full'"),
        ("grid.toml/digits/low", "full", "no profile of grid is called 'full'. Known: none"),
        ("none.toml", None, "no experiment is called .*Or give the path of a TOML file"),
    ],
)
def test_an_address_that_is_none_is_told_those_that_are(folder, address, profile, words):
    with pytest.raises(UnknownName, match=words):
        read(str(folder / address), profile)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('base = "x.toml"', "stands on itself"),
        ('base = "y.toml"', "stands on itself"),
        ("base = 3", "'base' takes the address of one other experiment, not 3"),
        ("profile = 3", "profiles and cells are tables"),
        ("[profile]\nfull = 3", "profiles and cells are tables"),
        ("[matrix]\ndataset = ['mnist']", "profiles and cells are tables"),
        ("[matrix.dataset.mnist]\nprofile = 3", "profiles and cells are tables"),
        ("[matrix.dataset]\nmnist = 3", "profiles and cells are tables"),
        ('[matrix.dataset."a/b"]', "named by letters, digits, '_' and '-', not 'a/b'"),
        ("[profile.full]", "'default_profile' says which of full is chosen"),
        ('default_profile = "ful"\n[profile.full]', "'default_profile' says which of full is chosen"),
    ],
)
def test_a_file_that_is_put_together_wrongly_is_named(tmp_path, text, words):
    (tmp_path / "x.toml").write_text(text)
    (tmp_path / "y.toml").write_text('base = "x.toml"')
    with pytest.raises(ValueError, match=f"{re.escape(str(tmp_path))}.*{words}"):
        read(str(tmp_path / "x.toml"))


def test_a_shipped_experiment_can_be_the_base_and_changes_lie_above_everything(tmp_path):
    (tmp_path / "mine.toml").write_text('base = "quickstart"\nrounds = 2\ndataset = { size = 16 }\n')
    mine, theirs = load_experiment(str(tmp_path / "mine.toml"), ["rounds=3"]), load_experiment("quickstart")
    assert (mine.name, mine.rounds, mine.dataset) == ("mine", 3, {"name": "digits", "size": 16})
    assert (mine.attacks, mine.training_defences) == (theirs.attacks, theirs.training_defences)


def test_each_address_makes_what_its_own_file_once_said():
    """Hashes of the settings of the 49 files that these were; whoever changes an experiment records its hash anew."""
    default = json.loads(Experiment(name="x").to_json())
    for line, recorded in json.loads((Path(__file__).parent / "experiments.json").read_text()).items():
        address, _, profile = line.partition(" ")
        made = json.loads(load_experiment(address, profile=profile).to_json())
        said = {key: v for key, v in made.items() if key not in ("name", "published") and v != default[key]}
        assert hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16] == recorded, line
