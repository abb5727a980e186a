"""The program beside a build that writes text without greenedge: client.py and its tokenizer."""

from __future__ import annotations

import re
from pathlib import Path

from greenedge.decoder.record import Decoder
from greenedge.decoder.tokenizer import Tokenizer, pack_tokenizer

_TEMPLATE = Path(__file__).with_name("client.py.in")


def write_client(decoder: Decoder, tokenizer: Tokenizer, target: str, model: str, baud: int) -> dict[str, bytes]:
    """{file: content}. `model` is the sha256 that the board holds, hexadecimal; with a rate of 0 baud the client runs
    the program `chat` beside it instead of asking a board."""
    values = {
        "usage": "PORT " if baud else "",
        "short": model[:12],
        "digest": model,
        "target": target,
        "context": decoder.context,
        "unit": decoder.temperature_unit,
        "baud": baud,
        "special": f"{tokenizer.begin}, {tokenizer.end}, {tokenizer.unknown}",
    }
    text = re.sub(r"@(\w+)@", lambda found: str(values[found[1]]), _TEMPLATE.read_text())
    return {"client.py": text.encode(), "tokenizer.llama2c": pack_tokenizer(tokenizer)}
