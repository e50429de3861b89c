package trainer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/evatool/evatool/internal/comm/mpitest"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/runlog"
)

// jobRecipe is that of the jobs under mpirun.
func jobRecipe(t testing.TB) *Recipe { return tiny(t, "drop_path=0", "lanes=4") }

// mpiChild trains as one rank of a job.
func mpiChild(t *testing.T) {
	out := os.Getenv("EVATOOL_TEST_OUT")
	_, err := Run(context.Background(), jobRecipe(t), Options{Out: out, Backend: "go", Threads: 1, Log: runlog.NewLogger(os.Stderr, false, false)})
	var other interface{ Said() bool }
	if err != nil && !(errors.As(err, &other) && other.Said()) {
		fmt.Println("child:", err)
	}
	os.Exit(fault.Code(err))
}

// mpiJob is a job of n ranks of this test.
func mpiJob(l mpitest.Launcher, n int, out string) *exec.Cmd {
	cmd := l.Command(n, os.Args[0], "-test.run=^TestMPIRun$")
	cmd.Env = append(cmd.Env, "EVATOOL_TEST_CHILD=train", "EVATOOL_TEST_OUT="+out)
	return cmd
}

// output runs a job; a minute is far more than it needs.
func output(t *testing.T, cmd *exec.Cmd) (string, error) {
	t.Helper()
	var text bytes.Buffer
	cmd.Stdout, cmd.Stderr = &text, &text
	cmd.WaitDelay = time.Second
	timer := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
	defer timer.Stop()
	err := cmd.Run()
	return text.String(), err
}

// TestMPIRun: under each MPI of this machine a job leaves the bits that it
// leaves with ranks of goroutines.
func TestMPIRun(t *testing.T) {
	if os.Getenv("EVATOOL_TEST_CHILD") == "train" {
		mpiChild(t)
	}
	dir := t.TempDir()
	want := filepath.Join(dir, "want")
	mustRunRanks(t, 2, want, 0, jobRecipe(t))
	for i, l := range mpitest.Need(t) {
		out := filepath.Join(dir, fmt.Sprint(i))
		text, err := output(t, mpiJob(l, 2, out))
		if err != nil {
			t.Errorf("%s: %v\n%s", l, err, text)
			continue
		}
		if !bytes.Equal(readFile(t, out, finalFile), readFile(t, want, finalFile)) {
			t.Errorf("%s: other bits than ranks of goroutines", l)
		}
		if n := strings.Count(text, "msg=training"); n != 1 {
			t.Errorf("%s: %d ranks log\n%s", l, n, text)
		}
	}
}
