#!/bin/sh
# Measures evatool on an NVIDIA GPU: device check, parity with the Go backend,
# forward and training speed, memory, the data pipeline; the same steps in
# PyTorch when it is there. Needs no network and no Go, and takes less than ten
# minutes.
#
#   GOEXPERIMENT=simd go build -o gpubench ./benchmarks/gpu   # on any Linux machine of the same kind
#   benchmarks/gpu.sh ./gpubench PLUGIN_FOLDER [OUT_FOLDER]
#
# PLUGIN_FOLDER holds xla_cuda_plugin.so (anywhere below it); give - to use the
# one of `evatool backend install cuda` or of a Python on PATH. NVIDIA's
# libraries are found as docs/compute.md says.
set -eu
if [ $# -lt 2 ]; then
	sed -n '2,14s/^# \{0,1\}//p' "$0"
	exit 2
fi
binary=$1 folder=$2 out=${3:-gpu-results}
here=$(dirname "$0")
mkdir -p "$out"
backend=auto
if [ "$folder" != - ]; then
	plugin=$(find "$folder" -name '*cuda*plugin*.so' | sort | tail -n 1)
	if [ -z "$plugin" ]; then
		echo "gpu.sh: $folder: no *cuda*plugin*.so below it; unpack the wheel of jax-cuda13-pjrt there" >&2
		exit 4
	fi
	backend=xla:$(cd "$(dirname "$plugin")" && pwd)/$(basename "$plugin")
fi
nvidia-smi 2>/dev/null | tee "$out/nvidia-smi.txt" || echo "gpu.sh: no nvidia-smi here" >&2
# EVATOOL_GPU_ARGS: more flags for the program, such as --size tiny in a test.
# shellcheck disable=SC2086
"$binary" --backend "$backend" --budget "${BUDGET:-5m}" --json "$out/gpu.json" ${EVATOOL_GPU_ARGS:-} | tee "$out/gpu.txt"
for python in ${PYTHON:-python3 python}; do
	if "$python" -c 'import torch' 2>/dev/null; then
		"$python" "$here/gpu_torch.py" "$out/gpu.json" "$out/torch.json" | tee "$out/torch.txt"
		break
	fi
done
echo "results in $out"
