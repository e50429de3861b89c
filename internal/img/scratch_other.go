//go:build !unix

package img

// scratch is n zero bytes, and free gives them back.
func scratch(n int) (b []byte, free func()) { return make([]byte, n), func() {} }
