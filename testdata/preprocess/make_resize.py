"""Makes resize.json: bicubic and bilinear resizes of pseudo-random images by Pillow.

python make_resize.py > resize.json   (Pillow 9.4.0)
"""
import hashlib, json, random
from PIL import Image

rng = random.Random(20230315)


def pixels(seed, n):
    """n bytes: the top byte of the 64-bit state after each step; smooth where bit 0 of seed is set."""
    state, out, value = seed, bytearray(n), 128
    for i in range(n):
        state = (state * 6364136223846793005 + 1442695040888963407) & (2**64 - 1)
        if seed & 1:
            value = (value + (state >> 59) - 15) & 255
            out[i] = value
        else:
            out[i] = state >> 56
    return bytes(out)


def side():
    return rng.choice([rng.randint(1, 9), rng.randint(10, 80), rng.randint(80, 400)])


cases = []
for seed in range(300):
    w, h, ow, oh = side(), side(), side(), side()
    if seed % 7 == 0:
        ow = w
    if seed % 11 == 0:
        oh = h
    im = Image.frombytes("RGB", (w, h), pixels(seed, w * h * 3))
    kind = seed % 3
    box = [0, 0, w, h]
    if kind == 1:  # a part, by fractions of pixels
        x, y = sorted(rng.uniform(0, w) for _ in "ab"), sorted(rng.uniform(0, h) for _ in "ab")
        if x[1] - x[0] > 0.5 and y[1] - y[0] > 0.5:
            box = [x[0], y[0], x[1], y[1]]
    if kind == 2:  # a crop, then its resize, as torchvision's resized_crop
        x, y = rng.randrange(w), rng.randrange(h)
        box = [x, y, rng.randint(x + 1, w), rng.randint(y + 1, h)]
        out = im.crop(box).resize((ow, ow), Image.BICUBIC)
        oh = ow
    else:
        out = im.resize((ow, oh), Image.BICUBIC, box)
    case = {"seed": seed, "w": w, "h": h, "box": box, "crop": kind == 2, "ow": ow, "oh": oh,
                  "sha256": hashlib.sha256(out.tobytes()).hexdigest()}
    if kind != 2:
        case["bilinear"] = hashlib.sha256(im.resize((ow, oh), Image.BILINEAR, box).tobytes()).hexdigest()[:8]
    cases.append(case)
print("[" + ",\n".join(json.dumps(c) for c in cases) + "]")
