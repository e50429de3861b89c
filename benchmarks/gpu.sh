#!/bin/sh
# Measures evatool on an NVIDIA GPU: device check, parity with the Go backend,
# forward and training speed, memory, the data pipeline; the same steps in
# PyTorch if it is installed. Needs no network and no Go, and takes less than ten
# minutes. A row that crashes or takes too long is skipped and reported; what was
# measured is in OUT_FOLDER/gpu.json after every row.
#
#   GOEXPERIMENT=simd go build -o gpubench ./benchmarks/gpu   # on any Linux machine of the same kind
#   benchmarks/gpu.sh ./gpubench PLUGIN_FOLDER [OUT_FOLDER]
#
# PLUGIN_FOLDER holds xla_cuda_plugin.so (anywhere below it); give - to use the
# one of `evatool backend install cuda` or of a Python on PATH. NVIDIA's
# libraries are found as docs/compute.md describes. BUDGET=20m gives it more time.
set -eu
if [ $# -lt 2 ]; then
	sed -n '2,15s/^# \{0,1\}//p' "$0"
	exit 2
fi
binary=$1 folder=$2 out=${3:-gpu-results}
here=$(dirname "$0")
mkdir -p "$out"
backend=auto
if [ "$folder" != - ]; then
	plugin=$(find "$folder" -name '*cuda*plugin*.so' | sort | tail -n 1)
	if [ -z "$plugin" ]; then
		echo "gpu.sh: $folder: no *cuda*plugin*.so in it; unpack the wheel of jax-cuda13-pjrt there" >&2
		exit 4
	fi
	backend=xla:$(cd "$(dirname "$plugin")" && pwd)/$(basename "$plugin")
	# Every row has the card to itself; XLA's own limit is three quarters of it.
	backend=$backend,preallocate=true,memory_fraction=${MEMORY_FRACTION:-0.9}
fi
if command -v nvidia-smi >/dev/null; then
	nvidia-smi >"$out/nvidia-smi.txt" 2>&1 || echo "gpu.sh: nvidia-smi fails: $(tail -n 1 "$out/nvidia-smi.txt")" >&2
else
	echo "gpu.sh: no nvidia-smi here" >&2
fi
# EVATOOL_GPU_ARGS: more flags for the program, such as --size tiny in a test.
# Whatever fails, gpu.json has what was measured before. (A pipe hides the
# status of its left side.)
rm -f "$out/gpu.json" "$out/torch.json"
status=0
# shellcheck disable=SC2086
{ "$binary" --backend "$backend" --budget "${BUDGET:-6m}" --json "$out/gpu.json" ${EVATOOL_GPU_ARGS:-} 2>&1 || echo $? >"$out/status"; } | tee "$out/gpu.txt"
if [ -f "$out/status" ]; then
	status=$(cat "$out/status")
	rm "$out/status"
	echo "gpu.sh: $binary ended with status $status" >&2
	[ ! -f "$out/gpu.json" ] || "$binary" --show "$out/gpu.json" >"$out/table.txt" 2>&1 || :
fi
torch=no
if [ -f "$out/gpu.json" ]; then
	limit=
	if command -v timeout >/dev/null; then limit="timeout 190"; fi
	for python in ${PYTHON:-python3 python}; do
		if $limit "$python" -c 'import torch' 2>/dev/null; then
			torch=yes
			{ $limit "$python" "$here/gpu_torch.py" "$out/gpu.json" "$out/torch.json" --seconds "${TORCH_SECONDS:-130}" 2>&1 ||
				echo "gpu_torch.py ended with status $?; what it measured is above and in torch.json"; } | tee "$out/torch.txt"
			break
		fi
	done
	[ $torch = yes ] || echo "gpu.sh: no PyTorch here: nothing to compare with"
fi
echo "results in $out"
exit "$status"
