// All runs every benchmark and writes one page with the machine, the versions, the
// date and each benchmark's table.
//
//	go run ./benchmarks/all --python /path/of/python -o bench.md
//
// The Python needs torch, torchvision, open_clip, safetensors and, for the probe,
// scikit-learn; without it only evatool is measured. The page is complete after each
// benchmark, and names those that fail. The machine should do nothing else: its load
// at the start of each benchmark is on the page.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/evatool/evatool/internal/atomicfile"
)

// section is one benchmark.
type section struct {
	name  string
	title string
	cmd   []string
}

func sections(tool, python, data string) []section {
	run := func(name string, args ...string) []string {
		return append([]string{"go", "run", "./benchmarks/" + name}, args...)
	}
	all := []section{
		{"tokens", "Captions to tokens", []string{"go", "test", "-run", "^$", "-bench", ".", "./internal/bpe"}},
		{"pixels", "Pictures to tensors, one core", run("pixels", "--peer", python)},
		{"convert", "A checkpoint to safetensors", run("convert", "--evatool", tool, "--python", python)},
		{"forward", "Towers", run("forward", "--sides", "xla,go,eager,compile", "--python", python)},
		{"train", "Training steps", run("train", "-python", python)},
		{"library", "Many callers of one model", run("library")},
		{"probe", "A linear probe", run("probe", "--python", python)},
		{"many", "50,000 pictures", run("many", "--evatool", tool)},
	}
	if python != "" && data != "" {
		all = append(all, section{"zeroshot", "Zero-shot from end to end", run("zeroshot", "--evatool", tool, "--python", python, "--data", data)})
	}
	return all
}

func main() {
	python := flag.String("python", "", "a Python with torch, torchvision, open_clip, safetensors and scikit-learn")
	tool := flag.String("evatool", "bin/evatool", "the binary")
	data := flag.String("data", "", "photographs for the zero-shot benchmark, a folder with one sub-folder per class; without it that benchmark is left out")
	out := flag.String("o", "bench.md", "the page")
	only := flag.String("only", "", "which benchmarks, separated by commas (default all)")
	flag.Parse()
	if err := run(*tool, *python, *data, *out, *only); err != nil {
		fmt.Fprintln(os.Stderr, "all:", err)
		os.Exit(1)
	}
}

func run(tool, python, data, out, only string) error {
	all := sections(tool, python, data)
	if only != "" {
		want := strings.Split(only, ",")
		for _, w := range want {
			if !slices.ContainsFunc(all, func(s section) bool { return s.name == w }) {
				return fmt.Errorf("unknown benchmark %q", w)
			}
		}
		all = slices.DeleteFunc(all, func(s section) bool { return !slices.Contains(want, s.name) })
	}
	var page bytes.Buffer
	head(&page, tool, python)
	var failed []string
	for _, s := range all {
		fmt.Fprintf(os.Stderr, "%s %s\n", time.Now().Format(time.TimeOnly), strings.Join(s.cmd, " "))
		fmt.Fprintf(&page, "\n## %s\n\n`%s`, load %s\n\n", s.title, strings.Join(s.cmd, " "), load())
		c := exec.Command(s.cmd[0], s.cmd[1:]...)
		var errs bytes.Buffer
		c.Stderr = &errs
		table, err := c.Output()
		if s.cmd[1] == "test" { // no Markdown
			table = fmt.Appendf(nil, "```\n%s```\n", table)
		}
		page.Write(table)
		if err != nil {
			failed = append(failed, s.name)
			fmt.Fprintf(&page, "\nFAILED: %v\n\n```\n%s\n```\n", err, lastLines(errs.String(), 8))
			fmt.Fprintf(os.Stderr, "%s failed: %v\n%s\n", s.name, err, lastLines(errs.String(), 8))
		}
		if err := atomicfile.WriteFile(out, page.Bytes()); err != nil {
			return err
		}
	}
	if failed != nil {
		return fmt.Errorf("failed: %s (see the page %s)", strings.Join(failed, ", "), out)
	}
	return nil
}

// head says what was measured, and on what.
func head(page *bytes.Buffer, tool, python string) {
	fmt.Fprintf(page, "# Benchmarks of %s\n\n", time.Now().UTC().Format("2006-01-02 15:04 MST"))
	fmt.Fprintf(page, "| | |\n|---|---|\n| processor | %s, %d cores seen, %s |\n", processor(), runtime.NumCPU(), features())
	fmt.Fprintf(page, "| memory | %s |\n| system | %s, %s |\n", field("/proc/meminfo", "MemTotal"), runtime.GOOS, runtime.Version())
	fmt.Fprintf(page, "| evatool | %s |\n", text(tool, "version"))
	if python != "" {
		fmt.Fprintf(page, "| peer | %s |\n", text(python, "-c",
			"import platform, torch, torchvision, open_clip; print('Python', platform.python_version(), '· torch', torch.__version__, '· torchvision', torchvision.__version__, '· open_clip', open_clip.__version__)"))
	}
	fmt.Fprint(page, "\nSides take turns. A ratio is one round's; its median is given with the interval that holds the true one with 95 % (lowest and highest with fewer than six rounds).\n")
}

func processor() string {
	if s := field("/proc/cpuinfo", "model name"); s != "" {
		return s
	}
	return runtime.GOARCH
}

// features are the vector instructions that affect speed.
func features() string {
	flags := strings.Fields(field("/proc/cpuinfo", "flags"))
	var have []string
	for _, f := range []string{"avx2", "avx512f", "avx512_bf16", "amx_bf16"} {
		if slices.Contains(flags, f) {
			have = append(have, f)
		}
	}
	if have == nil {
		return "vector instructions unknown"
	}
	return strings.Join(have, " ")
}

// field is the first value of a key in a file of /proc, empty if there is none.
func field(file, key string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == key {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

func load() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	s, _, _ := strings.Cut(string(b), " ")
	return s
}

// text is what a command prints, on one line, or why it failed.
func text(name string, args ...string) string {
	b, err := exec.Command(name, args...).Output()
	if err != nil {
		if e := (*exec.ExitError)(nil); errors.As(err, &e) && len(e.Stderr) > 0 {
			return fmt.Sprintf("%v: %s", err, lastLines(string(e.Stderr), 1))
		}
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	for i, l := range lines {
		lines[i] = strings.Join(strings.Fields(l), " ")
	}
	return strings.Join(lines, ", ")
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
