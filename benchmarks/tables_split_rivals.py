"""The tables of split learning's rivals, and of activations that were stored in early rounds."""

from benchmarks.table_parts import Row, cells, markdown, rows

RIVALS = {
    "accuracy": ("model_accuracy", "{:.1%}"),
    "PSNR": ("psnr", "{:.1f}"),
    "SSIM": ("ssim", "{:.3f}"),
    "class read": ("class_recognised", "{:.1%}"),
}
ROUNDS = {"accuracy": ("accuracy", "{:.1%}"), "PSNR": ("psnr", "{:.1f}")}


def split_rivals() -> str:
    """Shredder and attacker-aware training beside plain noise: one line a data set, condition and attack."""
    found: dict[tuple[str, ...], list[Row]] = {}
    measured = [row for name in ("split_rivals", "split_rivals_stronger", "split_rivals_mnist") for row in rows(name)]
    for row in measured:
        data, rival = row["cell"].split("/")
        blind = row["attack"].startswith("control")
        if not blind or rival == "noise":  # all cells have the same controls
            condition = "" if blind else row["defence"]
            found.setdefault((data, condition.removeprefix("serving "), row["attack"]), []).append(row)
    body = [[*key, str(len(mine)), *cells(mine, RIVALS)] for key, mine in sorted(found.items(), key=_order)]
    originals = {(row["cell"].split("/")[0], row["seed"]): row.get("class_recognised_originals") for row in measured}
    for data in dict.fromkeys(data for data, _ in originals):
        read: list[Row] = [{"class_recognised": value} for (name, _), value in originals.items() if name == data]
        body.append([data, "", "the private images themselves", str(len(read)), *cells(read, RIVALS)])
    return markdown(["data", "condition", "attack", "seeds", *RIVALS], body)


def _order(item: tuple[tuple[str, ...], list[Row]]) -> tuple[object, ...]:
    """By data set, then as measured, the controls last."""
    (data, condition, _), _ = item
    return data, not condition


def split_rounds() -> str:
    """What the activations of each stored round give away, by defence and attack."""
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in rows("split_rounds"):
        found.setdefault((row["defence"], row["attack"], row["round"]), []).append(row)
    ordered = sorted(found.items(), key=lambda item: (not item[0][0], item[0][0], item[0][1]))
    body = [[*key, str(len(mine)), *cells(mine, ROUNDS)] for key, mine in ordered]
    return markdown(["defence in training", "attack", "round", "seeds", *ROUNDS], body)


def split_ablation() -> str:
    """What each thing that an attacker knows is worth, by what is served; the controls last."""
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in rows("split_ablation"):
        known = "yes" if row.get("labels") else ""
        told = (row["attack"], row.get("prior", ""), row.get("own", ""), known, row.get("noise", ""))
        told = told if row["served"] != "none" else (*told[:-1], "")
        found.setdefault((row["served"], *told), []).append(row)
    ordered = sorted(found.items(), key=lambda item: (not item[0][0], item[0][0] != "none"))
    body = [[*key, str(len(mine)), *cells(mine, {"PSNR": ROUNDS["PSNR"]})] for key, mine in ordered]
    return markdown(["served", "attack", "prior", "own images", "labels told", "noise", "seeds", "PSNR"], body)
