package eval

import (
	"cmp"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"

	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/runlog"
)

// part is one shard's folder.
type part struct {
	dir     string
	res     Result
	entries []entry
}

// MergeOptions say where the whole goes and what it should be.
type MergeOptions struct {
	Out    string // folder; "" writes nothing
	Expect string // as Options.Expect
}

// Merge adds the shards in dirs to one result. They must be of one run and
// cover its images exactly once. Together with an error of kind
// fault.CheckFailed the result is returned too.
func Merge(dirs []string, o MergeOptions) (_ *Result, err error) {
	defer fault.Public(context.Background(), &err)
	var want *expectation
	if o.Expect != "" {
		e, err := parseExpect(o.Expect)
		if err != nil {
			return nil, err
		}
		want = &e
	}
	res, err := merge(dirs, o.Out)
	if err != nil || want == nil {
		return res, err
	}
	return res, want.check(res.Metric, res.metric())
}

func merge(dirs []string, out string) (*Result, error) {
	parts := make([]part, 0, len(dirs))
	into, _ := os.Stat(out)
	if into != nil && !into.IsDir() {
		return nil, fault.Envf("%s: is a file; Options.Out wants a folder", out)
	}
	for _, dir := range dirs {
		if st, err := os.Stat(dir); err == nil && os.SameFile(st, into) {
			return nil, fault.Usagef("-o %s: is one of the parts, which the whole would overwrite; give another folder", out)
		}
		p, err := readPart(dir)
		if err != nil {
			return nil, err
		}
		parts = append(parts, p)
	}
	slices.SortStableFunc(parts, func(a, b part) int { return cmp.Compare(a.res.Shard.Lo, b.res.Shard.Lo) })
	if err := fit(parts); err != nil {
		return nil, err
	}
	res := parts[0].res
	res.Shard = nil
	res.Seconds, res.PeakRSS, res.ImagesPerSecond = Seconds{}, 0, 0
	var entries []entry
	for _, p := range parts {
		entries = append(entries, p.entries...)
		res.Seconds.add(p.res.Seconds)
		res.ImagesPerSecond += p.res.ImagesPerSecond // shards run side by side
		res.PeakRSS = max(res.PeakRSS, p.res.PeakRSS)
	}
	names := make([]string, len(res.PerClass))
	for i, c := range res.PerClass {
		names[i] = c.Name
	}
	count(&res, names, entries)
	res.Published = publishedFor(&res, true)
	res.Versions = runlog.Versions()
	if out == "" {
		return &res, nil
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return nil, fault.File(out, "a folder that can be written", err)
	}
	return &res, writeRun(out, &res, entries, nil)
}

func (s *Seconds) add(o Seconds) {
	s.Load += o.Load
	s.Classifier += o.Classifier
	s.Images += o.Images
	s.Decode += o.Decode
	s.Wait += o.Wait
	s.Device += o.Device
	s.Total += o.Total
}

// readPart reads a shard and checks that its files agree with each other.
func readPart(dir string) (part, error) {
	p := part{dir: dir}
	path := filepath.Join(dir, resultFile)
	if st, err := os.Stat(dir); err == nil {
		if !st.IsDir() {
			return p, fault.Inputf("%s: is a file; give the folder that a part was written into (its --out)", dir)
		}
		if _, err := os.Stat(path); os.IsNotExist(err) {
			return p, fault.Inputf("%s: no %s: the shard is not finished; run it again with the same --out", dir, resultFile)
		}
	}
	b, err := fault.ReadFile(path, "a finished zero-shot run", 64<<20)
	if err != nil {
		return p, err
	}
	if err := json.Unmarshal(b, &p.res); err != nil {
		return p, fault.Inputf("%s: not the result of a zero-shot run: %w", path, err)
	}
	if p.res.Key == "" || len(p.res.PerClass) == 0 {
		return p, fault.Inputf("%s: not the result of a zero-shot run", path)
	}
	if p.res.Shard == nil { // the whole is shard 0 of 1
		p.res.Shard = &ShardInfo{0, 1, 0, p.res.Data.N}
	}
	rows := filepath.Join(dir, rowsFile)
	if p.entries, err = readRows(rows, len(p.res.PerClass)); err != nil {
		return p, err
	}
	correct := 0
	for _, e := range p.entries {
		if e.Top[0] == e.Label {
			correct++
		}
	}
	if len(p.entries) != p.res.N || correct != p.res.Correct1 {
		return p, fault.Inputf("%s: has %d images, %d correct, but %s says %d and %d; run the shard again", rows, len(p.entries), correct, resultFile, p.res.N, p.res.Correct1)
	}
	for _, s := range p.res.Skipped {
		p.entries = append(p.entries, entry{row: row{Index: s.Index, Key: s.Key}, Bad: s.Reason})
	}
	slices.SortFunc(p.entries, func(a, b entry) int { return cmp.Compare(a.Index, b.Index) })
	if want := p.res.Shard.Hi - p.res.Shard.Lo; len(p.entries) != want {
		return p, fault.Inputf("%s: has %d images, the shard covers %d; run it again", dir, len(p.entries), want)
	}
	return p, nil
}

// fit refuses shards of different runs, overlaps and gaps. parts are sorted.
func fit(parts []part) error {
	if len(parts) == 0 {
		return fault.Usagef("merge: no shard folders given")
	}
	first, next := parts[0], 0
	for _, p := range parts {
		if err := sameRun(first, p); err != nil {
			return err
		}
		switch s := p.res.Shard; {
		case s.Lo < next:
			return fault.Inputf("%s: covers images %d to %d, but images below %d are in another shard already; give every shard once", p.dir, s.Lo, s.Hi-1, next)
		case s.Lo > next:
			return fault.Inputf("images %d to %d are in no shard; the next is %s, shard %d of %d", next, s.Lo-1, p.dir, s.Index, s.Count)
		default:
			next = s.Hi
		}
	}
	if n := first.res.Data.N; next != n {
		return fault.Inputf("images %d to %d are in no shard; give all %d shards", next, n-1, first.res.Shard.Count)
	}
	seen := make(map[int]string)
	for _, p := range parts {
		for _, e := range p.entries {
			if other, twice := seen[e.Index]; twice {
				return fault.Inputf("%s: image %d (%s) is in %s too", p.dir, e.Index, e.Key, other)
			}
			seen[e.Index] = p.dir
		}
	}
	return nil
}

// sameRun says what differs between two shards: the key covers all of it, the
// rest only finds the words.
func sameRun(a, b part) error {
	x, y := a.res, b.res
	for _, c := range []struct {
		what      string
		have, got any
	}{
		{"benchmark", x.Benchmark, y.Benchmark},
		{"model", x.Model.SHA256, y.Model.SHA256},
		{"data", x.Data.Fingerprint, y.Data.Fingerprint},
		{"dtype", x.DType, y.DType},
		{"number of images", x.Data.N, y.Data.N},
		{"classes, templates or preprocessing", x.Key, y.Key},
	} {
		if c.have != c.got {
			return fault.Inputf("%s: another %s than %s (%v, %v); only shards of one run merge", b.dir, c.what, a.dir, c.got, c.have)
		}
	}
	return nil
}
