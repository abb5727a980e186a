"""Names that a model under construction has not given yet."""

from __future__ import annotations


def take_name(base: str, taken: set[str]) -> str:
    """`base`, or with a number behind it, which is not in `taken`; it is then."""
    name, count = base, 1
    while name in taken:
        count += 1
        name = f"{base}_{count}"
    taken.add(name)
    return name
