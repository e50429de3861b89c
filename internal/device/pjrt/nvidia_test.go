//go:build cgo

package pjrt

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/evatool/evatool/internal/fault"
)

// TestMissingNVIDIA: the libraries that the CUDA plugin lacks are named.
func TestMissingNVIDIA(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"HOME", "PATH", "VIRTUAL_ENV", "CONDA_PREFIX", "CUDA_HOME", "CUDA_PATH"} {
		t.Setenv(name, dir) // no Python, no CUDA
	}
	if preload("libcudnn.so.9") {
		t.Skip("cuDNN is here")
	}
	_, _, err := prepareCUDA(filepath.Join(dir, "xla_cuda13", "plugin.so"))
	if fault.Code(err) != 4 || !strings.Contains(err.Error(), "libcudnn.so.9") || !strings.Contains(err.Error(), "pip install") {
		t.Errorf("%v", err)
	}
	for text, want := range map[string]string{
		"RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes": "not enough memory",
		"INTERNAL: CUDA driver version is insufficient for CUDA runtime":     "driver is too old",
		"No visible GPU devices.": "no NVIDIA GPU",
	} {
		if err := Explain(errors.New(text)); fault.Code(err) != 4 || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
