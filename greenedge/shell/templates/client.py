"""python client.py PORT X.npy: the integers of X, (samples, @in_shape@), through model @digest@.
Made by greenedge for @target@; needs pyserial and numpy. One line of integers per sample. Safe on a noisy line."""
import random, re, struct, sys, time
import numpy as np, serial

IN, OUT = (@in_bits@, @in_elements@, @in_beats@, @in_shape@), (@out_bits@, @out_elements@, @out_beats@, @out_shape@)
MODEL, SIGNED, OFFSET = bytes.fromhex("@digest@"), @out_signed@, @out_offset@

def pack(x):  # channels last, element 0 in the low bits, every beat padded to whole bytes
    bits, elements, beats, _ = IN
    flat = (np.moveaxis(x, 0, -1) if x.ndim > 1 else x).reshape(beats, elements, 1)
    return np.packbits(((flat.astype(int) >> np.arange(bits)) & 1).reshape(beats, -1).astype(np.uint8), 1, "little").tobytes()

def unpack(data):
    bits, elements, beats, shape = OUT
    raw = np.unpackbits(np.frombuffer(data, np.uint8).reshape(beats, -1), axis=1, bitorder="little")[:, :elements * bits]
    weights = 2 ** np.arange(bits) * np.where(np.arange(bits) == bits - 1, -1 if SIGNED else 1, 1)
    y = (raw.reshape(-1, bits).astype(int) @ weights).reshape(*shape[1:], shape[0]) + np.array(OFFSET or 0)
    return np.moveaxis(y, -1, 0) if y.ndim > 1 else y

def crc(poly, data, value=0xFFFF):
    for bit in np.unpackbits(np.frombuffer(data, np.uint8)): value = (value << 1 ^ (poly if (value >> 15) ^ bit else 0)) & 0xFFFF
    return value

def ask(port, kind, payload):  # send until the answer with this number comes; a board that was reset answers 0xFF 1
    for seq in random.sample(range(65536), 20):
        body = struct.pack("<BHH", kind, seq, len(payload)) + payload
        checked = body + struct.pack("<HH", crc(0x1021, body), crc(0x8BB7, body))
        port.write(b"~" + re.sub(b"[\x7c-\x7f]", lambda m: bytes((0x7D, m[0][0] ^ 32)), checked) + b"~")
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            part = re.sub(b"\x7d(.)", lambda m: bytes((m[1][0] ^ 32,)), port.read_until(b"~").rstrip(b"~").replace(b"\x7c", b""), flags=re.S)
            if len(part) > 8 and struct.pack("<HH", crc(0x1021, part[:-4]), crc(0x8BB7, part[:-4])) == part[-4:] \
                    and struct.unpack_from("<H", part, 1)[0] == seq: return part[0], part[5:-4]
    sys.exit("the board does not answer")

with serial.Serial(sys.argv[1], @baud@, timeout=0.2) as port:
    ask(port, 1, random.randbytes(4))
    if ask(port, 4, bytes((8, 8)))[1] != MODEL: sys.exit("the board holds another model")
    for x in np.load(sys.argv[2]):
        while (answer := ask(port, 2, pack(x)))[0] != 0x82: ask(port, 1, random.randbytes(4))
        print(*unpack(answer[1]).ravel())
