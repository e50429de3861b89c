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

// Open opens a backend. An XLA test is skipped where no CPU plugin is
// installed; a backend that is there and does not open fails the test.
func Open(t testing.TB, o device.Options) *device.Device {
	t.Helper()
	isCPU := func(p plugins.Plugin) bool { return p.Kind == plugins.CPU }
	if strings.HasPrefix(o.Backend, "xla") && !slices.ContainsFunc(plugins.Find(), isCPU) {
		t.Skip("no CPU plugin here: run `evatool backend install cpu`")
	}
	d, err := device.Open(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	return d
}
