//go:build cgo

package hugepages

import (
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestReexec: the program starts again once with the tunables, the same
// arguments and exit status; signals reach it.
func TestReexec(t *testing.T) {
	if os.Getenv("EVATOOL_TEST_CHILD") == "reexec" {
		Reexec("xla:"+os.Getenv("EVATOOL_TEST_BACKEND"), slog.New(slog.DiscardHandler))
		os.Stdout.WriteString(strings.Join(os.Args[1:], " ") + "|" + os.Getenv(tunablesEnv) + "\n")
		if os.Getenv("EVATOOL_TEST_WAIT") != "" {
			time.Sleep(time.Minute)
		}
		os.Exit(7)
	}
	if why := whyNotReexec("go"); why != "the backend is not the CPU plugin" {
		t.Skip("not on this machine:", why)
	}
	child := func(env ...string) *exec.Cmd {
		cmd := exec.Command(os.Args[0], "-test.run=^TestReexec$", "an argument")
		cmd.Env = append(os.Environ(), append(env, "EVATOOL_TEST_CHILD=reexec")...)
		return cmd
	}
	for _, c := range []struct{ name, backend, before, want string }{
		{"cpu plugin", "/x/cpu.so", "", tunables},
		{"other tunables", "/x/cpu.so", "glibc.malloc.check=0", "glibc.malloc.check=0:" + tunables},
		{"set already", "/x/cpu.so", "glibc.malloc.hugetlb=0", "glibc.malloc.hugetlb=0"},
		{"gpu", "/x/cuda.so", "", ""},
	} {
		out, err := child("EVATOOL_TEST_BACKEND="+c.backend, tunablesEnv+"="+c.before).Output()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 7 {
			t.Errorf("%s: %v", c.name, err)
		}
		if want := "-test.run=^TestReexec$ an argument|" + c.want + "\n"; string(out) != want {
			t.Errorf("%s: %q, not %q", c.name, out, want)
		}
	}
	cmd := child("EVATOOL_TEST_BACKEND=/x/cpu.so", "EVATOOL_TEST_WAIT=1")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stdout.Read(make([]byte, 1)) // started again
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
		t.Errorf("after SIGTERM: %v", err)
	}
}
