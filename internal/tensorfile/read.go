package tensorfile

import (
	"cmp"
	"io"

	"github.com/evatool/evatool/internal/fault"
)

// find looks a tensor up by name.
func find(src Source, name string) (Info, error) {
	for _, t := range src.Tensors() {
		if t.Name == name {
			return t, nil
		}
	}
	return Info{}, fault.Inputf("no tensor %q; `evatool inspect` lists them", name)
}

// ReadAll reads a tensor's bytes: contiguous, row-major, little-endian.
func ReadAll(src Source, name string) ([]byte, error) {
	t, err := find(src, name)
	if err != nil {
		return nil, err
	}
	r, err := src.Open(name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	out := make([]byte, t.NumBytes())
	if _, err := io.ReadFull(r, out); err != nil {
		return nil, err
	}
	// The read past the end reports a wrong checksum.
	if n, err := io.ReadFull(r, make([]byte, 1)); n > 0 || err != io.EOF {
		return nil, cmp.Or(err, fault.Inputf("tensor %q: the source has more than %d bytes", name, len(out)))
	}
	return out, nil
}
