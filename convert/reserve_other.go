//go:build !linux

package convert

import "os"

// reserve gives f its full size at once.
func reserve(f *os.File, size int64) error { return f.Truncate(size) }
