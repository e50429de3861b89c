//go:build darwin || (linux && !amd64)

package img

// openLibjpeg: the libjpeg API is used on Linux on amd64 only.
func openLibjpeg() *library { return nil }
