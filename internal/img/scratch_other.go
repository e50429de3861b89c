//go:build !unix

package img

// Scratch is n zero bytes, and free gives them back.
func Scratch(n int) (b []byte, free func()) { return make([]byte, n), func() {} }
