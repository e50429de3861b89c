//go:build !amd64

package digest

const fast = false

func blocks2(_, _ *[8]uint32, _ *byte, _ int) { panic("digest: no SHA instructions here") }
