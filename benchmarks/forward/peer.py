"""The PyTorch side of benchmarks/forward: for each line in, one run and two numbers out."""
import logging
import resource
import sys
import time

import open_clip
import torch

name, tower, dtype, mode, batch, tokens, threads = sys.argv[1:5] + [int(a) for a in sys.argv[5:8]]
logging.disable(logging.WARNING)
if threads:
    torch.set_num_threads(threads)
model = open_clip.create_model(name, pretrained=None).eval()
size = model.visual.image_size
size = size if isinstance(size, int) else size[0]
x = torch.sin(torch.arange(batch * 3 * size * size).float()).view(batch, 3, size, size)
if dtype == "bf16":
    model, x = model.bfloat16(), x.bfloat16()
if tower == "text":
    x = torch.zeros(batch, 77, dtype=torch.long)
    x[:, :tokens] = torch.arange(tokens) + 1000
    x[:, 0], x[:, tokens - 1] = 49406, 49407
run = model.encode_image if tower == "image" else model.encode_text
if mode == "compile":
    run = torch.compile(run)


def cpu():
    u = resource.getrusage(resource.RUSAGE_SELF)
    return u.ru_utime + u.ru_stime


with torch.inference_mode():
    for _ in range(2):
        run(x)
    print("ready", flush=True)
    for _ in sys.stdin:
        start, used = time.perf_counter(), cpu()
        run(x)
        print(time.perf_counter() - start, cpu() - used, flush=True)
