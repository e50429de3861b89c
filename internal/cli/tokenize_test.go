package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/evatool/evatool/internal/fault"
)

// tokenize runs the command and returns what it printed.
func tokenize(t *testing.T, stdin string, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	app := &App{In: strings.NewReader(stdin), Out: &out, Err: &bytes.Buffer{}}
	root := newRoot(app)
	root.SetArgs(append([]string{"tokenize"}, args...))
	err := root.ExecuteContext(context.Background())
	return out.String(), err
}

func TestTokenize(t *testing.T) {
	cat := []int{49406, 320, 1125, 539, 320, 2368, 49407}
	empty := []int{49406, 49407}
	for _, tt := range []struct {
		name, stdin string
		args        []string
		want        [][]int
	}{
		{"arguments", "", []string{"a photo of a cat", ""}, [][]int{cat, empty}},
		{"lines", "a photo of a cat\r\n\nA  photo of a CAT", nil, [][]int{cat, empty, cat}},
		{"json", `["a photo\nof a cat", ""]`, []string{"--json-input"}, [][]int{cat, empty}},
		{"cut", "", []string{"--context", "3", "a photo of a cat"}, [][]int{{49406, 320, 49407}}},
		{"nothing", "", nil, [][]int{}},
		{"empty array", "[]", []string{"--json-input"}, [][]int{}},
	} {
		out, err := tokenize(t, tt.stdin, append(tt.args, "--json")...)
		var got [][]int
		if err == nil {
			err = json.Unmarshal([]byte(out), &got)
		}
		if diff := cmp.Diff(tt.want, got); err != nil || diff != "" {
			t.Errorf("%s: %v\n%s", tt.name, err, diff)
		}
	}
	if out, err := tokenize(t, "", "a photo of a cat", "cat"); err != nil || out != "49406 320 1125 539 320 2368 49407\n49406 2368 49407\n" {
		t.Errorf("without --json: %q, %v", out, err)
	}
}

func TestTokenizeErrors(t *testing.T) {
	for _, tt := range []struct {
		stdin string
		args  []string
		want  fault.Kind
	}{
		{"{}", []string{"--json-input"}, fault.Input},
		{`["a"] ["b"]`, []string{"--json-input"}, fault.Input},
		{"ok\ncaf\xe9\n", nil, fault.Input},
		{"[\"caf\xe9\"]", []string{"--json-input"}, fault.Input},
		{"", []string{"caf\xe9"}, fault.Input},
		{"", []string{"--json-input", "a"}, fault.Usage},
		{"", []string{"--context", "1", "a"}, fault.Usage},
	} {
		if out, err := tokenize(t, tt.stdin, tt.args...); fault.Code(err) != int(tt.want) || out != "" {
			t.Errorf("%q %q: printed %q, %v; want exit status %d", tt.stdin, tt.args, out, err, tt.want)
		}
	}
}

// Ctrl-C ends a command that waits for its texts.
func TestTokenizeInterrupted(t *testing.T) {
	in, w := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	defer time.AfterFunc(5*time.Second, func() { w.Close() }).Stop()
	if code := Main(ctx, []string{"tokenize"}, in, io.Discard, io.Discard); code != int(fault.Interrupted) {
		t.Errorf("exit status %d", code)
	}
	w.Close()
}
