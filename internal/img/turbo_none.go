//go:build !linux && !darwin

package img

// openers: no library is looked for on this system.
var openers []opener
