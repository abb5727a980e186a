"""Whether a decoder goes onto a part: every reason why not, each with what would help. Needs no tool."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from greenedge.backends.decoder.engine import LANES, Engine, describe
from greenedge.backends.decoder.resources import BLOCK_BITS, count_blocks, estimate
from greenedge.decoder.record import Decoder
from greenedge.errors import Reason, ReasonKind
from greenedge.hdl.board_shell import SHELL_COST
from greenedge.target import Device, list_targets, load_target

QUANTISED_BITS = (4,)  # narrower weights that `greenedge quantise` makes
_LOGIC_SHARE = 0.8  # above it nextpnr finds a way slowly, or not at all
_BANKS = 40  # of a memory, as ge_decoder_rom
_MOST_DIM = 1024
_LEAST_CONTEXT = 16  # a shorter one is no cure


def check(decoder: Decoder, device: Device, lanes: int = LANES) -> tuple[Reason, ...]:
    """Every reason why the engine with so many lanes cannot run this decoder on the device; none where it can."""
    engine = describe(decoder, lanes)
    reasons = tuple(_list_shape_reasons(decoder, engine))
    if device.family != "ecp5":
        kind = ReasonKind.UNSUPPORTED_TARGET
        where = ", ".join(name for name, _ in _list_parts())
        return (
            *reasons,
            Reason("decoder", kind, f"family {device.family}", "the engine is made for ECP5", f"take {where}"),
        )
    return reasons or tuple(_list_size_reasons(engine, device))


def _list_shape_reasons(decoder: Decoder, engine: Engine) -> Iterator[Reason]:
    """What the engine cannot do on any part."""
    shape = ReasonKind.UNSUPPORTED_SHAPE
    if decoder.norm_form != "table":
        yield Reason(
            "decoder",
            ReasonKind.UNSUPPORTED_MODE,
            f"norm_form {decoder.norm_form!r}",
            "the engine looks roots up and divides for attention alone",
            'norm_form "table", trained or scored in that form',
        )
    if engine.head_dim < 2 or engine.head_dim & (engine.head_dim - 1):
        rule, cure = "a head is a power of two of lanes", "a width of 8, 16 or 32 times the heads"
        yield Reason("decoder", shape, f"heads of {engine.head_dim} elements", rule, cure)
    if not 2 * min(4, engine.head_dim) <= engine.dim <= _MOST_DIM:
        rule = f"a norm takes 8 to {_MOST_DIM} elements (4 where a head has 2): its sum of squares has 40 bits"
        yield Reason("decoder", shape, f"a width of {engine.dim}", rule, f"a width of at most {_MOST_DIM}")
    if engine.lanes < max(4, engine.head_dim) or engine.lanes & (engine.lanes - 1):
        rule = f"lanes are a power of two, at least {max(4, engine.head_dim)}: all of a head are multiplied at once"
        yield Reason("decoder", shape, f"{engine.lanes} lanes", rule, f"{max(4, LANES, engine.head_dim)} lanes")
    for name, words, bank in (
        ("weights", engine.weight_rows, 2048),
        ("embedding", engine.vocabulary * engine.dim, 16384),
        ("multipliers", engine.layers * engine.rows, 1024),
        ("angles", engine.context * engine.head_dim // 2, 1024),
    ):
        if words > _BANKS * bank:
            rule = f"that memory has at most {_BANKS * bank:,}"
            yield Reason(name, ReasonKind.TOO_BIG, f"{words:,} words", rule, "more lanes, or a smaller model")


def _list_size_reasons(engine: Engine, device: Device) -> Iterator[Reason]:
    """What does not fit the part. The counts are estimates."""
    cost, blocks = estimate(engine), count_blocks(engine)
    limit = _count_free_blocks(device)
    if cost.blocks > limit:
        largest = sorted(blocks.items(), key=lambda item: -item[1])[:3]
        parts = ", ".join(f"{name} {count}" for name, count in largest)
        value = f"about {cost.blocks} block RAMs ({parts})"
        yield Reason(
            "decoder", ReasonKind.TOO_BIG, value, f"{device.name} has {limit} for it", _find_cures(engine, limit)
        )
    if cost.multipliers > (dsp := device.resources.get("dsp", 0)):
        yield Reason(
            "decoder",
            ReasonKind.TOO_BIG,
            f"{cost.multipliers} multipliers of 18 bits",
            f"{device.name} has {dsp}",
            f"{engine.lanes // 2} lanes, or a larger part",
        )
    logic = int(_LOGIC_SHARE * device.resources.get("lut4", 0)) - SHELL_COST["ecp5"][0]
    if cost.logic > logic:
        rule = f"{device.name} has room for {logic:,}"
        yield Reason(
            "decoder", ReasonKind.TOO_BIG, f"about {cost.logic:,} look-up tables", rule, f"{engine.lanes // 2} lanes"
        )


def _count_free_blocks(device: Device) -> int:
    return device.resources.get("bram_bits", 0) // BLOCK_BITS - SHELL_COST["ecp5"][1]


def _find_cures(engine: Engine, limit: int) -> str:
    """Fewer bits, a shorter context, or both, with which the blocks suffice, and the parts that have enough."""

    def fits(**changes: int) -> bool:
        return sum(count_blocks(replace(engine, **changes)).values()) <= limit

    fewer = [n for n in QUANTISED_BITS if n < engine.weight_bits]
    bits = [n for n in fewer if fits(weight_bits=n)]
    contexts, context = [], engine.context
    while (context := context // 2) >= _LEAST_CONTEXT:
        contexts.append(context)
    short = [n for n in contexts if fits(context=n)]
    both = [(b, n) for b in fewer for n in contexts if fits(weight_bits=b, context=n)]
    larger = [
        name for name, device in _list_parts() if sum(count_blocks(engine).values()) <= _count_free_blocks(device)
    ]
    cures = [f"{bits[0]}-bit weights (`greenedge quantise … --bits {bits[0]}`)"] if bits else []
    cures += [f"a context of {short[0]} (`--context {short[0]}`)"] if short else []
    if not cures and both:
        cures.append(
            f"{both[0][0]}-bit weights and a context of {both[0][1]} (`--bits {both[0][0]} --context {both[0][1]}`)"
        )
    cures += larger
    return ", or ".join(cures) or "a smaller model: no part that greenedge knows holds this one"


def _list_parts() -> list[tuple[str, Device]]:
    """[(target, device)] of the boards that the engine can be made for."""
    found = [(name, load_target(name).device) for name in list_targets()]
    return [(name, device) for name, device in found if device.family == "ecp5"]
