"""Writes broken_gif.txt: damaged GIFs and what Pillow makes of them.

    python make_broken_gif.py OUT [COUNT]

A line of OUT is "seed NAME HEX", or "case NAME EDITS VERDICT". EDITS are joined
by commas: AT:HH is a byte changed, ^N a cut to N bytes, +N:HH are N bytes HH
appended, AT-N are N bytes taken out, AT+HH.. bytes put in. VERDICT is "refused"
or mode, width, height and the first 16 digits of the SHA-256 of the pixels as RGB.
"""
import hashlib, io, random, struct, sys, warnings

import PIL
from PIL import Image

warnings.simplefilter("ignore")
rng = random.Random(15)


def lzw(bits, pixels, clears=()):
    """GIF's codes for pixels, the table emptied before the pixels in clears."""
    clear = 1 << bits
    out, acc, n = bytearray(), 0, 0

    def put(code, size):
        nonlocal acc, n
        acc |= code << n
        n += size
        while n >= 8:
            out.append(acc & 255)
            acc >>= 8
            n -= 8

    table, size = {}, bits + 1
    put(clear, size)
    word = ()
    for i, p in enumerate(pixels):
        if i in clears and word:
            put(table.get(word, word[0]), size)
            put(clear, size)
            table, size, word = {}, bits + 1, ()
        longer = word + (p,)
        if len(longer) == 1 or longer in table:
            word = longer
            continue
        put(table.get(word, word[0]) if len(word) > 1 else word[0], size)
        code = clear + 2 + len(table)
        if code < 4096:
            table[longer] = code
            if code == 1 << size and size < 12:
                size += 1
        word = (p,)
    put(table[word] if len(word) > 1 else word[0], size)
    put(clear + 1, size)
    if n:
        out.append(acc & 255)
    return bytes(out)


def blocks(data, most=255):
    return b"".join(bytes([len(data[i:i + most])]) + data[i:i + most] for i in range(0, len(data), most)) + b"\0"


def gif(screen, frame, bits, pixels, palette=None, local=None, interlaced=False, before=b"", most=255, clears=(), codes=None):
    def table(p):
        return 0x80 | (len(p) // 3).bit_length() - 2 if p else 0

    x, y, w, h = frame
    out = b"GIF89a" + struct.pack("<HHBBB", *screen, table(palette), 1, 0) + (palette or b"") + before
    out += b"," + struct.pack("<HHHHB", x, y, w, h, table(local) | (0x40 if interlaced else 0)) + (local or b"")
    return out + bytes([bits]) + blocks(codes if codes is not None else lzw(bits, pixels, clears), most) + b";"


def noise(n, top):
    return [rng.randrange(top) for _ in range(n)]


def runs(n, top):
    out = []
    while len(out) < n:
        out += [rng.randrange(top)] * rng.randrange(1, 30)
    return out[:n]


def colours(n):
    return bytes(rng.randrange(256) for _ in range(3 * n))


grey4 = bytes(v for i in range(4) for v in (i, i, i))
control = b"!\xf9\x04" + bytes([1, 5, 0, 2]) + b"\0"
netscape = b"!\xff\x0bNETSCAPE2.0\x03\x01\0\0\0"
comment = b"!\xfe\x05hello\x02ab\0"

seeds = {
    "palette": gif((13, 9), (0, 0, 13, 9), 4, noise(117, 16), colours(16)),
    "runs": gif((32, 20), (0, 0, 32, 20), 4, runs(640, 16), colours(16), most=60),
    "interlaced": gif((11, 17), (0, 0, 11, 17), 3, noise(187, 8), colours(8), interlaced=True),
    "low": gif((9, 3), (0, 0, 9, 3), 2, noise(27, 4), colours(4), interlaced=True),
    "offset": gif((20, 15), (3, 4, 10, 8), 3, runs(80, 8), colours(8), before=control),
    "outside": gif((8, 8), (5, 6, 9, 7), 3, runs(63, 8), colours(8), before=control + comment),
    "grey": gif((10, 10), (0, 0, 10, 10), 2, noise(100, 4), grey4),
    "local grey": gif((10, 6), (0, 0, 10, 6), 2, noise(60, 4), colours(4), local=grey4),
    "local": gif((10, 6), (0, 0, 10, 6), 3, noise(60, 8), grey4, local=colours(8), before=netscape + control),
    "no palette": gif((12, 5), (0, 0, 12, 5), 8, noise(60, 256)),
    "clears": gif((25, 12), (0, 0, 25, 12), 5, runs(300, 32), colours(32), clears=(40, 41, 150), most=17),
    "bits 0": gif((7, 2), (0, 0, 7, 2), 0, [], colours(2), codes=bytes([0b00000000, 0b00010000, 0xF0])),
    "bits 1": gif((15, 7), (0, 0, 15, 7), 1, noise(105, 2), colours(2)),
    "bits 11": gif((15, 7), (0, 0, 15, 7), 11, noise(105, 256), colours(256)),
    "bits 12": gif((9, 7), (0, 0, 9, 7), 12, noise(63, 256), colours(256)),
    "long": gif((70, 70), (0, 0, 70, 70), 8, noise(4900, 40), colours(8), clears=(4700,)),
    "extensions": gif((9, 6), (1, 1, 7, 4), 3, noise(28, 8), colours(8), before=comment + netscape + control + b"!\x01\x02ab\x01c\0" + comment),
}


def edit(data, edits):
    for e in edits:
        if e[0] == "^":
            data = data[:int(e[1:])]
        elif e[0] == "+":
            n, v = e[1:].split(":")
            data += bytes.fromhex(v) * int(n)
        elif ":" in e:
            at, v = e.split(":")
            at = int(at)
            data = data[:at] + bytes.fromhex(v) + data[at + 1:]
        elif "+" in e:
            at, v = e.split("+")
            data = data[:int(at)] + bytes.fromhex(v) + data[int(at):]
        else:
            at, n = map(int, e.split("-"))
            data = data[:at] + data[at + n:]
    return data


def random_edits(data):
    frame = data.rindex(b",") if rng.random() < 0.5 else 13
    kind = rng.random()
    byte = lambda: f"{rng.choice([rng.randrange(256), rng.randrange(256), 0, 1, 255, rng.randrange(14)]):02x}"
    if kind < 0.55:
        at = lambda: rng.randrange(min(frame, len(data) - 1), len(data))
        return [f"{at()}:{byte()}" for _ in range(rng.choice([1, 1, 1, 2, 3]))]
    if kind < 0.65:
        return [f"{rng.randrange(6, min(len(data), 60))}:{byte()}" for _ in range(rng.choice([1, 2]))]
    if kind < 0.72:
        return [f"^{rng.randrange(len(data))}"]
    if kind < 0.80:
        return [f"{rng.randrange(13, len(data))}-{rng.randrange(1, 9)}"]
    if kind < 0.90:
        return [f"{rng.randrange(13, len(data))}+" + "".join(byte() for _ in range(rng.randrange(1, 5)))]
    out = [f"{rng.randrange(frame, len(data))}:{byte()}"]
    return out + [f"+{rng.choice([1, 300, 65400, 66000, 140000])}:{byte()}"]


def judge(data):
    try:
        im = Image.open(io.BytesIO(data))
        if im.format != "GIF" or im.size[0] * im.size[1] > 200_000:
            return None
        im.load()
    except Image.DecompressionBombError:
        return "refused"
    except Exception:
        return "refused"
    mode = im.im.mode  # im.mode says L where the screen's palette hides behind a grey one
    return f"{mode} {im.width} {im.height} {hashlib.sha256(im.convert('RGB').tobytes()).hexdigest()[:16]}"


def main():
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 2400
    lines = [f"seed {k.replace(' ', '_')} {v.hex()}" for k, v in seeds.items()]
    cases = [(k, ["^100000"]) for k in seeds]
    for k in seeds:  # a frame of no width or no height, inside the screen and not
        at = seeds[k].index(b",", 13 + (3 << (seeds[k][10] & 7) + 1 if seeds[k][10] & 128 else 0))
        cases += [(k, [f"{at + i}:00", f"{at + i + 1}:00"]) for i in (5, 7)]
        cases += [(k, [f"{at + i}:00", f"{at + i + 1}:00", f"{at + 1}:40", f"{at + 3}:50"]) for i in (5, 7)]
        bits = at + 10 + (3 << (seeds[k][at + 9] & 7) + 1 if seeds[k][at + 9] & 128 else 0)
        cases += [(k, [f"{bits}:{b:02x}"]) for b in range(15)]
    names = list(seeds)
    while len(cases) < count:
        k = rng.choice(names)
        cases.append((k, random_edits(seeds[k])))
    seen = set()
    for k, edits in cases:
        data = edit(seeds[k], edits)
        verdict = judge(data)
        if data in seen or verdict is None or not data.startswith((b"GIF87a", b"GIF89a")):
            continue
        seen.add(data)
        lines.append(f"case {k.replace(' ', '_')} {','.join(edits)} {verdict}")
    with open(sys.argv[1], "w") as f:
        f.write(f"# Pillow {PIL.__version__}, by make_broken_gif.py\n" + "\n".join(lines) + "\n")
    print(len(lines), "lines,", sum("refused" in line for line in lines), "refused")


main()
