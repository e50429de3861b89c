package tensorfile

import (
	"fmt"
	"strings"

	"github.com/evatool/evatool/internal/atomicfile"
	"github.com/evatool/evatool/internal/fault"
)

// npyTypes are NumPy's names of element types (numpy.lib.format).
var npyTypes = map[DType]string{U8: "|u1", F32: "<f4"}

// WriteNPY writes one array, U8 or F32, in NumPy's format 1.0, as numpy.save
// does.
func WriteNPY(path string, t Tensor) error {
	kind, ok := npyTypes[t.DType]
	if n, sized := CheckedBytes(t.Info); !ok || !sized || n != int64(len(t.Data)) {
		return fault.Inputf("tensor %q: %d bytes of %s %v cannot be written as a NumPy file", t.Name, len(t.Data), t.DType, t.Shape)
	}
	dims := make([]string, len(t.Shape))
	for i, d := range t.Shape {
		dims[i] = fmt.Sprint(d)
	}
	shape := strings.Join(dims, ", ")
	if len(dims) == 1 {
		shape += "," // a tuple of one
	}
	head := fmt.Sprintf("{'descr': '%s', 'fortran_order': False, 'shape': (%s), }", kind, shape)
	// The data begins at a multiple of 64 bytes: magic 6, version 2, length 2, head.
	head += strings.Repeat(" ", 63-(10+len(head))%64) + "\n"
	b := append([]byte("\x93NUMPY\x01\x00"), byte(len(head)), byte(len(head)>>8))
	return atomicfile.WriteFile(path, append(append(b, head...), t.Data...))
}
