import sys, time
import webdataset as wds

print("webdataset", wds.__version__, flush=True)
for line in sys.stdin:
    start = time.process_time()
    n = 0
    for sample in wds.WebDataset(sys.argv[1], shardshuffle=100, empty_check=False).shuffle(1024):
        assert sample["jpg"] and sample["txt"]
        n += 1
    print(n, time.process_time() - start, flush=True)
