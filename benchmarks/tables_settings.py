"""The tables of settings: every field of the dataclasses that an experiment is made of."""

import ast
import dataclasses
import inspect
import textwrap

from benchmarks.table_parts import markdown
from fl_privacy.simulations.channels import CHANNELS
from fl_privacy.simulations.experiment.spec import Experiment


def experiment() -> str:
    return settings(Experiment)


def protocols() -> str:
    """One table a channel, in one text; channels without settings say so."""
    parts = []
    for name, channel in CHANNELS.items():
        known = dataclasses.fields(channel.protocol)
        parts.append(f"### {name}\n\n" + (settings(channel.protocol) if known else "No settings of its own."))
    return "\n\n".join(parts)


def settings(kind: type) -> str:
    """One line a field: its name, its type, its default, and the sentence that stands beneath it in the source."""
    told = described(kind)
    body = []
    for field in dataclasses.fields(kind):
        default = "" if field.default is dataclasses.MISSING else repr(field.default)
        if field.default_factory is not dataclasses.MISSING:
            default = repr(field.default_factory())
        shown = str(field.type).replace("|", "or")
        body.append([f"`{field.name}`", shown, f"`{default}`" if default else "", told[field.name]])
    return markdown(["setting", "type", "default", "what it says"], body)


def described(kind: type) -> dict[str, str]:
    """The text beneath each field of a dataclass.

    Raises:
        KeyError: a field has none.
    """
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(node, ast.ClassDef)
    found = {}
    for field, text in zip(node.body, node.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            if not (isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)):
                raise KeyError(f"{kind.__name__}.{field.target.id} has no sentence beneath it")
            found[field.target.id] = " ".join(str(text.value.value).split())
    return found
