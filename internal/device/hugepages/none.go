//go:build !cgo

package hugepages

import "log/slog"

// Reexec does nothing: a build without cgo has no CPU plugin.
func Reexec(string, *slog.Logger) {}
