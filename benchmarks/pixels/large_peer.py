"""The other side of -large: one file, as in torchvision's evaluation transform."""
import sys, warnings, zlib

from PIL import Image

warnings.simplefilter("ignore")
size = 224
try:
    im = Image.open(sys.argv[1]).convert("RGB")
    w, h = im.size
    w, h = (size, int(size * h / w)) if w <= h else (int(size * w / h), size)
    im = im.resize((w, h), Image.BICUBIC)
    x, y = round((w - size) / 2), round((h - size) / 2)
    im = im.crop((x, y, x + size, y + size))
    answer = "%08x" % zlib.crc32(im.tobytes())
except Exception:
    answer = "refused"
print(answer, int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1024)
