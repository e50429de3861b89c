package main

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/evatool/evatool/internal/arch/archtest"
	"github.com/evatool/evatool/internal/runlog/browsertest"
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
	reports := browsertest.New(t)
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", "script"),
		Setup: func(e *testscript.Env) error {
			e.Setenv("DATA", data)
			e.Setenv("MODEL", model)
			e.Setenv("XDG_CACHE_HOME", home) // an installed plugin stays visible
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"status": status, "oneline": oneline, "refused": refused,
			"browse": func(ts *testscript.TestScript, neg bool, args []string) { browse(ts, reports, neg, args) },
		},
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

// progressLine is what a long command writes every half minute.
var progressLine = regexp.MustCompile(`^[a-z ]+: \d.*\n$`)

// oneline: the last command said what is wrong in one line, after its log.
func oneline(ts *testscript.TestScript, neg bool, args []string) {
	var said []string
	for line := range strings.Lines(ts.ReadFile("stderr")) {
		if !strings.HasPrefix(line, "t=") && !progressLine.MatchString(line) {
			said = append(said, line)
		}
	}
	if len(said) != 1 || !strings.HasPrefix(said[0], "evatool: ") {
		ts.Fatalf("stderr is not one line of evatool's after the log: %q", said)
	}
}

// browse FILE TITLE: the report whose title begins with TITLE works for all readers; it
// is opened in a browser, if there is one.
func browse(ts *testscript.TestScript, b *browsertest.Browser, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: browse FILE TITLE")
	}
	if browsertest.Find() == "" {
		ts.Logf("%s", browsertest.Missing)
		return
	}
	p, err := b.Look(ts.MkAbs(args[0]))
	ts.Check(err)
	if len(p.Faults) > 0 {
		ts.Fatalf("%s:\n%s", args[0], strings.Join(p.Faults, "\n"))
	}
	if !strings.HasPrefix(p.Title, args[1]) || p.Texts < 20 || p.Tables == 0 || p.Stops == 0 {
		ts.Fatalf("%s: looked at too little: %+v", args[0], *p)
	}
}

// TestReportsAreBrowsed: every kind of report that the program writes is opened by
// a script.
func TestReportsAreBrowsed(t *testing.T) {
	scripts, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	opened := ""
	for _, s := range scripts {
		b, err := os.ReadFile(s)
		if err != nil {
			t.Fatal(err)
		}
		opened += string(b)
	}
	written := map[string]int{} // by the words that the title begins with
	for _, dir := range []string{"convert", "eval", "trainer", "internal"} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			b, err := os.ReadFile(path)
			for _, m := range regexp.MustCompile(`NewPage\("([^"]+)"`).FindAllSubmatch(b, -1) {
				written[string(m[1])]++
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(written) < 6 {
		t.Errorf("reports found: %v", written)
	}
	for title, n := range written {
		if got := len(regexp.MustCompile(`(?m)^browse .* ''?`+regexp.QuoteMeta(title)).FindAllString(opened, -1)); got < n {
			t.Errorf("%d kinds of reports begin with %q, scripts browse %d: add browse FILE %q to one that writes it", n, title, got, title)
		}
	}
}

func exitCode(err error) string {
	var e *exec.ExitError
	if errors.As(err, &e) {
		return strconv.Itoa(e.ExitCode())
	}
	return err.Error()
}

// refused CODE CMD...: the command, a training, is refused with the exit status
// CODE, its dry run as well, both in the same line.
func refused(ts *testscript.TestScript, neg bool, args []string) {
	var said [2]string
	for i, more := range [][]string{nil, {"--dry-run"}} {
		status(ts, neg, append(slices.Clip(args), more...))
		oneline(ts, false, nil)
		lines := strings.Split(strings.TrimSpace(ts.ReadFile("stderr")), "\n")
		said[i] = lines[len(lines)-1]
	}
	if said[0] != said[1] {
		ts.Fatalf("%v\nis refused with    %s\nits dry run with   %s", args[1:], said[0], said[1])
	}
}
