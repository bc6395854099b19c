"""The tables of what split training itself gives away: labels, and images to a server that steers."""

from benchmarks.table_parts import Row, cells, markdown, rows

RESULTS = "split_training"
READ = {
    "accuracy": ("accuracy", "{:.1%}"),
    "labels by direction, one known a class": ("by_direction", "{:.1%}"),
    "by groups, none known": ("by_group", "{:.1%}"),
    "the same, labels shuffled": ("by_group_chance", "{:.1%}"),
    "most frequent": ("most_frequent", "{:.1%}"),
    "by norm (AUROC)": ("by_norm_auroc", "{:.2f}"),
}
STEERED = {
    "accuracy": ("accuracy", "{:.1%}"),
    "PSNR": ("psnr", "{:.1f}"),
    "mean image": ("mean_image", "{:.1f}"),
    "agreement of one label, first 20": ("first", "{:.2f}"),
    "last 20": ("last", "{:.2f}"),
}


def split_labels() -> str:
    """Labels read from the gradients that come back, by task, noise and epoch."""
    keys = ("task", "noise", "epoch")
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in rows(RESULTS):
        if row["part"] == "labels":
            groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    body = [[*map(str, key), str(len(mine)), *cells(mine, READ)] for key, mine in groups.items()]
    return markdown([*keys, "seeds", *READ], body)


def split_hijack() -> str:
    """What a steering server rebuilds, and whether its client can tell."""
    found = rows(RESULTS)
    servers = dict.fromkeys(row["server"] for row in found if row["part"] == "hijack")
    told = {row["server"]: f"{row['auroc']:.2f}" for row in found if row["part"] == "detection"}
    body = []
    for server in servers:
        mine = [
            {**row, "first": row["agreements"][0], "last": row["agreements"][-1]}
            for row in found
            if row["part"] == "hijack" and row["server"] == server
        ]
        seeds = ", ".join(f"{row['psnr']:.1f}" for row in mine if "psnr" in row)
        body.append([server, str(len(mine)), *cells(mine, STEERED), seeds, told.get(server, "")])
    return markdown(["server", "seeds", *STEERED, "PSNR by seed", "told from honest (AUROC)"], body)
