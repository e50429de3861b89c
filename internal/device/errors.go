package device

import (
	"errors"
	"fmt"
	"strings"

	"github.com/evatool/evatool/internal/fault"
)

// catch runs f and turns a panic into an error: GoMLX panics on a graph that
// it cannot build.
func catch(what string, f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			e, ok := r.(error)
			if !ok {
				e = fmt.Errorf("%v", r)
			}
			err = fault.As(fault.Environment, fmt.Errorf("%s: %w", what, e))
		}
	}()
	if err := f(); err != nil {
		return fault.As(fault.Environment, fmt.Errorf("%s: %w", what, err))
	}
	return nil
}

const noMemory = "not enough memory on the device"

const lessMemory = noMemory + "; use a smaller batch or micro_batch, or gradient checkpointing"

// known explains what XLA and its plugins say about the machine.
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

// explain replaces an error of XLA that users meet by what it means.
func explain(err error) error {
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

// OutOfMemory says whether an error of this package is the device's memory
// being too small.
func OutOfMemory(err error) bool { return err != nil && strings.Contains(err.Error(), noMemory) }

var errConsumed = errors.New("the array was donated or freed")
