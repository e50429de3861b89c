// Package shard splits a numbered list among the members of a job.
package shard

import (
	"os"
	"strconv"
	"strings"

	"github.com/evatool/evatool/internal/fault"
)

const want = "want i/n with 0 <= i < n such as 0/8, auto/n (index from the job's environment) or auto"

// Parse reads "i/n", 0 <= i < n. "auto/n" takes i from the environment of a
// Slurm array task or a Kubernetes indexed job, "auto" takes n from there too.
func Parse(s string) (i, n int, err error) { return parse(s, os.Getenv) }

// FromEnv is the part that the scheduler gave to this process: a task of a
// Slurm array, or a pod of a Kubernetes indexed job whose manifest says
// JOB_COMPLETIONS. ok is false outside of such jobs.
func FromEnv() (i, n int, ok bool, err error) { return fromEnv(os.Getenv) }

// Range is the half-open range [lo, hi) of part i of n in a list of length
// items. The parts are consecutive, cover the list, and their sizes differ by
// at most one.
func Range(length, i, n int) (lo, hi int) {
	cut := func(i int) int { return length/n*i + length%n*i/n }
	return cut(i), cut(i + 1)
}

func parse(s string, getenv func(string) string) (i, n int, err error) {
	if s == "auto" {
		i, n, ok, err := fromEnv(getenv)
		if err == nil && !ok {
			err = fault.Usagef("Options.Shard auto: neither SLURM_ARRAY_TASK_ID nor JOB_COMPLETION_INDEX is set; give Options.Shard i/n")
		}
		return i, n, err
	}
	left, right, ok := strings.Cut(s, "/")
	n, err = strconv.Atoi(right)
	if !ok || err != nil || n < 1 {
		return 0, 0, fault.Usagef("Options.Shard %q: %s", s, want)
	}
	if left == "auto" {
		i, _, ok, err = index(getenv)
		if err == nil && !ok {
			err = fault.Usagef("Options.Shard %s: neither SLURM_ARRAY_TASK_ID nor JOB_COMPLETION_INDEX is set; give Options.Shard i/%d", s, n)
		}
	} else if i, err = strconv.Atoi(left); err != nil {
		err = fault.Usagef("Options.Shard %q: %s", s, want)
	}
	if err != nil {
		return 0, 0, err
	}
	if i < 0 || i >= n {
		return 0, 0, fault.Usagef("Options.Shard %q: index %d of %d parts; %s", s, i, n, want)
	}
	return i, n, nil
}

// scheduler names the variables in which one scheduler tells a task its place.
// An empty name or an unset min or step: the array starts at 0, by ones.
type scheduler struct {
	id, min, step, count string
}

var schedulers = []scheduler{
	{id: "SLURM_ARRAY_TASK_ID", min: "SLURM_ARRAY_TASK_MIN", step: "SLURM_ARRAY_TASK_STEP", count: "SLURM_ARRAY_TASK_COUNT"},
	{id: "JOB_COMPLETION_INDEX", count: "JOB_COMPLETIONS"},
}

func fromEnv(getenv func(string) string) (i, n int, ok bool, err error) {
	i, by, ok, err := index(getenv)
	if err != nil || !ok {
		return 0, 0, false, err
	}
	n, set, err := number(getenv, by.count)
	switch {
	case err != nil:
	case !set:
		err = fault.Usagef("%s is set but %s is not: the number of parts is unknown; give Options.Shard auto/N, or Options.Shard 0/1 for everything", by.id, by.count)
	case n < 1 || i >= n:
		err = fault.Usagef("%s gives part %d, but %s is %d; give Options.Shard i/n", by.id, i, by.count, n)
	}
	if err != nil {
		return 0, 0, false, err
	}
	return i, n, true, nil
}

// index is this task's place, counted from 0.
func index(getenv func(string) string) (i int, by scheduler, ok bool, err error) {
	for _, s := range schedulers {
		id, set, err := number(getenv, s.id)
		if err != nil {
			return 0, s, false, err
		}
		if !set {
			continue
		}
		lowest, _, err := number(getenv, s.min)
		if err != nil {
			return 0, s, false, err
		}
		step, set, err := number(getenv, s.step)
		if err != nil {
			return 0, s, false, err
		}
		if !set {
			step = 1
		}
		if step < 1 || id < lowest || (id-lowest)%step != 0 {
			return 0, s, false, fault.Usagef("%s=%d is not in the array that starts at %d with step %d; give Options.Shard i/n", s.id, id, lowest, step)
		}
		return (id - lowest) / step, s, true, nil
	}
	return 0, scheduler{}, false, nil
}

func number(getenv func(string) string, name string) (v int, set bool, err error) {
	if name == "" || getenv(name) == "" {
		return 0, false, nil
	}
	v, err = strconv.Atoi(getenv(name))
	if err != nil || v < 0 {
		return 0, false, fault.Usagef("%s=%q in the environment: not a whole number; give Options.Shard i/n", name, getenv(name))
	}
	return v, true, nil
}
