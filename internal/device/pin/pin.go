// Package pin names the modules whose insides evatool reaches into, each in the
// one version that this was written for. A program that uses evatool as a
// library may be linked with another version: then whatever reaches in is left
// out, and results are the same, only slower.
package pin

import (
	"runtime/debug"
	"sync"
)

// Module is a module in a version.
type Module struct{ Path, Version string }

// The modules. TestVersions says what to check before a version changes.
var (
	Compute = Module{"github.com/gomlx/compute", "v0.1.3"}
	GoXLA   = Module{"github.com/gomlx/go-xla", "v0.4.2"}
	GoMLX   = Module{"github.com/gomlx/gomlx", "v0.28.2"}
)

var build = sync.OnceValue(func() *debug.BuildInfo {
	info, _ := debug.ReadBuildInfo()
	return info
})

// Linked says whether this program holds the modules in exactly these versions.
func Linked(modules ...Module) bool {
	for _, m := range modules {
		if !m.in(build()) {
			return false
		}
	}
	return true
}

// in says whether a build has m. A build that does not list it says nothing: a
// test's is like that, and there TestVersions looks at go.mod.
func (m Module) in(info *debug.BuildInfo) bool {
	if info == nil {
		return true
	}
	for _, d := range info.Deps {
		if d.Path == m.Path {
			return d.Version == m.Version && d.Replace == nil
		}
	}
	return true
}
