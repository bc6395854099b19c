"""Rewrite the tables of docs/ from the files in results/ and the settings; with --check, fail if they differ.

    python -m benchmarks.tables [--check]

A table stands between `<!-- table: NAME -->` and `<!-- end -->`.
"""

import argparse
import re
import sys
from collections.abc import Callable
from functools import partial

from benchmarks import (
    tables_activation,
    tables_defences,
    tables_gradient,
    tables_grnn,
    tables_learned,
    tables_output,
    tables_own,
    tables_scaling,
    tables_settings,
    tables_split_rivals,
    tables_split_training,
)
from benchmarks.table_parts import ROOT

PAGES = ROOT / "docs"
TABLES: dict[str, Callable[[], str]] = {
    "grnn_quality": tables_gradient.grnn_quality,
    "attack_speed": tables_gradient.attack_speed,
    "gradient_noise": tables_gradient.gradient_noise,
    "gradient_defences": tables_defences.gradient_defences,
    "secure_sums": tables_defences.secure_sums,
    "size_as_defence": tables_defences.size_as_defence,
    "learned_quality": tables_learned.learned_quality,
    "batch_statistics": tables_learned.batch_statistics,
    "what_leaks": tables_learned.what_leaks,
    "what_leaks_trained": tables_learned.what_leaks_trained,
    "map_quality": tables_gradient.map_quality,
    "exact_attacks": tables_gradient.exact_attacks,
    "label_counts": tables_gradient.label_counts,
    "local_training": tables_gradient.local_training,
    "batches": tables_gradient.batches,
    "batches_curve": tables_gradient.batches_curve,
    **{name: partial(tables_grnn.grnn, name) for name in tables_grnn.COLUMNS},
    "titcombe": tables_activation.titcombe,
    "averaging": tables_activation.averaging,
    "averaging_short": tables_activation.averaging_short,
    "titcombe_grid": tables_activation.titcombe_grid,
    "titcombe_grid_short": tables_activation.titcombe_grid_short,
    "titcombe_noise": tables_activation.titcombe_noise,
    "titcombe_n128": tables_activation.titcombe_n128,
    "titcombe_attacks": tables_activation.titcombe_attacks,
    "titcombe_foreign": tables_activation.titcombe_foreign,
    "titcombe_parties": tables_activation.titcombe_parties,
    "titcombe_retrained": tables_activation.titcombe_retrained,
    "nopeek": tables_activation.nopeek,
    "nopeek_weights": tables_activation.nopeek_weights,
    "nopeek_stolen": tables_activation.nopeek_stolen,
    "attributes": tables_activation.attributes,
    "nopeek_testbed": tables_activation.nopeek_testbed,
    "noise_scales": tables_activation.noise_scales,
    "noise_scales_short": tables_activation.noise_scales_short,
    "split_labels": tables_split_training.split_labels,
    "split_hijack": tables_split_training.split_hijack,
    "split_rivals": tables_split_rivals.split_rivals,
    "split_ablation": tables_split_rivals.split_ablation,
    "split_rounds": tables_split_rivals.split_rounds,
    "nopeek_noise": tables_activation.nopeek_noise,
    "local_dp": tables_activation.local_dp,
    "split_budget": tables_activation.split_budget,
    "split_untold": tables_activation.split_untold,
    "split_speed": tables_activation.split_speed,
    "detection": tables_output.detection,
    "detection_roc": tables_output.detection_roc,
    "detection_first": tables_output.detection_first,
    "vicious_heads": tables_output.vicious_heads,
    "vicious_logarithms": tables_output.vicious_logarithms,
    "vicious": tables_output.vicious,
    "vicious_ratios": tables_output.vicious_ratios,
    "vicious_ratios_short": tables_output.vicious_ratios_short,
    "vicious_answers": tables_output.vicious_answers,
    "vicious_answers_short": tables_output.vicious_answers_short,
    "vicious_losses": tables_output.vicious_losses,
    "vicious_attributes": tables_output.vicious_attributes,
    "vicious_tasks": tables_output.vicious_tasks,
    "vicious_adaptive": tables_output.vicious_adaptive,
    "viciousness": tables_output.viciousness,
    "joint_speed": tables_output.joint_speed,
    "which_defence": tables_own.which_defence,
    "own_app": tables_own.own_app,
    "scorecard": tables_scaling.scorecard,
    "scorecard_totals": tables_scaling.scorecard_totals,
    "planning_units": tables_scaling.planning_units,
    "planning": tables_scaling.planning,
    "throughput": tables_scaling.throughput,
    "settings_experiment": tables_settings.experiment,
    "settings_protocols": tables_settings.protocols,
}


def filled(text: str) -> str:
    """The page with every table made anew."""

    def table(match: re.Match[str]) -> str:
        return f"<!-- table: {match[1]} -->\n{TABLES[match[1]]()}\n<!-- end -->"

    return re.sub(r"<!-- table: (\w+) -->\n.*?<!-- end -->", table, text, flags=re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    for page in sorted(PAGES.rglob("*.md")):
        text = page.read_text()
        if not check:
            page.write_text(filled(text))
        elif filled(text) != text:
            sys.exit(f"{page}: its tables are not those of results/: run python -m benchmarks.tables")


if __name__ == "__main__":
    main()
