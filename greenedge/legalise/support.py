"""What becomes of every operation on every back end, from the rules and passes themselves: the table of the
documentation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from greenedge.graph import OPS, Op
from greenedge.legalise.passes import Passes
from greenedge.legalise.rules import Rules

if TYPE_CHECKING:
    from greenedge.backends.interface import Backend

_HEAD = """# What each back end takes

Made from the rules themselves (`GOLDEN=1 make test TESTFLAGS=tests/legalise`). *Lowered*: a rule of the back end
builds it, or refuses an instance of it by name. *Legalised*: a pass that comes before has turned it into other
operations. *Refused*: every instance, in one sentence with a cure.

"""


def describe_support(rules: Rules[Any], passes: Passes, kind: type[Op]) -> str:
    """'lowered', 'legalised' or 'refused'."""
    if any(kind in one.removes for one in passes):
        return "legalised"
    return "lowered" if kind in rules else "refused"


def support_table(backends: Mapping[str, Backend]) -> str:
    """The matrix, what each back end's passes are, and the limits that are data, as Markdown."""
    lines = [f"| operation | {' | '.join(backends)} |", f"|---|{'---|' * len(backends)}"]
    for name, kind in OPS.items():
        words = [describe_support(one.rules, one.passes, kind) for one in backends.values()]
        lines.append(f"| {name} | {' | '.join(words)} |")
    lines += ["", "## Passes before the rules", ""]
    lines += [f"- **{name}**: {', '.join(p.name for p in one.passes) or 'none'}" for name, one in backends.items()]
    lines += ["", "## Limits", ""]
    lines += [
        f"- **{name}**: at most {one.rules.ends} ({one.rules.ends.rule})"
        for name, one in backends.items()
        if str(one.rules.ends)
    ]
    for name, one in backends.items():
        kinds: dict[str, list[str]] = {}
        for kind, limits in one.rules.supported.items():
            for limit in limits:
                kinds.setdefault(f"{limit} ({limit.rule})", []).append(kind.__name__)
        lines += [f"- **{name}**: {text}: {', '.join(names)}" for text, names in kinds.items()]
    return _HEAD + "\n".join(lines) + "\n"
