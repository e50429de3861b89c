package pjrt

import (
	"strings"

	"github.com/evatool/evatool/internal/fault"
)

// NoMemory begins the error of a device whose memory is too small.
const NoMemory = "not enough memory on the device"

const lessMemory = NoMemory + "; use a smaller batch or micro_batch, or gradient checkpointing"

// known explains what XLA and its plugins report about the machine.
var known = []struct{ text, means string }{
	{"RESOURCE_EXHAUSTED", lessMemory},
	{"Out of memory", lessMemory},
	{"CUDA_ERROR_OUT_OF_MEMORY", lessMemory},
	{"STATUS_ALLOC_FAILED", lessMemory}, // of cuBLAS, cuDNN
	{"No visible GPU devices", "no NVIDIA GPU is visible; check nvidia-smi and CUDA_VISIBLE_DEVICES, or use the CPU plugin"},
	{"CUDA_ERROR_NO_DEVICE", "no NVIDIA GPU is visible; check nvidia-smi and CUDA_VISIBLE_DEVICES, or use the CPU plugin"},
	{"CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "the NVIDIA driver is too old for this plugin; update the driver"},
	{"driver version is insufficient", "the NVIDIA driver is too old for this plugin; update the driver"},
	{"CUDA_ERROR_UNSUPPORTED_PTX_VERSION", "the NVIDIA driver is too old for this plugin; update the driver"},
}

// Explain replaces an XLA error that users run into with what it means.
func Explain(err error) error {
	if err == nil {
		return nil
	}
	for _, k := range known {
		if _, detail, ok := strings.Cut(err.Error(), k.text); ok {
			detail, _, _ = strings.Cut(k.text+detail, "\n")
			return fault.Envf("%s (%.100s)", k.means, detail)
		}
	}
	return err
}
