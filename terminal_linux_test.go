package main

import (
	"bytes"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/evatool/evatool/internal/runlog/terminaltest"
)

// A training on a terminal of any width shows every log line that it writes
// into a file, whole, and one line of progress below them.
func TestTerminalKeepsLogLines(t *testing.T) {
	emoji, err := filepath.Abs("testdata/emoji")
	if err != nil {
		t.Fatal(err)
	}
	train := func(t *testing.T) (cmd *exec.Cmd, plain func(line string) string) {
		cmd, out := training(t, 12, "")
		cmd.Args[2] += fmt.Sprintf(` --set 'eval=[{every_steps: 4, benchmark: folder, limit: 8, data: %s/test-twemoji.tar, classnames: %[1]s/classnames.txt}]'`, emoji)
		times := regexp.MustCompile(`^t=\S+|\S*(seconds|peak|rate)=\S+`)
		return cmd, func(line string) string {
			return times.ReplaceAllString(strings.ReplaceAll(line, filepath.Dir(out), ""), "")
		}
	}
	cmd, plain := train(t)
	var piped bytes.Buffer
	cmd.Stderr = &piped
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, piped.String())
	}
	var want []string
	for line := range strings.Lines(piped.String()) {
		want = append(want, plain(strings.TrimRight(line, "\n")))
	}
	if n := strings.Count(piped.String(), "msg=evaluated"); n != 3 {
		t.Fatalf("%d evaluations in the log, want 3:\n%s", n, piped.String())
	}
	for _, columns := range []int{60, 100, 220} {
		t.Run(fmt.Sprint(columns), func(t *testing.T) {
			t.Parallel()
			term := terminaltest.Open(t, columns)
			cmd, plain := train(t)
			cmd.Stderr = term.TTY
			if err := cmd.Run(); err != nil {
				t.Error(err)
			}
			var got []string
			bar := ""
			for _, line := range term.Lines(t) {
				if strings.HasPrefix(line, "t=") {
					got = append(got, plain(line))
				} else if line != "" {
					bar += line + "\n"
				}
			}
			if !strings.Contains(term.Sent(), "  compiling ") {
				t.Error("the bar never said that the first step compiles")
			}
			if !slices.Equal(got, want) {
				t.Errorf("the terminal shows\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			if want := `^train .*\b12/12( steps)?  loss \d\.\d{3}  lr .*\n$`; !regexp.MustCompile(want).MatchString(bar) || len(bar) > columns {
				t.Errorf("progress %q, want one line like %q", bar, want)
			}
		})
	}
}

// A resumed training counts on from where the earlier process stopped.
func TestTerminalResumed(t *testing.T) {
	cmd, out := training(t, 12, "")
	first := exec.Command(cmd.Path, slices.Clone(cmd.Args[1:])...)
	first.Args[2] += " --stop-after 8"
	if said, err := first.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	term := terminaltest.Open(t, 100)
	cmd.Stderr = term.TTY
	if err := cmd.Run(); err != nil {
		t.Error(err)
	}
	shown := strings.Join(term.Lines(t), "\n")
	if !regexp.MustCompile(`(?m)^train .* 12/12 steps  loss \d`).MatchString(shown) || !strings.Contains(shown, "from_step=8") {
		t.Errorf("%s shows\n%s", out, shown)
	}
}
