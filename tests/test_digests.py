"""The bits of small runs of every channel, as recorded: a move or a renaming must leave each of them as it was.

`python tests/test_digests.py` records them anew, which only a change that is meant to change bits may do.
"""

import hashlib
import json
import platform
import tempfile
from pathlib import Path

import pytest
import torch

from fl_privacy.defences import DEFENCES
from fl_privacy.simulations.config.load import load_experiment
from fl_privacy.simulations.run.again import attack_again
from fl_privacy.simulations.run.pipeline import simulate

CPU = Path("/proc/cpuinfo")
RECORDED = Path(__file__).parent / "digests.json"
SHORT = {
    "quickstart": ["attack=grnn", "public={}", "train_images=[]", "attack.iterations=5", "rounds=2"],
    "split_quickstart": ["rounds=1", "attack.steps=10"],
    "vicious_quickstart": ["protocol.epochs=1", "attacks=[{name='vicious'}, {name='output_decoder', steps=10}]"],
}
SETTINGS = {
    "arg_max": "",
    "clip": "norm=0.5",
    "gaussian_noise": "scale=0.1",
    "laplace_noise": "scale=0.1",
    "nopeek": "weight=1.0",
    "rounding": "decimals=1",
    "softmax": "",
    "temperature": "temperature=2.0",
    "top_k": "k=3",
    "truncation": "decimals=1",
    "uniform_noise": "scale=0.1",
}
OUTPUTS = frozenset(name for name in DEFENCES if DEFENCES.facts(name).get("outputs_only"))


def every_defence(names):
    chains = [f"[{{name='{name}'{', ' * bool(SETTINGS[name])}{SETTINGS[name]}}}]" for name in sorted(names)]
    return f"training_defences=[[], {', '.join(chains)}]"


CASES = {name: (name, changes) for name, changes in SHORT.items()} | {
    "gradient, every defence": ("quickstart", [*SHORT["quickstart"], every_defence(SETTINGS.keys() - OUTPUTS)]),
    "update, every defence": (
        "quickstart",
        [*SHORT["quickstart"], "channel=update", every_defence(SETTINGS.keys() - OUTPUTS)],
    ),
    "activation, every defence": (
        "split_quickstart",
        [*SHORT["split_quickstart"], "train_images=[0, 128]", every_defence(SETTINGS.keys() - OUTPUTS)],
    ),
    "output, every defence": (
        "vicious_quickstart",
        [
            *SHORT["vicious_quickstart"],
            "protocol.images=200",
            "protocol.cache=CACHE",
            every_defence(SETTINGS.keys() - {"nopeek"}),
        ],
    ),
}


def machine():
    """What decides the last bits beside the code: kernels are chosen by the processor, MKL's by its maker too."""
    lines = CPU.read_text().splitlines() if CPU.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    kernels = torch.backends.cpu.get_cpu_capability()
    return {"torch": torch.__version__, "processor": kernels, "name": names[0] if names else platform.processor()}


def digests(folder, case):
    """One hash for what was released and one for what was rebuilt, in a run and in a reattack on it."""
    name, changes = CASES[case]
    changes = [text.replace("CACHE", str(folder / "cache")) for text in changes]
    first = simulate(load_experiment(name, changes), out=folder / "run", backend="local", note=lambda text: None)
    found = {"run": first.digests}
    if name == "quickstart" and case == name:
        other = attack_again(folder / "run", attack="grnn_as_published", changes=["attack.iterations=4"], note=str)
        found["reattack"] = other.digests
    return {
        f"{run} {kind}": hashlib.sha256(json.dumps(both[kind], sort_keys=True).encode()).hexdigest()
        for run, both in found.items()
        for kind in ("payloads", "reconstructions")
    }


@pytest.mark.parametrize("case", CASES)
def test_small_runs_keep_their_bits(tmp_path, case):
    wanted = [each["digests"] for each in json.loads(RECORDED.read_text()) if each["machine"] == machine()]
    if not wanted:
        pytest.skip(f"nothing is recorded of {machine()}: another kernel has other last bits")
    assert digests(tmp_path, case) == wanted[0][case]


def record():
    """Add this machine, or record it anew: where its bits are others than before, those of other machines go."""
    with tempfile.TemporaryDirectory() as folder:
        made = {case: digests(Path(folder) / str(index), case) for index, case in enumerate(CASES)}
    recorded = json.loads(RECORDED.read_text())
    others = [each for each in recorded if each["machine"] != machine()]
    before = [each["digests"] for each in recorded if each["machine"] == machine()]
    kept = others if before in ([], [made]) else []
    RECORDED.write_text(json.dumps([*kept, {"machine": machine(), "digests": made}], indent=2) + "\n")


if __name__ == "__main__":
    record()
