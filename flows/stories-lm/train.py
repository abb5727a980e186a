"""Trains a small language model on stories that grammar.py writes; nothing is downloaded.

    python flows/stories-lm/train.py OUT.bin TOK.bin [--steps 1500] [--stories 20000] [--dim 64] [--layers 5] ...

OUT.bin is a checkpoint of llama2.c's version 1, TOK.bin its tokenizer; `greenedge quantise OUT.bin --data-free
--tokenizer TOK.bin -o OUT.npz` goes on from there. The sizes are those of stories260K where not said otherwise.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from greenedge.decoder.float_model import Sizes
from greenedge.decoder.learn_pieces import learn_pieces
from greenedge.decoder.tokenizer import Tokenizer, write_tokenizer
from greenedge.frontends.llama2c import write_llama2c
from greenedge.train.decoder.pretrain import train_decoder

sys.path.insert(0, str(Path(__file__).parent))
from grammar import write_story  # noqa: E402

LEARNT_FROM = 2000  # stories that the tokenizer is learnt from


def cut_texts(tokenizer: Tokenizer, stories: list[str], length: int) -> torch.Tensor:
    """(count, length): stories one behind the other, each behind the token that begins a text."""
    stream = [token for story in stories for token in tokenizer.encode(story)]
    return torch.tensor(stream[: len(stream) // length * length]).reshape(-1, length)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("tokenizer", type=Path)
    defaults = {"steps": 1500, "stories": 20000, "seed": 0, "length": 128}
    defaults |= {"dim": 64, "hidden": 172, "layers": 5, "heads": 8, "kv-heads": 4, "vocabulary": 512, "context": 256}
    for name, value in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    sizes = Sizes(
        options.dim,
        options.hidden,
        options.layers,
        options.heads,
        options.kv_heads,
        options.vocabulary,
        options.context,
    )
    sizes.check("the model asked for")
    torch.set_num_threads(1)
    stories = [write_story(number) for number in range(options.stories)]
    tokenizer = learn_pieces(" ".join(stories[:LEARNT_FROM]), options.vocabulary)
    texts = cut_texts(tokenizer, stories, min(options.length, options.context))

    def show(done: int, total: int, text: str) -> None:
        if done % max(1, total // 10) == 0:
            print(text, flush=True)

    model = train_decoder(sizes, texts, options.steps, options.seed, progress=show)
    write_tokenizer(options.tokenizer, tokenizer)
    write_llama2c(options.model, model)
    print(f"{options.model} and {options.tokenizer}: go on with `greenedge quantise {options.model} --data-free`")


if __name__ == "__main__":
    main()
