// Release builds the files of a release into a folder: one archive per system
// with the program, its completions and its man pages, and SHA256SUMS.
//
//	go run ./internal/release -version 1.2.3 -out dist
//
// The same sources, compilers and version give the same bytes. A system without
// a C compiler here is reported and left out: XLA plugins need cgo.
package main

import (
	"context"
	"debug/elf"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// target is a system that a release is for.
type target struct {
	os, arch string
	compiler string // cross compiler from other systems; "": only that system builds for itself
	from     string // where the compiler comes from
}

// targets are all the systems that evatool is built and tested for.
var targets = []target{
	{"linux", "amd64", "x86_64-linux-gnu-gcc", "Debian's gcc-x86-64-linux-gnu"},
	{"linux", "arm64", "aarch64-linux-gnu-gcc", "Debian's gcc-aarch64-linux-gnu"},
	{"darwin", "arm64", "", ""},
	{"darwin", "amd64", "", ""},
}

func (t target) String() string { return t.os + "/" + t.arch }

// cc is the C compiler for a target, or why there is none. here is the system
// that builds, own its compiler, and look finds a program.
func (t target) cc(here target, own string, look func(string) (string, error)) (cc, why string) {
	switch {
	case t.os == here.os && t.arch == here.arch:
		if _, err := look(own); err != nil {
			return "", "no C compiler " + own
		}
		return own, ""
	case t.os == "darwin" && here.os == "darwin":
		return own + " -arch " + map[string]string{"amd64": "x86_64", "arm64": "arm64"}[t.arch], ""
	case t.compiler == "":
		return "", "its C compiler runs only on " + t.os
	}
	if _, err := look(t.compiler); err != nil {
		return "", "no C compiler " + t.compiler + " (" + t.from + ")"
	}
	return t.compiler, ""
}

func main() {
	version := flag.String("version", "", "version of the release (default: git describe)")
	out := flag.String("out", "dist", "output folder, which is emptied first")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := release(ctx, *version, *out); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

func release(ctx context.Context, version, out string) error {
	commit := git(ctx, "describe", "--always", "--abbrev=40", "--match=nothing", "--dirty")
	if version == "" {
		version = strings.TrimPrefix(git(ctx, "describe", "--tags", "--always", "--dirty"), "v")
	}
	if version == "" {
		return fmt.Errorf("no version: give -version, or build in a git clone")
	}
	when := time.Unix(0, 0)
	if s, err := strconv.ParseInt(git(ctx, "log", "-1", "--format=%ct"), 10, 64); err == nil {
		when = time.Unix(s, 0)
	}
	work, err := os.MkdirTemp("", "release-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	if err := os.RemoveAll(out); err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	docs, err := documents(when)
	if err != nil {
		return err
	}
	for _, name := range []string{"README.md", "CHANGELOG.md", "LICENSE", "NOTICE"} {
		b, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		docs = append(docs, file{name, 0o644, b})
	}
	here, own := target{os: runtime.GOOS, arch: runtime.GOARCH}, os.Getenv("CC")
	if own == "" {
		own = "cc"
	}
	var archives []string
	for _, t := range targets {
		cc, why := t.cc(here, own, exec.LookPath)
		if why != "" {
			fmt.Printf("%-13s left out: %s\n", t, why)
			continue
		}
		bin := filepath.Join(work, t.os+"-"+t.arch)
		if err := build(ctx, t, cc, version, commit, bin); err != nil {
			return fmt.Errorf("%s: %w", t, err)
		}
		b, err := os.ReadFile(bin)
		if err != nil {
			return err
		}
		name := fmt.Sprintf("evatool-%s-%s-%s", version, t.os, t.arch)
		files := append([]file{{"evatool", 0o755, b}}, docs...)
		if err := writeArchive(filepath.Join(out, name+".tar.gz"), name, files, when); err != nil {
			return err
		}
		archives = append(archives, name+".tar.gz")
		fmt.Printf("%-13s %s\n", t, has(t, bin))
	}
	if len(archives) == 0 {
		return fmt.Errorf("nothing could be built")
	}
	slices.Sort(archives)
	return writeSums(out, archives)
}

// build builds the program for a target.
func build(ctx context.Context, t target, cc, version, commit, to string) error {
	const log = "github.com/evatool/evatool/internal/runlog"
	flags := "-s -w -X " + log + ".Version=" + version
	if commit != "" {
		flags += " -X " + log + ".commit=" + commit
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", flags, "-o", to, ".")
	cmd.Env = append(os.Environ(), "GOOS="+t.os, "GOARCH="+t.arch, "CC="+cc, "CGO_ENABLED=1", "GOEXPERIMENT=simd")
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	return cmd.Run()
}

// has describes what the program for a target can do and needs.
func has(t target, bin string) string {
	says := "XLA by plugin, Go backend with AVX2 kernels"
	if t.arch != "amd64" {
		says = "XLA by plugin, Go backend without vector kernels (slow)"
	}
	f, err := elf.Open(bin)
	if err != nil {
		return says
	}
	defer f.Close()
	symbols, err := f.ImportedSymbols()
	if err != nil {
		return says
	}
	newest := []int{0, 0}
	for _, s := range symbols {
		var v [2]int
		if n, _ := fmt.Sscanf(s.Version, "GLIBC_%d.%d", &v[0], &v[1]); n == 2 && slices.Compare(v[:], newest) > 0 {
			newest = slices.Clone(v[:])
		}
	}
	return fmt.Sprintf("%s; glibc %d.%d or later", says, newest[0], newest[1])
}

// git is the one line that git prints; "" without git or outside a clone.
func git(ctx context.Context, args ...string) string {
	b, err := exec.CommandContext(ctx, "git", args...).Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
