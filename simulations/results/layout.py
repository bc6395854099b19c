"""How the files and folders of a run are called: known before torch is imported."""

CONFIG, ROUNDS, RESULTS, SAMPLES = "config.json", "rounds.json", "results.json", "samples.jsonl"
AUDIT, AUDIT_BEGUN, PAGE, ROWS = "audit.json", "audit_begun.json", "report.html", "report.csv"
SWEEP = "sweep.json"
OBSERVATIONS, GUESSES, FIGURES, ORIGINALS = "observations", "reconstructions", "figures", "originals"
CHECKPOINTS, UNFINISHED = "checkpoints", "unfinished"
