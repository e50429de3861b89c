package trainer

import (
	"flag"
	"os"
	"testing"
)

var (
	// killsFlag is how often TestKill kills a run.
	killsFlag = flag.Int("evatool.kills", 4, "how often TestKill kills a run")
	// fullFlag runs the reference tests on every backend and device count.
	fullFlag = flag.Bool("evatool.full", false, "run the reference tests on the Go backend, XLA, and XLA with 4 devices")
)

func TestMain(m *testing.M) {
	// Half the compile time, the same numbers within the tests' tolerances.
	if os.Getenv("XLA_FLAGS") == "" {
		os.Setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
	}
	os.Exit(m.Run())
}
