"""The other side of the pixels benchmark: one round for every number on stdin."""
import hashlib, io, sys, time

import PIL, torch, torchvision
from PIL import Image, features
from torchvision import transforms as T

torch.set_num_threads(1)
data = open(sys.argv[1], "rb").read()
transform = T.Compose([
    T.Resize(224, interpolation=T.InterpolationMode.BICUBIC),
    T.CenterCrop(224),
    T.ToTensor(),
    T.Normalize((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
])
print(f"PIL {PIL.__version__} (libjpeg-turbo {features.version('libjpeg_turbo')}) + torchvision {torchvision.__version__}", flush=True)
for line in sys.stdin:
    start = time.process_time()
    for _ in range(int(line)):
        x = transform(Image.open(io.BytesIO(data)).convert("RGB"))
    seconds = time.process_time() - start
    print(seconds, hashlib.sha256(x.numpy().tobytes()).hexdigest(), flush=True)
