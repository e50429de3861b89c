package runlog

import (
	"regexp"
	"runtime"
	"runtime/debug"
	"strings"
)

// Version is evatool's own version. A release sets it, and commit, with the
// linker: -ldflags "-X …/internal/runlog.Version=1.2.3 -X …/internal/runlog.commit=HASH".
var (
	Version = "0.1.0-dev"
	commit  string
)

// released is the version of a module at a tag, as go install finds it.
var released = regexp.MustCompile(`^v[0-9]+\.[0-9]+\.[0-9]+(-(alpha|beta|rc)\.?[0-9]+)?$`)

func init() {
	if info, ok := debug.ReadBuildInfo(); ok && strings.HasSuffix(Version, "-dev") && released.MatchString(info.Main.Version) {
		Version = strings.TrimPrefix(info.Main.Version, "v")
	}
}

// Versions says what this program was built from: evatool, its revision if the
// build knew it ("modified" if files had changed since), Go, cgo and Go's
// experiments, and the modules whose version can change a result.
func Versions() map[string]string {
	v := map[string]string{
		"evatool": Version,
		"go":      runtime.Version(),
		"os":      runtime.GOOS + "/" + runtime.GOARCH,
	}
	if commit != "" {
		v["revision"] = strings.TrimSuffix(commit, "-dirty")
		if v["revision"] != commit {
			v["modified"] = "yes"
		}
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	for _, m := range info.Deps {
		switch m.Path {
		case "github.com/gomlx/gomlx":
			v["gomlx"] = m.Version
		case "github.com/gomlx/compute":
			v["compute"] = m.Version
		case "github.com/gomlx/go-xla":
			v["go-xla"] = m.Version
		case "github.com/nlpodyssey/gopickle":
			v["gopickle"] = m.Version
		}
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v["revision"] = s.Value
		case "vcs.modified":
			if s.Value == "true" {
				v["modified"] = "yes"
			}
		case "CGO_ENABLED":
			v["cgo"] = map[string]string{"1": "yes"}[s.Value]
			if v["cgo"] == "" {
				v["cgo"] = "no"
			}
		case "GOEXPERIMENT":
			v["goexperiment"] = s.Value
		}
	}
	return v
}
