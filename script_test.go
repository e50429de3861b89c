package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/evatool/evatool/internal/arch/archtest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"evatool": main})
}

// The scripts run the commands as a user does: exit status, the one line of an
// error, and what is left on disk.
func TestScripts(t *testing.T) {
	data, err := filepath.Abs("testdata")
	if err != nil {
		t.Fatal(err)
	}
	home, err := os.UserCacheDir()
	if err != nil {
		t.Skip("no cache folder for the user: set HOME")
	}
	model := archtest.ZeroShotModel(t, filepath.Join(data, "zeroshot"))
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", "script"),
		Setup: func(e *testscript.Env) error {
			e.Setenv("DATA", data)
			e.Setenv("MODEL", model)
			e.Setenv("XDG_CACHE_HOME", home) // an installed plugin stays visible
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"status": status, "oneline": oneline},
	})
}

// status CODE CMD...: the command must end with the exit status CODE.
func status(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status CODE CMD...")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := "0"
	if err != nil {
		got = exitCode(err)
	}
	if got != args[0] {
		ts.Fatalf("%v: exit status %s, want %s (%v)", args[1:], got, args[0], err)
	}
}

// oneline: the last command said what is wrong in one line, after its log.
func oneline(ts *testscript.TestScript, neg bool, args []string) {
	var said []string
	for line := range strings.Lines(ts.ReadFile("stderr")) {
		if !strings.HasPrefix(line, "t=") {
			said = append(said, line)
		}
	}
	if len(said) != 1 || !strings.HasPrefix(said[0], "evatool: ") {
		ts.Fatalf("stderr is not one line of evatool's after the log: %q", said)
	}
}

func exitCode(err error) string {
	var e *exec.ExitError
	if errors.As(err, &e) {
		return strconv.Itoa(e.ExitCode())
	}
	return err.Error()
}
