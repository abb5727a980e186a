"""On the board: the integers of X.npy, (samples, @in_shape@), through model @digest@. Made by greenedge for @target@.

    python3 driver.py X.npy [-o Y.npy]            beside greenedge.bit and greenedge.hwh; needs the board's PYNQ image
    python3 driver.py --selftest                  the golden samples of golden.npz, every output integer
"""
import argparse, pathlib, sys, time
import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
IN, OUT, SIGNED = (@in_bits@, @in_elements@, @in_beats@), (@out_bits@, @out_elements@, @out_beats@), @out_signed@
IN_ORDER, OUT_ORDER = np.array(@in_order@), np.array(@out_order@)  # row-major index of the k-th integer of a stream
IN_SHAPE, OUT_SHAPE, OFFSET, BATCH = @in_shape@, @out_shape@, np.array(@out_offset@), 256


def pack(x):  # one beat in each 32-bit word, element 0 in the low bits
    bits, elements, beats = IN
    values = x.reshape(len(x), -1)[:, IN_ORDER].astype(np.int64).reshape(len(x), beats, elements) & (1 << bits) - 1
    return (values << bits * np.arange(elements)).sum(-1).astype(np.uint32).reshape(-1)


def unpack(words, samples):
    bits, elements, beats = OUT
    values = (words.astype(np.int64).reshape(samples, beats, 1) >> bits * np.arange(elements)) & (1 << bits) - 1
    values = (values - (values >> bits - 1 << bits) if SIGNED else values).reshape(samples, -1) + OFFSET
    y = np.empty_like(values)
    y[:, OUT_ORDER] = values
    return y.reshape(samples, *OUT_SHAPE)


def run(x):
    from pynq import Overlay, allocate

    if x.shape[1:] != IN_SHAPE or x.dtype.kind not in "iu":
        sys.exit(f"the input must be integers of shape (samples, {', '.join(map(str, IN_SHAPE))})")
    dma, results, seconds = Overlay(str(HERE / "greenedge.bit")).dma, [], 0.0
    for part in np.split(x, range(BATCH, len(x), BATCH)):
        source, result = allocate(len(part) * IN[2], np.uint32), allocate(len(part) * OUT[2], np.uint32)
        source[:] = pack(part)
        began = time.perf_counter()
        dma.recvchannel.transfer(result)
        dma.sendchannel.transfer(source)
        dma.sendchannel.wait()
        dma.recvchannel.wait()
        seconds += time.perf_counter() - began
        results.append(unpack(np.array(result), len(part)))
        source.freebuffer(), result.freebuffer()
    print(f"{len(x)} samples in {seconds:.6f} s, transfers included", file=sys.stderr)
    return np.concatenate(results)


options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
options.add_argument("inputs", nargs="?"), options.add_argument("-o", "--out"), options.add_argument("--selftest", action="store_true")
asked = options.parse_args()
if asked.selftest:
    with np.load(HERE / "golden.npz", allow_pickle=False) as golden:
        y, expected = run(golden["x"]), golden["y"]
    print(f"{y.size} output integers, {int((y != expected).sum())} differ")
    sys.exit(int((y != expected).any()))
y = run(np.load(asked.inputs, allow_pickle=False))
np.save(asked.out, y) if asked.out else print(*(" ".join(map(str, row.ravel())) for row in y), sep="\n")
