"""The scorecard: 28 things that may go wrong in a simulation, which tests show what happens then, and how they ended.

    python -m benchmarks.reliability                                  # which test checks what
    python -m benchmarks.reliability --run --out results/reliability.json
    python -m benchmarks.reliability --run --checks 3,4,9,10          # some of them; other rows are kept
    python -m benchmarks.reliability --plain                          # the same faults on plain Flower, as a column

A check without a test is a miss, and says so. `note` tells what a test leaves out, `recovery_s` how long it took from a
kill to the end of the run, where a test says so, `skipped` how many of its tests this machine could not run.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.plain_flower import outcomes
from benchmarks.record import options, write
from fl_privacy.simulations.results.provenance import provenance


@dataclass(frozen=True)
class Check:
    """One thing that may go wrong: its number, what has to happen, the tests of it, what they leave out."""

    number: int
    wanted: str
    tests: tuple[str, ...] = ()
    note: str = ""


RAY, RUN, RESUME, GUARD = "test_ray_backend.py::", "test_run.py::", "test_resume.py::", "test_guard.py::"
ANY_WRITE = f"{RESUME}test_killed_in_any_write_a_run_goes_on_to_the_bits_of_one_that_was_not"
CHECKS = (
    Check(
        1,
        "a killed worker costs at most one client-round",
        (f"{RAY}test_a_killed_worker_costs_at_most_one_client_round",),
    ),
    Check(
        2,
        "a client that raises or exits is named, others go on; if all fail, the run fails",
        (
            f"{RUN}test_a_client_that_fails_is_counted_and_the_others_go_on",
            f"{RUN}test_a_run_in_which_every_client_fails_says_why",
            "test_local.py::test_a_client_that_exits_becomes_an_error_reply_and_its_state_is_as_before",
        ),
    ),
    Check(
        3,
        "malformed replies are rejected by name",
        (f"{GUARD}test_each_fault_is_rejected_by_its_own_name_and_costs_only_its_sender",),
    ),
    Check(
        4,
        "random records never crash the guard",
        (
            f"{GUARD}test_random_records_never_crash_the_guard_and_what_passes_is_finite_and_as_asked",
            f"{GUARD}test_a_flipped_byte_never_crashes_the_guard",
        ),
    ),
    Check(
        5,
        "a hanging client ends at the deadline",
        (f"{RAY}test_a_hanging_client_is_counted_at_the_deadline_and_its_worker_freed",),
    ),
    Check(6, "every message is counted once", ("test_messages.py::test_every_message_is_counted_exactly_once",)),
    Check(
        7,
        "too few replies: round skipped, model kept",
        ("test_messages.py::test_a_round_with_too_few_valid_replies_is_skipped_and_the_model_kept",),
    ),
    Check(
        8,
        "SIGKILL of the driver, --resume: the bits of an uninterrupted run",
        (
            ANY_WRITE,
            f"{RESUME}test_what_is_done_is_not_done_again",
            f"{RESUME}test_an_attack_on_a_saved_run_goes_on_too",
            f"{RESUME}test_a_process_that_is_killed_in_the_rounds_or_in_the_attack_loses_nothing",
            "test_sweep.py::test_killed_and_started_again_it_gives_the_same_bits",
            "test_resume_channels.py",
        ),
        "all four channels; attacks without a long loop of their own begin a call anew, as an audit does",
    ),
    Check(
        9,
        "a kill while saving leaves a checkpoint that loads",
        (f"{RESUME}test_killed_while_it_saves_a_process_leaves_a_whole_checkpoint", ANY_WRITE),
    ),
    Check(
        10,
        "damaged checkpoints are named errors",
        (
            f"{RESUME}test_a_checkpoint_with_any_byte_changed_is_refused_by_its_name_or_the_same",
            f"{RESUME}test_a_checkpoint_that_was_cut_is_refused",
            f"{RESUME}test_a_safetensors_file_of_somebody_else_is_no_checkpoint",
        ),
    ),
    Check(
        11,
        "no pickle is ever executed",
        ("test_imports.py::test_nothing_unpickles_or_evaluates", "test_audit.py::test_a_pickle_is_not_executed"),
    ),
    Check(
        12,
        "same seed, same bits: again, 1 and 2 workers, partial participation",
        (
            f"{RUN}test_the_same_seed_gives_the_same_digests_and_another_does_not",
            f"{RUN}test_ray_with_one_and_two_workers_and_this_process_give_the_same_digests",
            f"{RAY}test_ray_and_this_process_release_the_same_bits",
        ),
    ),
    Check(
        13,
        "another seed, other bits",
        (
            f"{RUN}test_the_same_seed_gives_the_same_digests_and_another_does_not",
            "test_partition.py::test_a_partition_is_a_function_of_its_seed",
        ),
    ),
    Check(
        14,
        "clients' random streams differ",
        ("test_seeding.py::test_other_names_other_draws", "test_seeding.py::test_names_do_not_run_together"),
    ),
    Check(15, "noise follows its law", ("test_defences.py::test_noise_follows_its_law",)),
    Check(16, "epsilon equals dp-accounting's", ("test_accounting.py",)),
    Check(
        17,
        "a claimed epsilon is not beaten by an audit",
        ("test_accounting.py::test_an_audit_catches_half_the_noise",),
    ),
    Check(
        18,
        "clips bound the norm; neutral settings change nothing",
        (
            "test_defences.py::test_clip_bounds_the_norm_and_keeps_the_direction",
            "test_defences.py::test_neutral_settings_change_nothing_bit_for_bit",
        ),
    ),
    Check(
        19,
        "no private original in a run folder",
        (f"{RUN}test_no_private_image_is_written_unless_asked", "test_private_pixels.py"),
        "tensors, pictures, pages and numbers, by SSIM; a picture in which an image lies upside down is not known",
    ),
    Check(
        20,
        "defences do what they say",
        (
            "test_aggregation.py::test_the_mean_is_weighted_and_keeps_the_type",
            "test_defences.py::test_pruning_keeps_exactly_the_largest_of_each_tensor",
            "test_defences.py::test_quantisation_is_unbiased_and_on_its_grid",
            "test_distance_correlation.py::test_equals_an_independent_implementation_to_1e_9",
        ),
    ),
    Check(
        21,
        "the attacked gradient is the client's, and attacks beat the blind guess",
        (
            f"{RUN}test_the_payload_is_the_gradient_that_a_bare_loop_computes",
            "test_attacks.py::test_noise_on_the_gradient_stops_it",
        ),
    ),
    Check(
        22,
        "out of memory: less at once, same results",
        (
            "test_pool.py::test_calls_that_run_out_of_memory_are_made_again_fewer_at_a_time",
            "test_pool.py::test_one_that_runs_out_alone_says_what_to_do",
            "test_pool.py::test_a_client_that_runs_out_of_memory_is_asked_again_and_one_that_does_alone_is_lost_by_name",
        ),
        "with a stub; an attack call that fails alone too ends the run, which can be resumed",
    ),
    Check(23, "memory does not grow with rounds, nothing is spilled", ("test_memory.py",)),
    Check(
        24,
        "nothing is left after the end, Ctrl-C, SIGTERM, SIGKILL and next start",
        ("test_leftovers.py",),
        "ports are those of the processes",
    ),
    Check(
        25,
        "a folder that cannot be written stops before round 1; a full disk costs nothing that was finished",
        (
            "test_storage.py::test_a_run_folder_is_never_overwritten",
            "test_storage.py::test_a_write_that_fails_leaves_the_old_file_and_nothing_else",
            "test_full_disk.py",
        ),
    ),
    Check(
        26,
        "bad settings are named before anything starts",
        (
            "test_experiment.py::test_any_change_is_accepted_or_refused_with_a_reason",
            "test_names.py::test_wicked_names_stay_inside",
            "test_early.py::test_the_command_answers_before_anything_heavy_is_imported",
        ),
    ),
    Check(
        27,
        "no network",
        ("test_cli.py::test_telemetry_is_off_in_every_process_that_runs_something", "test_offline.py"),
    ),
    Check(
        28,
        "a cluster: same bits, dead nodes and addresses, a node that lacks code or data",
        ("test_ray_address.py", "test_ray_cluster.py"),
        "two nodes on one machine",
    ),
)
UNTESTED = "not tested"
RECOVERY = re.compile(r"recovery: (.+): ([0-9.]+) s")
"""How a test says how long something took."""
MEASURED, PLAIN = ("recovery_s", "skipped", "commit"), ("plain", "plain_why")


def run(check: Check) -> dict[str, object]:
    """What became of a check's tests: passed, failed, or not tested; how many were skipped; what recoveries took."""
    if not check.tests:
        return {"result": UNTESTED}
    names = [f"tests/{name}" for name in check.tests]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "not install", "-s", *names]
    done = subprocess.run(command, capture_output=True, text=True)
    counts = {what: int(count) for count, what in re.findall(r"(\d+) (passed|failed|skipped|error)", done.stdout)}
    passed = not done.returncode and "passed" in counts
    return {
        "result": "passed" if passed else "failed",
        "skipped": counts.get("skipped", 0),
        "recovery_s": {what: float(seconds) for what, seconds in RECOVERY.findall(done.stdout)},
        "commit": provenance()["commit"],
    }


def row_of(check: Check, last: Mapping[str, object]) -> dict[str, object]:
    """A check's row as the file has it, with today's words; a result of other tests than today's says nothing."""
    same = last.get("tests") == list(check.tests)
    return {
        "check": check.number,
        "wanted": check.wanted,
        "result": last.get("result") if same else "not run" if check.tests else UNTESTED,
        "tests": list(check.tests),
        "note": check.note,
        **{key: last[key] for key in (*MEASURED, *PLAIN) if key in last and (same or key in PLAIN)},
    }


def table(rows: Sequence[dict[str, object]]) -> str:
    """The scorecard in Markdown."""
    lines = ["| # | what has to happen | result | tests | left out | plain Flower |", "| --- " * 6 + "|"]
    for row in rows:
        tests = row["tests"]
        assert isinstance(tests, list)
        plain = row.get("plain", "not run")
        lines.append(f"| {row['check']} | {row['wanted']} | {row['result']} | {len(tests)} | {row['note']} | {plain} |")
    passed, plainly = (sum(row.get(key) == "passed" for row in rows) for key in ("result", "plain"))
    return "\n".join([*lines, "", f"{passed} of {len(rows)} passed; plain Flower {plainly}."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--run", action="store_true", help="Run the tests; else they are listed.")
    parser.add_argument("--plain", action="store_true", help="Do the same to plain Flower.")
    parser.add_argument("--checks", help="Some of the numbers, such as 3,4,9.")
    parser.add_argument("--out", type=Path, default=Path("results/reliability.json"))
    chosen = parser.parse_args()
    wanted = {int(each) for each in chosen.checks.split(",")} if chosen.checks else {each.number for each in CHECKS}
    known = {row["check"]: row for row in json.loads(chosen.out.read_text())["rows"]} if chosen.out.exists() else {}
    rows = {check.number: row_of(check, known.get(check.number, {})) for check in CHECKS}

    def keep(number: int, found: Mapping[str, object]) -> None:
        rows[number] |= found
        write(chosen.out, list(rows.values()), settings=options(chosen), seeds=[0])

    for check in CHECKS if chosen.run else ():
        if check.number in wanted:
            keep(check.number, run(check))
            print(f"{check.number}: {rows[check.number]['result']}", flush=True)
    if chosen.plain:
        for number, (result, why) in outcomes(wanted):
            keep(number, {"plain": result, "plain_why": why})
            print(f"plain Flower, {number}: {result}: {why}", flush=True)
    print(table(list(rows.values())))


if __name__ == "__main__":
    main()
