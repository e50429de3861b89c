"""modes.json: squares that open_clip_torch 3.3 and transformers 5.24 (PIL backend) make of pseudo-random images.

python make_modes.py > modes.json
"""
import hashlib
import json
import random

import numpy as np
from open_clip.transform import image_transform
from PIL import Image
from transformers import CLIPImageProcessorPil

FILTERS = ["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]  # Pillow's numbers


def pixels(seed, n):
    state, value, out = seed, 128, bytearray(n)
    for i in range(n):
        state = (state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        if seed & 1:
            value = (value + (state >> 59) - 15) % 256
            out[i] = value
        else:
            out[i] = state >> 56
    return bytes(out)


def case(rng, seed):
    c = {"Seed": seed, "W": rng.randint(1, 90), "H": rng.randint(1, 90), "Size": rng.choice([16, 17, 31, 32])}
    image = Image.frombytes("RGB", (c["W"], c["H"]), pixels(seed, c["W"] * c["H"] * 3))
    size = c["Size"]
    if rng.random() < 0.4:
        c["Mode"], c["Filter"] = rng.choice(["shortest", "longest", "squash"]), rng.choice(["bicubic", "bilinear"])
        c["Fill"] = rng.choice([0, 7, 255])
        steps = image_transform(size, False, resize_mode=c["Mode"], interpolation=c["Filter"], fill_color=c["Fill"]).transforms
        for step in steps[:-2]:  # without ToTensor and Normalize
            image = step(image)
        out = np.asarray(image)
    else:
        c["Floor"], resample = True, rng.randrange(6)
        c["Filter"] = FILTERS[resample]
        c["Mode"] = rng.choice(["shortest", "squash", "none"])
        to = {}
        if c["Mode"] == "shortest":
            n = rng.choice([size, size, size + 1, size + 10, size - 3])
            to, c["Resize"] = {"shortest_edge": n}, [n, n]
        elif c["Mode"] == "squash":
            c["Resize"] = [rng.randint(8, 48), rng.randint(8, 48)]
            to = {"height": c["Resize"][0], "width": c["Resize"][1]}
        more = {"size": to} if to else {}
        p = CLIPImageProcessorPil(do_resize=c["Mode"] != "none", resample=resample, crop_size=size, do_rescale=False, do_normalize=False, **more)
        out = p(image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    assert out.shape == (size, size, 3) and out.dtype == np.uint8
    c["SHA256"] = hashlib.sha256(np.ascontiguousarray(out).tobytes()).hexdigest()[:16]
    return c


if __name__ == "__main__":
    rng = random.Random(8)
    cases = []
    while len(cases) < 300:
        try:
            cases.append(case(rng, len(cases) + 1))
        except ValueError as e:  # open_clip makes a side of 0 pixels
            assert "> 0" in str(e), e
    print("[" + ",\n".join(json.dumps(c) for c in cases) + "]")
