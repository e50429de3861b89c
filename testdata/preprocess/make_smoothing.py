"""Makes smoothing.json: what Pillow shows of progressive JPEGs whose last scans are missing.

python make_smoothing.py > smoothing.json   (Pillow 9.4.0, libjpeg-turbo 2.1.4)
"""
import glob, hashlib, io, json

from PIL import Image

cases = []
for name in sorted(glob.glob("images/*.jpg") + glob.glob("generated/*.jpg")):
    data = open(name, "rb").read()
    if b"\xff\xc2\0\x11" not in data:
        continue
    starts = [i for i in range(len(data) - 1) if data[i] == 0xFF and data[i + 1] in (0xDA, 0xD9)]
    for n, at in enumerate(starts[1:], 1):
        # Tables may stand before the scan; cutting them with it does no harm. Every
        # third time the last scan ends in its middle.
        end = at if n % 3 else (starts[n - 1] + at) // 2
        try:
            im = Image.open(io.BytesIO(data[:end] + b"\xff\xd9")).convert("RGB")
        except OSError:
            continue
        cases.append({"file": name, "bytes": end, "sha256": hashlib.sha256(im.tobytes()).hexdigest()})
print("[" + ",\n".join(map(json.dumps, cases)) + "]")
