"""Makes generated/ and generated.json: small images of every kind that is read,
with what Pillow makes of them.

python make_generated.py   (Pillow 9.4.0, numpy, cjpeg of libjpeg-turbo 2.1.5 on PATH)
"""
import hashlib, io, json, os, random, struct, subprocess, warnings, zlib

import numpy as np
from PIL import Image

warnings.filterwarnings("ignore")
rng, nrng = random.Random(4096), np.random.RandomState(4096)
here = os.path.dirname(os.path.abspath(__file__))
folder = os.path.join(here, "generated")
os.makedirs(folder, exist_ok=True)
records = []


def content(w, h, channels):
    """Waves and noise, [h, w, channels]."""
    y, x = np.mgrid[0:h, 0:w].astype(float)
    planes = [127 + 60 * np.sin(x / rng.uniform(3, 30)) + 60 * np.cos(y / rng.uniform(3, 30))
              + nrng.normal(0, rng.choice([1, 8, 25]), (h, w)) for _ in range(channels)]
    return np.clip(np.stack(planes, -1), 0, 255).astype(np.uint8)


def side():
    return rng.choice([rng.randint(1, 9), rng.randint(10, 48), rng.randint(30, 64)])


def crop(im, size):
    w, h = im.size
    nw, nh = (size, int(size * h / w)) if w <= h else (int(size * w / h), size)
    im = im.resize((nw, nh), Image.BICUBIC)
    top, left = int(round((nh - size) / 2.0)), int(round((nw - size) / 2.0))
    return im.crop((left, top, left + size, top + size))


def sha(im):
    return hashlib.sha256(im.convert("RGB").tobytes()).hexdigest()


def add(name, data):
    with open(os.path.join(folder, name), "wb") as f:
        f.write(data)
    im = Image.open(io.BytesIO(data))
    im.load()
    record = {"file": name, "mode": im.mode, "width": im.width, "height": im.height, "size": 32,
              "decoded": sha(im), "rgb_first": sha(crop(im.convert("RGB"), 32)), "direct": ""}
    try:
        record["direct"] = sha(crop(im, 32))
    except ValueError:  # Pillow 9.4 does not resize I;16
        pass
    records.append(record)


def saved(im, kind, **options):
    b = io.BytesIO()
    im.save(b, kind, **options)
    return b.getvalue()


def cjpeg(pixels, *args):
    ppm = saved(Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0]), "PPM")
    return subprocess.run(["cjpeg", *args], input=ppm, stdout=subprocess.PIPE, check=True).stdout


def jpegs():
    samplings = ["1x1", "2x1", "2x2", "1x2", "4x1", "1x4", "4x2", "2x2,1x2,1x1", "2x2,2x1,1x2",
                 "1x1,2x2,1x1", "2x2,1x1,2x2", "3x1", "3x2", "1x2,1x1,1x2"]
    for i, sampling in enumerate(samplings * 2):
        args = ["-quality", str(rng.randint(5, 98)), "-sample", sampling]
        if i % 2:
            args.append("-progressive")
        if i % 3 == 0:
            args += ["-restart", rng.choice(["1", "3B", "1B"])]
        if i % 5 == 0:
            args.append("-optimize")
        if i % 13 == 0:
            args.append("-rgb")
        add(f"jpeg_{i:02d}_{sampling.replace(',', '_')}.jpg", cjpeg(content(side(), side(), 3), *args))
    for i in range(4):
        add(f"jpeg_gray_{i}.jpg", cjpeg(content(side(), side(), 1), "-quality", str(rng.randint(5, 98)), *["-progressive"] * (i % 2)))
        add(f"jpeg_cmyk_{i}.jpg", saved(Image.fromarray(content(side(), side(), 4), "CMYK"), "JPEG", quality=rng.randint(5, 98), progressive=i % 2))
    # As Photoshop writes them: inverted, with transform 2 (YCCK).
    data = saved(Image.fromarray(content(40, 30, 4), "CMYK"), "JPEG", quality=80)
    at = data.index(b"Adobe")
    add("jpeg_ycck.jpg", data[:at + 11] + b"\x02" + data[at + 12:])
    base = cjpeg(content(40, 30, 3), "-quality", "70")
    add("jpeg_bytes_before_eoi.jpg", base[:-2] + b"\x12\x34\x56" + base[-2:])
    progressive = cjpeg(content(60, 50, 3), "-quality", "75", "-progressive", "-sample", "2x2")
    scans = [i for i in range(len(progressive)) if progressive[i:i + 2] == b"\xff\xda"]
    for n in (1, 4, len(scans) - 1):  # later scans are missing: libjpeg guesses the detail
        add(f"jpeg_{n}_scans.jpg", progressive[:scans[n]] + b"\xff\xd9")
    for n, data in enumerate([base, progressive, cjpeg(content(60, 50, 3), "-quality", "75", "-restart", "2B")]):
        bad = bytearray(data)
        for _ in range(4):  # damage that Pillow does not mind
            bad[rng.randint(bad.rindex(b"\xff\xda") + 14, len(bad) - 3)] = rng.randrange(255)
        add(f"jpeg_damaged_{n}.jpg", bytes(bad))
    add("jpeg_16bit_tables.jpg", cjpeg(content(33, 21, 3), "-quality", "1"))


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def packed(rows, depth):
    out = b""
    for row in rows:
        flat = row.reshape(-1)
        if depth == 16:
            line = flat.astype(">u2").tobytes()
        elif depth == 8:
            line = flat.astype(np.uint8).tobytes()
        else:
            bits = "".join(format(int(v), f"0{depth}b") for v in flat)
            bits += "0" * (-len(bits) % 8)
            line = bytes(int(bits[i:i + 8], 2) for i in range(0, len(bits), 8))
        out += b"\0" + line
    return out


def png(samples, depth, kind, extra, interlaced):
    h, w = samples.shape[:2]
    if interlaced:
        passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
        data = b"".join(packed(samples[y::dy, x::dx], depth) for x, y, dx, dy in passes if samples[y::dy, x::dx].size)
    else:
        data = packed(samples, depth)
    header = struct.pack(">IIBBBBB", w, h, depth, kind, 0, 0, int(interlaced))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def pngs():
    for kind, channels, depths in [(0, 1, [1, 2, 4, 8, 16]), (2, 3, [8, 16]), (3, 1, [1, 2, 4, 8]), (4, 2, [8, 16]), (6, 4, [8, 16])]:
        for depth in depths:
            for interlaced in (False, True):
                a = content(side(), side(), channels).astype(int)
                if depth == 16:
                    a = np.clip(a * rng.choice([1, 4, 257]) + nrng.randint(0, 200, a.shape), 0, 65535)
                elif depth < 8:
                    a >>= 8 - depth
                extra = b""
                if kind == 3:
                    n = rng.randint(1, 1 << depth)
                    extra = chunk(b"PLTE", bytes(nrng.randint(0, 256, 3 * n).astype(np.uint8)))
                    extra += chunk(b"tRNS", bytes([0, 128, 255][:n]))
                elif kind in (0, 2) and interlaced:
                    extra = chunk(b"tRNS", b"".join(struct.pack(">H", int(v)) for v in a[0, 0]))
                add(f"png_{kind}_{depth}{'_interlaced' * interlaced}.png", png(a, depth, kind, extra, interlaced))


def webps():
    for i, quality in enumerate([0, 20, 50, 75, 90, 100]):
        add(f"webp_lossy_{quality}.webp", saved(Image.fromarray(content(side(), side(), 3)), "WEBP", quality=quality, method=i))
        add(f"webp_alpha_{quality}.webp", saved(Image.fromarray(content(side(), side(), 4), "RGBA"), "WEBP", quality=quality, alpha_quality=[100, 30][i % 2]))
    add("webp_lossless.webp", saved(Image.fromarray(content(31, 20, 3)), "WEBP", lossless=True))
    add("webp_lossless_alpha.webp", saved(Image.fromarray(content(20, 31, 4), "RGBA"), "WEBP", lossless=True))
    frames = [Image.fromarray(content(33, 27, 4), "RGBA") for _ in range(2)]
    add("webp_animated.webp", saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], quality=60))


def gifs():
    im = Image.fromarray(content(40, 33, 3))
    add("gif_palette.gif", saved(im.quantize(60), "GIF"))
    add("gif_interlaced.gif", saved(im.quantize(255), "GIF", interlace=1))
    add("gif_transparent.gif", saved(im.quantize(16), "GIF", transparency=3))
    add("gif_gray.gif", saved(im.convert("L"), "GIF"))
    add("gif_animated.gif", saved(im.quantize(7), "GIF", save_all=True, append_images=[im.rotate(90)]))


def bmps():
    im = Image.fromarray(content(37, 22, 3))
    for mode in ["1", "L", "RGB"]:
        add(f"bmp_{mode}.bmp", saved(im.convert(mode), "BMP"))
    add("bmp_palette.bmp", saved(im.quantize(99), "BMP"))
    add("bmp_RGBA.bmp", saved(Image.fromarray(content(20, 17, 4), "RGBA"), "BMP"))
    w, h = 21, 9
    pixels = nrng.randint(0, 65536, (h, (w * 16 + 31 >> 5) * 2)).astype("<u2").tobytes()
    for name, compression, masks in [("555", 0, b""), ("565", 3, struct.pack("<III", 0xF800, 0x7E0, 0x1F))]:
        header = struct.pack("<IiiHHIIiiII", 40, w, -h, 1, 16, compression, len(pixels), 0, 0, 0, 0)
        add(f"bmp_{name}.bmp", b"BM" + struct.pack("<IHHI", 0, 0, 0, 54 + len(masks)) + header + masks + pixels)
    runs, w, h = b"", 30, 8
    for y in range(h):
        runs += bytes([12, y]) + bytes([0, 5]) + bytes(range(5)) + b"\0" + bytes([13, 200 + y]) + b"\0\0"
    palette = bytes(nrng.randint(0, 256, 1024).astype(np.uint8))
    header = struct.pack("<IiiHHIIiiII", 40, w, h, 1, 8, 1, len(runs) + 2, 0, 0, 0, 0)
    add("bmp_rle8.bmp", b"BM" + struct.pack("<IHHI", 0, 0, 0, 54 + 1024) + header + palette + runs + b"\0\1")


def tiffs():
    im = Image.fromarray(content(25, 38, 3))
    for i, (mode, compression) in enumerate([("1", "raw"), ("L", "packbits"), ("RGB", "tiff_lzw"), ("RGB", "tiff_deflate"), ("L", "raw")]):
        add(f"tiff_{mode}_{compression}.tif", saved(im.convert(mode), "TIFF", compression=compression, tiffinfo={274: i + 1}))
    add("tiff_palette.tif", saved(im.quantize(40), "TIFF"))
    add("tiff_RGBA.tif", saved(Image.fromarray(content(20, 17, 4), "RGBA"), "TIFF", compression="tiff_lzw", tiffinfo={274: 6}))
    add("tiff_16bit.tif", saved(Image.fromarray(content(19, 23, 1)[:, :, 0].astype(np.uint16) * 3), "TIFF", tiffinfo={274: 8}))


for make in [jpegs, pngs, webps, gifs, bmps, tiffs]:
    make()
with open(os.path.join(here, "generated.json"), "w") as f:
    f.write("[" + ",\n".join(json.dumps(r) for r in records) + "]\n")
