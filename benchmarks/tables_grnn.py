"""The tables of GRNN's paper as experiments: labels, Table 3, noise, iterations, faces, resolution."""

from benchmarks.table_parts import Row, cells, line, markdown, record, rows

COLUMNS: dict[str, dict[str, tuple[str, str]]] = {
    "grnn_labels": {"labels": ("label_accuracy", "{:.0%}")},
    "grnn_table3": {
        "PSNR": ("psnr", "{:.1f}"),
        "SSIM >= .6": ("success_ssim", "{:.0%}"),
        "PSNR >= 20": ("success_psnr", "{:.0%}"),
        "either, or marked": ("success_rate", "{:.0%}"),
        "labels": ("label_accuracy", "{:.0%}"),
    },
    "grnn_noise": {
        "PSNR": ("psnr", "{:.1f}"),
        "SSIM >= .6": ("success_ssim", "{:.0%}"),
        "PSNR >= 20": ("success_psnr", "{:.0%}"),
    },
    "grnn_iterations": {"PSNR": ("psnr", "{:.1f}"), "SSIM": ("ssim", "{:.2f}")},
    "grnn_faces": {
        "PSNR": ("psnr", "{:.1f}"),
        "rank 1": ("face_rank_1", "{:.0%}"),
        "rank 5": ("face_rank_5", "{:.0%}"),
        "of the originals": ("face_rank_1_originals", "{:.0%}"),
    },
    "grnn_resolution": {"PSNR": ("psnr", "{:.1f}"), "SSIM": ("ssim", "{:.2f}")},
}
MORE = {"grnn_table3": ("grnn_table3_b8", "grnn_table3_lfw", "grnn_table3_resnet")}
"""Files with further cells of an experiment."""


def grnn(name: str) -> str:
    """One line a cell, condition and attack: means over the images of all seeds, the lowest and highest seed behind."""
    columns, groups = COLUMNS[name], dict[tuple[str, str, str], list[Row]]()
    files = (name, *MORE.get(name, ()))
    published = [row for file in files for row in record(file)["published"]]
    for row in rows(*files):
        blind = row["attack"].startswith("control")
        where = row.get("cell", ""), "" if blind else row["defence"], row["attack"]
        groups.setdefault(where, []).append(row)
    body = []
    for (cell, defence, attack), mine in groups.items():
        label = [cell, defence, attack, f"{sum(row['images'] for row in mine)}, {len(mine)}"]
        body += line(label, cells(mine, columns))
        for row in published:
            if (row.get("cell", ""), row["defence"], row["attack"]) == (cell, defence, attack):
                body += line([cell, f"*{defence}*", f"*{attack}, published*", ""], cells([row], columns))
    return markdown(["cell", "defence", "attack", "images, seeds", *columns], body)
