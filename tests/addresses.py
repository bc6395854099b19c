"""Every experiment that is shipped: the address and the profile that make it."""

from fl_privacy.simulations.config.files import cells, profiles, shipped

ALL = [
    ("/".join(filter(None, (name, cell))), profile)
    for name, path in shipped().items()
    for cell in cells(path) or [""]
    for profile in profiles(path) or [None]
]
