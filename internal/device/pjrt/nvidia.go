//go:build cgo

package pjrt

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/evatool/evatool/internal/device/plugins"
	"github.com/evatool/evatool/internal/fault"
)

// cudaLibraries are what the CUDA plugin asks the loader for by name, in an
// order in which each finds those that it needs itself. Those with a ? may be
// missing: they serve several GPUs or the profiler.
var cudaLibraries = map[string][]string{
	"12": {"libcudart.so.12", "libnvrtc.so.12?", "libnvJitLink.so.12?", "libcublasLt.so.12", "libcublas.so.12", "libcupti.so.12?",
		"libcusparse.so.12", "libcusolver.so.11", "libcufft.so.11", "libcudnn.so.9", "libnccl.so.2?", "libnvshmem_host.so.3?"},
	"13": {"libcudart.so.13", "libnvrtc.so.13?", "libnvJitLink.so.13?", "libcublasLt.so.13", "libcublas.so.13", "libcupti.so.13?",
		"libcusparse.so.12", "libcusolver.so.12", "libcufft.so.12", "libcudnn.so.9", "libnccl.so.2?", "libnvshmem_host.so.3?"},
}

// cudaDataDir is XLA's option for the CUDA folder.
const cudaDataDir = "xla_gpu_cuda_data_dir"

func cudaMajor(plugin string) string {
	if strings.Contains(plugin, "cuda12") {
		return "12"
	}
	return "13"
}

// nvidiaFolders are the folders that may hold NVIDIA's libraries for a
// plugin, and the CUDA folders (with ptxas and libdevice).
func nvidiaFolders(plugin string) (libs, cuda []string) {
	here := filepath.Dir(plugin)
	roots := []string{filepath.Join(here, "nvidia"), filepath.Join(here, "..", "nvidia"), filepath.Join(here, "..", "..", "nvidia")}
	for _, site := range plugins.SitePackages() {
		roots = append(roots, filepath.Join(site, "nvidia"))
	}
	for _, root := range roots {
		m, _ := filepath.Glob(filepath.Join(root, "*", "lib"))
		libs = append(libs, m...)
		cuda = append(cuda, filepath.Join(root, "cu"+cudaMajor(plugin)), filepath.Join(root, "cuda_nvcc"))
	}
	for _, env := range []string{"CUDA_HOME", "CUDA_PATH"} {
		if v := os.Getenv(env); v != "" {
			cuda = append(cuda, v)
		}
	}
	m, _ := filepath.Glob("/usr/local/cuda-" + cudaMajor(plugin) + "*")
	cuda = append(cuda, m...)
	cuda = append(cuda, "/usr/local/cuda")
	for _, folder := range cuda {
		libs = append(libs, filepath.Join(folder, "lib64"), filepath.Join(folder, "lib"))
	}
	return libs, cuda
}

// prepareCUDA loads NVIDIA's libraries, so that the plugin finds them wherever
// they are. It returns what identifies their versions, and the CUDA folder that
// XLA has to be told about.
func prepareCUDA(plugin string) (id, folder string, err error) {
	libs, cuda := nvidiaFolders(plugin)
	var missing []string
	for _, name := range cudaLibraries[cudaMajor(plugin)] {
		name, optional := strings.CutSuffix(name, "?")
		file, ok := preloadFrom(libs, name)
		id += file + "\n"
		if !ok && !optional {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return "", "", fault.Envf("%s: NVIDIA's %s not found; run pip install 'jax-cuda%s-plugin[with-cuda]', or set LD_LIBRARY_PATH to their folder",
			plugin, strings.Join(missing, ", "), cudaMajor(plugin))
	}
	if strings.Contains(os.Getenv("XLA_FLAGS"), cudaDataDir) {
		return id, "", nil
	}
	for _, folder := range cuda {
		if _, err := os.Stat(filepath.Join(folder, "nvvm", "libdevice")); err == nil {
			return id, folder, nil
		}
	}
	return id, "", nil
}

// preloadFrom loads a library from the first folder that has it, else from
// where the loader finds it. It returns the file and its size.
func preloadFrom(folders []string, name string) (string, bool) {
	for _, folder := range folders {
		path := filepath.Join(folder, name)
		if st, err := os.Stat(path); err == nil && preload(path) {
			return fmt.Sprint(path, " ", st.Size()), true
		}
	}
	return name, preload(name)
}
