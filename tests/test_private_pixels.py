"""No private image is in a run's folder, in any form that could be looked at, unless the run was asked to keep it."""

from __future__ import annotations

import torch
from pictures import images_in
from test_run import TINY, local, private_images, tiny  # noqa: F401

from fl_privacy.metrics import ssim

ALIKE = 0.999
FORMS = {".safetensors", ".png", ".html"}


def leaks(folder, private):
    """Where images lie that are a private one, and how many were looked at, by kind of file."""
    found, looked = set(), dict[str, int]()
    for place, image in images_in(folder, tuple(private.shape[1:])):
        kind = f".{place.rpartition('.')[2]}"
        looked[kind] = looked.get(kind, 0) + 1
        if image.isfinite().all() and image.min() >= -0.01 and image.max() <= 1.01:
            alike = ssim(image.expand_as(private).contiguous(), private)
            if float(alike.max()) >= ALIKE:
                found.add(place)
    return found, looked


def test_no_picture_page_or_tensor_of_a_run_shows_a_private_image_unless_asked(tiny, tmp_path):  # noqa: F811
    private = private_images(TINY)
    tiny.to_html(tiny.folder / "report.html")
    found, looked = leaks(tiny.folder, private)
    assert not found
    assert set(looked) >= FORMS, looked
    assert looked[".png"] > 8
    assert looked[".html"] > 8
    kept = local(TINY, tmp_path / "kept", keep_originals=True)
    kept.to_html(kept.folder / "report.html")
    found, _ = leaks(kept.folder, private)
    assert {f".{place.rpartition('.')[2]}" for place in found} == FORMS, "what looks for them finds them"


def test_numbers_in_a_text_are_looked_at_too(tmp_path):
    private = private_images(TINY)
    (tmp_path / "results.json").write_text(f'{{"rows": [{{"pixels": {private[3].tolist()}}}]}}')
    found, _ = leaks(tmp_path, private)
    assert found == {"results.json"}
    assert torch.equal(next(images_in(tmp_path, (1, 16, 16)))[1], private[3])
