package trainer

import (
	"fmt"
	"os"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/fault"
)

// fitsHost refuses a batch whose pictures do not fit the host's memory, which
// would end in a crash.
func fitsHost(r *Recipe, cfg *arch.Config) error {
	row := 3*r.Image.Size*r.Image.Size + 4*cfg.Text.ContextLength
	need := float64(prefetch+1) * float64(r.Batch) * float64(row)
	if have := hostMemory(); need > have {
		return fault.Envf("batch %d: %d batches of pictures lie in the host's memory and take %.3g GB, it has %.3g GB; take a smaller batch", r.Batch, prefetch+1, need/1e9, have/1e9)
	}
	return nil
}

// hostMemory is the host's memory in bytes, and much where that is not known.
func hostMemory() float64 {
	text, err := os.ReadFile("/proc/meminfo")
	var kb float64
	if _, scan := fmt.Sscanf(string(text), "MemTotal: %f", &kb); err != nil || scan != nil {
		return 1 << 40
	}
	return kb * 1024
}
