package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/evatool/evatool/internal/fault"
)

// child measures a row with this program in a process of its own.
func child(flags []string) rowFunc {
	return func(ctx context.Context, i int, before *Report, end time.Time) (*Report, error) {
		dir, err := os.MkdirTemp("", "evatool-gpu-")
		if err != nil {
			return nil, fault.As(fault.Environment, err)
		}
		defer os.RemoveAll(dir)
		self, err := os.Executable()
		if err != nil {
			return nil, fault.As(fault.Environment, err)
		}
		so, out := filepath.Join(dir, "before.json"), filepath.Join(dir, "row.json")
		before.write(so, slog.Default())
		args := append(flags, "--row", fmt.Sprint(i), "--before", so, "--json", out, "--budget", time.Until(end).String())
		var said bytes.Buffer
		cmd := exec.CommandContext(ctx, self, args...)
		cmd.Stdout, cmd.Stderr = os.Stderr, io.MultiWriter(os.Stderr, &said)
		cmd.WaitDelay = 5 * time.Second
		err = cmd.Run()
		part, _ := readReport(out) // what it wrote before it died
		if err == nil {
			return part, nil
		}
		why := reason(said.String())
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.ExitCode() > 0 {
			return part, fault.As(fault.Kind(exit.ExitCode()), errors.New(why))
		}
		return part, fault.Envf("%w: %s", err, why) // a signal
	}
}

// reason is the most informative line of a dead process's last output.
func reason(text string) string {
	var best, last string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		last = line
		for _, sign := range []string{"gpu: ", "Check failed", "panic: ", "fatal error: ", "SIG"} {
			if best == "" && strings.Contains(line, sign) {
				best = line
			}
		}
	}
	if best == "" {
		best = last
	}
	return fmt.Sprintf("%.400s", strings.TrimPrefix(best, "gpu: "))
}
