package eval

import "github.com/evatool/evatool/internal/img"

// SetDecodeMemory bounds what the pictures that this process decodes at a time
// may take together, in bytes, here and in package trainer: one that does not fit
// waits, one that is larger than the whole is decoded alone. It is 1 GiB unless
// set.
func SetDecodeMemory(bytes int64) { img.SetMemory(bytes) }
