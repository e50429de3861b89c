package shard

import (
	"testing"

	"github.com/evatool/evatool/internal/fault"
)

func TestParse(t *testing.T) {
	slurm := map[string]string{"SLURM_ARRAY_TASK_ID": "13", "SLURM_ARRAY_TASK_MIN": "5", "SLURM_ARRAY_TASK_STEP": "4", "SLURM_ARRAY_TASK_COUNT": "3"}
	pod := map[string]string{"JOB_COMPLETION_INDEX": "3"}
	podN := map[string]string{"JOB_COMPLETION_INDEX": "3", "JOB_COMPLETIONS": "4"}
	tests := []struct {
		in   string
		env  map[string]string
		i, n int
		bad  bool
	}{
		{in: "0/1", n: 1},
		{in: "7/8", i: 7, n: 8},
		{in: "auto", env: slurm, i: 2, n: 3},
		{in: "auto/9", env: slurm, i: 2, n: 9},
		{in: "auto/4", env: pod, i: 3, n: 4},
		{in: "auto", env: podN, i: 3, n: 4},
		{in: "1/2", env: podN, i: 1, n: 2},
		{in: "auto", env: map[string]string{"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "4"}, i: 2, n: 4},
		{in: "8/8", bad: true},
		{in: "-1/8", bad: true},
		{in: "0/0", bad: true},
		{in: "", bad: true},
		{in: "1", bad: true},
		{in: "1/2/3", bad: true},
		{in: "a/2", bad: true},
		{in: "auto", bad: true},
		{in: "auto/4", bad: true},
		{in: "auto", env: pod, bad: true},
		{in: "auto/3", env: pod, bad: true},
		{in: "auto", env: map[string]string{"SLURM_ARRAY_TASK_ID": "x", "SLURM_ARRAY_TASK_COUNT": "4"}, bad: true},
		{in: "auto", env: map[string]string{"SLURM_ARRAY_TASK_ID": "4", "SLURM_ARRAY_TASK_COUNT": "4"}, bad: true},
		{in: "auto", env: map[string]string{"SLURM_ARRAY_TASK_ID": "6", "SLURM_ARRAY_TASK_MIN": "5", "SLURM_ARRAY_TASK_STEP": "4", "SLURM_ARRAY_TASK_COUNT": "3"}, bad: true},
	}
	for _, tt := range tests {
		i, n, err := parse(tt.in, func(k string) string { return tt.env[k] })
		if tt.bad {
			if fault.Code(err) != int(fault.Usage) {
				t.Errorf("parse(%q, %v) = %d/%d, %v; want a usage error", tt.in, tt.env, i, n, err)
			}
			continue
		}
		if err != nil || i != tt.i || n != tt.n {
			t.Errorf("parse(%q, %v) = %d/%d, %v; want %d/%d", tt.in, tt.env, i, n, err, tt.i, tt.n)
		}
	}
}

func TestFromEnvOutsideOfAJob(t *testing.T) {
	if i, n, ok, err := fromEnv(func(string) string { return "" }); ok || err != nil {
		t.Errorf("fromEnv = %d/%d, %v, %v; want no shard and no error", i, n, ok, err)
	}
}

func TestRangesCoverTheList(t *testing.T) {
	for _, length := range []int{0, 1, 7, 8, 50000} {
		for _, n := range []int{1, 2, 3, 7, 64} {
			next := 0
			for i := range n {
				lo, hi := Range(length, i, n)
				if lo != next || hi-lo < length/n || hi-lo > length/n+1 {
					t.Fatalf("Range(%d, %d, %d) = [%d, %d): want it to start at %d with %d or one more items", length, i, n, lo, hi, next, length/n)
				}
				next = hi
			}
			if next != length {
				t.Errorf("%d shards of %d items end at %d", n, length, next)
			}
		}
	}
}
