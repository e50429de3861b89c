package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// nvidia names the first GPU and its driver.
func nvidia() (gpu, driver string) {
	out, err := exec.Command("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader", "-i", "0").Output()
	if name, version, ok := strings.Cut(strings.TrimSpace(string(out)), ", "); err == nil && ok {
		return name, version
	}
	files, _ := filepath.Glob("/proc/driver/nvidia/gpus/*/information")
	for _, f := range files {
		data, _ := os.ReadFile(f)
		for line := range strings.Lines(string(data)) {
			if name, ok := strings.CutPrefix(line, "Model:"); ok {
				return strings.TrimSpace(name), ""
			}
		}
	}
	return "", ""
}

// peaks are the dense bf16 TFLOP/s of the data sheets, longer names first.
var peaks = []struct {
	name   string
	tflops float64
}{
	{"H100 PCIe", 756}, {"H100 NVL", 835}, {"H100", 989}, {"H200", 989}, {"B200", 2250}, {"GH200", 989},
	{"A100", 312}, {"A10G", 70}, {"L40S", 362}, {"L40", 181}, {"L4", 121}, {"RTX 4090", 165}, {"RTX 3090", 71}, {"RTX 5090", 210},
}

func peakOf(gpu string) float64 {
	for _, p := range peaks {
		if strings.Contains(gpu, p.name) {
			return p.tflops
		}
	}
	return 0
}
