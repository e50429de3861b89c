package trainer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/evatool/evatool/internal/comm/mpitest"
	"github.com/evatool/evatool/internal/dataset"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/runlog"
)

// jobRecipe is that of the jobs under mpirun; sets change it.
func jobRecipe(t testing.TB, sets ...string) *Recipe {
	return tiny(t, append([]string{"drop_path=0", "lanes=12", "batch=12"}, sets...)...)
}

// mpiChild trains as one rank of a job.
func mpiChild(t *testing.T) {
	out := os.Getenv("EVATOOL_TEST_OUT")
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGUSR1, syscall.SIGTERM)
	defer stop()
	_, err := Run(ctx, jobRecipe(t, strings.Fields(os.Getenv("EVATOOL_TEST_SETS"))...), Options{
		Out: out, Backend: "go", Threads: 1, ExchangeTimeout: time.Second, Log: runlog.NewLogger(os.Stderr, false, false)})
	var other interface{ Said() bool }
	if err != nil && !(errors.As(err, &other) && other.Said()) {
		fmt.Println("child:", err)
	}
	os.Exit(fault.Code(err))
}

// mpiJob is a job of n ranks of this test.
func mpiJob(l mpitest.Launcher, n int, out string, sets ...string) *exec.Cmd {
	cmd := l.Command(n, os.Args[0], "-test.run=^TestMPIRun$")
	cmd.Env = append(cmd.Env, "EVATOOL_TEST_CHILD=train", "EVATOOL_TEST_OUT="+out, "EVATOOL_TEST_SETS="+strings.Join(sets, " "))
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
// leaves with ranks of goroutines, even if SIGUSR1 has stopped it, as a cluster does
// before a job's time is up.
func TestMPIRun(t *testing.T) {
	if os.Getenv("EVATOOL_TEST_CHILD") == "train" {
		mpiChild(t)
	}
	dir := t.TempDir()
	want := filepath.Join(dir, "want")
	mustRunRanks(t, 2, want, 0, jobRecipe(t))
	for i, l := range mpitest.Need(t) {
		out := filepath.Join(dir, fmt.Sprint(i))
		cmd := mpiJob(l, 2, out)
		said, done := started(t, cmd)
		for range 600 {
			if stepsOf(out) > 1 {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		cmd.Process.Signal(syscall.SIGUSR1)
		<-done
		if !strings.Contains(said.String(), "child: stopped after step") {
			t.Errorf("%s: not stopped by SIGUSR1\n%s", l, said)
		}
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

// pids are the processes of the ranks of a job that has started.
func pids(out string, n int) (list []int) {
	for rank := range n {
		var p pulse
		text, err := os.ReadFile(filepath.Join(out, pulseDir, fmt.Sprintf("rank-%d.json", rank)))
		if err != nil || json.Unmarshal(text, &p) != nil {
			return nil
		}
		list = append(list, p.PID)
	}
	return list
}

// started is a running job, its output in text.
func started(t *testing.T, cmd *exec.Cmd) (text *bytes.Buffer, done chan error) {
	t.Helper()
	text, done = &bytes.Buffer{}, make(chan error, 1)
	cmd.Stdout, cmd.Stderr = text, text
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { done <- cmd.Wait() }()
	return text, done
}

// stepsOf is the number of lines in a run's metrics.
func stepsOf(out string) int {
	b, _ := os.ReadFile(filepath.Join(out, metricsFile))
	return bytes.Count(b, []byte("\n"))
}

// TestMPIHangs: a rank that hangs is named, with its phase, and the job ends.
func TestMPIHangs(t *testing.T) {
	list := mpitest.Need(t)
	if !*fullFlag {
		list = list[:1]
	}
	for _, l := range list {
		out := filepath.Join(t.TempDir(), "out")
		text, done := started(t, mpiJob(l, 2, out, "steps=100000", "checkpoint.every_steps=0"))
		for range 600 {
			if stepsOf(out) > 2 {
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
		ranks := pids(out, 2)
		if ranks == nil || syscall.Kill(ranks[1], syscall.SIGSTOP) != nil {
			t.Fatalf("%s: no rank 1\n%s", l, text)
		}
		defer syscall.Kill(ranks[1], syscall.SIGKILL)
		select {
		case err := <-done:
			if err == nil || !strings.Contains(text.String(), "no answer for") || !strings.Contains(text.String(), ": rank 1 (") {
				t.Errorf("%s: %v\n%s", l, err, text)
			}
		case <-time.After(time.Minute):
			syscall.Kill(ranks[0], syscall.SIGKILL)
			t.Errorf("%s: the job hangs", l)
		}
	}
}

// TestMPIKill kills ranks and launchers of a job at random moments, even while
// checkpoints are written: the job ends soon, and the resumed one ends with the same
// bits.
func TestMPIKill(t *testing.T) {
	for _, l := range mpitest.Need(t) {
		for _, n := range []int{2, 3} {
			if n == 3 && !*fullFlag {
				continue
			}
			t.Run(fmt.Sprint(l.Name, ", ", n), func(t *testing.T) { killedJob(t, l, n, (*killsFlag+1)/2) })
		}
	}
}

func killedJob(t *testing.T, l mpitest.Launcher, n, most int) {
	dir := t.TempDir()
	sets := []string{"checkpoint.every_steps=1"}
	want, cut := filepath.Join(dir, "want"), filepath.Join(dir, "cut")
	mustRunRanks(t, n, want, 0, jobRecipe(t, sets...))
	var slowest time.Duration
	kills := 0
	for try := 0; ; try++ {
		before := stepsOf(cut)
		os.RemoveAll(filepath.Join(cut, pulseDir))
		cmd := mpiJob(l, n, cut, sets...)
		text, done := started(t, cmd)
		if kills == most {
			if err := <-done; err != nil {
				t.Fatalf("the last job: %v\n%s", err, text)
			}
			break
		}
		var ranks []int
		for range 600 {
			if ranks = pids(cut, n); ranks != nil && (try%3 == 2 || stepsOf(cut) != before) {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		time.Sleep(time.Duration(dataset.MixKey(3, uint64(try), 4)%400) * time.Millisecond)
		if ranks == nil {
			t.Fatalf("no ranks\n%s", text)
		}
		victim := []int{ranks[n-1], ranks[0], cmd.Process.Pid}[kills%3]
		start := time.Now()
		if syscall.Kill(victim, syscall.SIGKILL) == nil {
			kills++
		}
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Errorf("the job goes on 10 s after a kill\n%s", text)
			cmd.Process.Kill()
		}
		for _, p := range ranks { // of a launcher that has died
			for syscall.Kill(p, 0) == nil && time.Since(start) < 10*time.Second {
				time.Sleep(20 * time.Millisecond)
			}
			if syscall.Kill(p, 0) == nil {
				t.Errorf("a rank lives 10 s after a kill of %d", kills%3)
				syscall.Kill(p, syscall.SIGKILL)
			}
		}
		slowest = max(slowest, time.Since(start))
		if exists(filepath.Join(cut, finalFile)) && stepsOf(cut) == 10 {
			os.RemoveAll(cut) // it was through: begin again
		}
	}
	t.Logf("%d kills, the slowest end %v", kills, slowest.Round(time.Millisecond))
	if !bytes.Equal(readFile(t, cut, finalFile), readFile(t, want, finalFile)) {
		t.Error("killed and resumed: other bits")
	}
	if steps, _ := lines(t, cut); len(steps) != 10 {
		t.Errorf("%d lines of metrics", len(steps))
	}
}
