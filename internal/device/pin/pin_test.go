package pin

import (
	"os"
	"runtime/debug"
	"strings"
	"testing"
)

// TestVersions fails when go.mod takes another version: then check what is
// listed here in the new one, and change the version in pin.go.
func TestVersions(t *testing.T) {
	mod, err := os.ReadFile("../../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	for m, check := range map[Module]string{
		Compute: `
  goexec/table.go: the table nodeExecutors and the signature of its entries, (*Backend).GetBuffer, the fields Shape and Data of Node
  goexec/operations.go: the fields that each operation's Data has
  backend.go (openGo): the field Workers of the backend and its SetMaxParallelism; does its default limit still wait for itself?`,
		GoXLA: `
  pjrt/table.c: ExecuteAndWait (pjrt/loadedexecutables.go) must still call Execute and then Event_Await, once for each
    device and for those events only, in one C call on one thread: the waits that table.c skips are the next ones of the thread
  pjrt/alias.go: the fields mainFn and fn of xla.Builder; Inputs of a StableHLO function in the order of the parameters
  pjrt/memory.go: the field exec of xla.Executable, a *pjrt.LoadedExecutable
  pjrt/client.go (Zeros): BufferFromFlatData of the CPU plugin must copy before it returns; shared buffers cannot be donated
  pjrt/client.go: NewWithOptions with an absolute name downloads nothing and sets no environment variable`,
		GoMLX: `
  pjrt/alias.go: the field builder of graph.Graph; parameters numbered in the order in which they were made`,
	} {
		if !strings.Contains(string(mod), "\t"+m.Path+" "+m.Version+"\n") {
			t.Errorf("go.mod does not have %s %s. Before the version in pin.go changes, check:%s", m.Path, m.Version, check)
		}
		if strings.Contains(string(mod), "replace "+m.Path) {
			t.Errorf("go.mod replaces %s. Check:%s", m.Path, check)
		}
	}
}

// TestLinked: another version and a replaced one count as unknown.
func TestLinked(t *testing.T) {
	m := Module{"a/b", "v1.2.3"}
	for _, c := range []struct {
		dep  debug.Module
		want bool
	}{
		{debug.Module{Path: "a/b", Version: "v1.2.3"}, true},
		{debug.Module{Path: "a/b", Version: "v1.2.4"}, false},
		{debug.Module{Path: "a/b", Version: "v1.2.3", Replace: &debug.Module{Path: "../b"}}, false},
		{debug.Module{Path: "other", Version: "v1.2.4"}, true},
	} {
		if got := m.in(&debug.BuildInfo{Deps: []*debug.Module{&c.dep}}); got != c.want {
			t.Errorf("%+v: %v", c.dep, got)
		}
	}
	if !m.in(nil) || !Linked(Compute, GoXLA, GoMLX) {
		t.Error("a build without a list")
	}
}
