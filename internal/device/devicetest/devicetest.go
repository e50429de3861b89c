// Package devicetest opens backends for tests.
package devicetest

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/evatool/evatool/internal/device"
	"github.com/evatool/evatool/internal/device/plugins"
)

// Need skips an XLA test where no CPU plugin is installed.
func Need(t testing.TB, backend string) {
	t.Helper()
	isCPU := func(p plugins.Plugin) bool { return p.Kind == plugins.CPU }
	if strings.HasPrefix(backend, "xla") && !slices.ContainsFunc(plugins.Find(), isCPU) {
		t.Skip("no CPU plugin here: run `evatool backend install cpu`")
	}
}

// Open opens a backend that the test needs; one that is there and does not
// open fails the test.
func Open(t testing.TB, o device.Options) *device.Device {
	t.Helper()
	Need(t, o.Backend)
	d, err := device.Open(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	return d
}
