package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// instruction is an instruction of a Dockerfile, its lines joined.
type instruction struct{ word, rest string }

func dockerfile(t *testing.T) (list []instruction) {
	t.Helper()
	b, err := os.ReadFile("Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	text := regexp.MustCompile(`(?m)^#.*\n`).ReplaceAllString(string(b), "")
	for line := range strings.Lines(strings.ReplaceAll(text, "\\\n", " ")) {
		if word, rest, _ := strings.Cut(strings.TrimSpace(line), " "); word != "" {
			list = append(list, instruction{word, strings.TrimSpace(rest)})
		}
	}
	return list
}

// TestDockerfile: there are two stages, and the second has only what it copies from the
// first; every source exists; the compiler is go.mod's.
func TestDockerfile(t *testing.T) {
	known := strings.Fields("FROM AS WORKDIR COPY RUN ARG ENV USER ENTRYPOINT CMD")
	stages, last, args := []string{}, map[string]string{}, map[string]bool{}
	for _, in := range dockerfile(t) {
		if !slices.Contains(known, in.word) {
			t.Errorf("%s: not an instruction of a Dockerfile", in.word)
		}
		words := strings.Fields(in.rest)
		switch in.word {
		case "FROM":
			name := ""
			if len(words) == 3 && words[1] == "AS" {
				name = words[2]
			}
			if len(stages) == 0 {
				mod, err := os.ReadFile("go.mod")
				if err != nil {
					t.Fatal(err)
				}
				want := regexp.MustCompile(`(?m)^go ([0-9]+\.[0-9]+)`).FindStringSubmatch(string(mod))[1]
				if !strings.HasPrefix(words[0], "golang:"+want+"-") {
					t.Errorf("built with %s, go.mod says %s", words[0], want)
				}
			}
			stages, last = append(stages, name), map[string]string{}
		case "COPY":
			if from, ok := strings.CutPrefix(words[0], "--from="); ok {
				if !slices.Contains(stages[:len(stages)-1], from) {
					t.Errorf("COPY %s: no earlier stage %q", in.rest, from)
				}
				break
			}
			for _, source := range words[:len(words)-1] {
				if found, err := filepath.Glob(source); err != nil || len(found) == 0 {
					t.Errorf("COPY %s: no %s here", in.rest, source)
				}
			}
		case "ARG":
			name, _, _ := strings.Cut(in.rest, "=")
			args[name] = true
		}
		for _, v := range regexp.MustCompile(`\$([A-Z]+)`).FindAllStringSubmatch(in.rest, -1) {
			if !args[v[1]] {
				t.Errorf("%s: no ARG for $%s before it", in.word, v[1])
			}
		}
		last[in.word] = in.rest
	}
	if len(stages) != 2 {
		t.Errorf("%d stages, want 2", len(stages))
	}
	if last["ENTRYPOINT"] != `["evatool"]` || last["USER"] == "" || strings.HasPrefix(last["USER"], "0") || strings.HasPrefix(last["USER"], "root") {
		t.Errorf("the image starts %s as user %q", last["ENTRYPOINT"], last["USER"])
	}
}

// TestDockerImage builds the image, if Docker runs and the base images are available,
// and asks it for its version.
func TestDockerImage(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	docker := func(args ...string) (string, error) {
		b, err := exec.CommandContext(ctx, "docker", args...).CombinedOutput()
		return string(b), err
	}
	if testing.Short() {
		t.Skip("-short: the image is not built")
	}
	if _, err := docker("info"); err != nil {
		t.Skip("no Docker daemon: the image is not built, its Dockerfile is checked by TestDockerfile")
	}
	for _, in := range dockerfile(t) {
		if image, _, _ := strings.Cut(in.rest, " "); in.word == "FROM" {
			if out, err := docker("pull", "--quiet", image); err != nil {
				t.Skipf("base image %s cannot be had: %s", image, out)
			}
		}
	}
	const tag = "evatool-test"
	if out, err := docker("build", "--build-arg", "PLUGIN=", "--build-arg", "VERSION=9.8.7", "-t", tag, "."); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	defer docker("image", "rm", tag)
	if out, err := docker("run", "--rm", tag, "version"); err != nil || !strings.Contains(out, "9.8.7") || !strings.Contains(out, "X:simd") {
		t.Errorf("%v\n%s", err, out)
	}
}
