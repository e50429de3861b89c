package eval

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"

	"github.com/evatool/evatool/internal/dataset"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/runlog"
)

// part is one shard's folder.
type part struct {
	dir     string
	res     Result
	entries []entry
	answers []answer // of the rows of a whole set of choices
}

// MergeOptions say where the whole goes and what it should be.
type MergeOptions struct {
	Out    string // folder; "" writes nothing
	Expect string // as Options.Expect, for one set with classes
	Force  bool   // replace another evaluation that Out holds
}

// Merge combines the shards in dirs into one result. They must be of one run and
// cover its images exactly once. With an error of KindCheck the result is
// returned too.
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
	res, err := merge(dirs, o.Out, o.Force)
	if err != nil || want == nil {
		return res, err
	}
	return res, want.check(res.Metric, res.Value)
}

func merge(dirs []string, out string, force bool) (*Result, error) {
	if err := apart(dirs, out); err != nil {
		return nil, err
	}
	parts := make([]part, 0, len(dirs))
	for _, dir := range dirs {
		p, err := readPart(dir)
		if err != nil {
			return nil, err
		}
		parts = append(parts, p)
	}
	entries, err := joined(parts)
	if err != nil {
		return nil, err
	}
	res := parts[0].res
	res.Shard = nil
	res.Seconds, res.PeakRSS, res.ImagesPerSecond = Seconds{}, 0, 0
	for _, p := range parts {
		res.Seconds.add(p.res.Seconds)
		res.ImagesPerSecond += p.res.ImagesPerSecond // shards run side by side
		res.PeakRSS = max(res.PeakRSS, p.res.PeakRSS)
	}
	names := make([]string, len(res.PerClass))
	for i, c := range res.PerClass {
		names[i] = c.Name
	}
	if err := count(&res, names, entries); err != nil {
		return nil, err
	}
	res.publish()
	res.Versions = runlog.Versions()
	if out == "" {
		return &res, nil
	}
	if err := claim(out, merged(&res), "", force); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return nil, fault.File(out, "a folder that can be written", err)
	}
	if res.Kind == dataset.Choice {
		if err := writeJournal(out, res.Key, res.Backend, entries); err != nil {
			return nil, err
		}
	}
	return &res, writeRun(out, &res, entries, nil)
}

// writeJournal writes the journal of a whole whose rows follow from features, so
// that it can be verified.
func writeJournal(dir, key, backend string, entries []entry) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fault.File(dir, "a folder that can be written, as Options.Out", err)
	}
	j, _, err := openJournal(dir, contentKey(key, backend, fmt.Sprint(0, len(entries))), nil, true)
	if err != nil {
		return err
	}
	return errors.Join(j.append(entries), j.Close())
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

// MergeRetrieval combines the parts of a retrieval, as Merge does those of a set.
func MergeRetrieval(dirs []string, o MergeOptions) (_ *RetrievalResult, err error) {
	defer fault.Public(context.Background(), &err)
	if o.Expect != "" {
		return nil, expectOfSet()
	}
	if err := apart(dirs, o.Out); err != nil {
		return nil, err
	}
	var parts []part
	of := map[string]*RetrievalResult{}
	for _, dir := range dirs {
		res, entries, err := readRetrieval(dir)
		if err != nil {
			return nil, err
		}
		p := part{dir: dir, entries: entries, res: Result{
			Benchmark: res.Set, Model: res.Model, Data: DataInfo{Fingerprint: res.Fingerprint, N: res.N}, DType: res.DType, Key: res.Key, Shard: cmp.Or(res.Shard, &ShardInfo{0, 1, 0, res.N}),
		}}
		parts, of[dir] = append(parts, p), res
	}
	entries, err := joined(parts)
	if err != nil {
		return nil, err
	}
	res := of[parts[0].dir]
	res.Shard, res.Versions, res.Seconds = nil, runlog.Versions(), 0
	for _, r := range of {
		res.Seconds += r.Seconds
	}
	res.publish()
	ranks, err := res.count(entries)
	if err != nil || o.Out == "" {
		return res, err
	}
	id := merged(&Result{Benchmark: res.Set, Model: res.Model, Data: DataInfo{Source: res.Source, Fingerprint: res.Fingerprint, N: res.N}, DType: res.DType, Key: res.Key})
	if err := claim(o.Out, id, "", o.Force); err != nil {
		return nil, err
	}
	if err := writeJournal(o.Out, res.Key, res.Backend, entries); err != nil {
		return nil, err
	}
	return res, res.write(o.Out, ranks)
}

// merged names a whole made of parts, which may be of several backends.
func merged(res *Result) identity {
	return identity{Benchmark: res.Benchmark, Model: res.Model.File, SHA256: res.Model.SHA256, Data: res.Data.Source, Fingerprint: res.Data.Fingerprint, N: res.Data.N, DType: res.DType, Key: res.Key}
}

func expectOfSet() error {
	return fault.Usagef("Options.Expect applies to one set with classes; leave it out")
}

// readRetrieval reads the result of a retrieval, or of a part, and the features
// that its journal keeps. The ranks of a whole must follow from them, and the
// recalls from the ranks.
func readRetrieval(dir string) (*RetrievalResult, []entry, error) {
	path, err := resultOf(dir)
	if err != nil {
		return nil, nil, err
	}
	res := &RetrievalResult{}
	if err := readJSON(path, "the result of a retrieval", res); err != nil {
		return nil, nil, err
	}
	if res.Set == "" || res.Key == "" {
		return nil, nil, fault.Inputf("%s: not the result of a retrieval", fault.Name(path))
	}
	covers := cmp.Or(res.Shard, &ShardInfo{0, 1, 0, res.N})
	p := part{dir: dir, res: Result{Shard: covers}}
	if p.entries, err = journalled(dir, res.Key, res.Backend, covers); err != nil {
		return nil, nil, err
	}
	if err := p.whole(); err != nil {
		return nil, nil, err
	}
	again := *res
	ranks, err := again.count(p.entries)
	if err != nil {
		return nil, nil, err
	}
	if again.Images != res.Images || again.Captions != res.Captions || again.ImageToText != res.ImageToText || again.TextToImage != res.TextToImage ||
		again.MeanRecall1 != res.MeanRecall1 || again.MeanCI95 != res.MeanCI95 || len(again.Skipped) != len(res.Skipped) {
		return nil, nil, fault.Inputf("%s: its counts do not follow from the features in %s; run the retrieval again", path, journalFile)
	}
	if res.Shard != nil {
		return res, p.entries, nil
	}
	rows := filepath.Join(dir, rowsFile)
	records, err := readTable(rows, ranksHead)
	if err != nil {
		return nil, nil, err
	}
	if want := ranksRecords(ranks)[1:]; !slices.EqualFunc(records, want, slices.Equal) {
		return nil, nil, fault.Inputf("%s: the ranks do not follow from the features in %s; run the retrieval again", rows, journalFile)
	}
	return res, p.entries, nil
}

// resultOf is a finished part's result.json.
func resultOf(dir string) (string, error) {
	path := filepath.Join(dir, resultFile)
	if st, err := os.Stat(dir); err == nil {
		if !st.IsDir() {
			return "", fault.Inputf("%s: is a file; give the folder of a part (its Options.Out)", dir)
		}
		if _, err := os.Stat(path); os.IsNotExist(err) {
			return "", fault.Inputf("%s: no %s: the shard is not finished; run it again with the same Options.Out", dir, resultFile)
		}
	}
	return path, nil
}

// apart refuses to merge nothing, and to write the whole over one of its parts.
func apart(dirs []string, out string) error {
	if len(dirs) == 0 {
		return fault.Usagef("merge: no shard folders; give at least one")
	}
	into, _ := os.Stat(out)
	if into != nil && !into.IsDir() {
		return fault.Envf("%s: is a file; Options.Out must be a folder", out)
	}
	for _, dir := range dirs {
		if st, err := os.Stat(dir); err == nil && os.SameFile(st, into) {
			return fault.Usagef("Options.Out %s: is one of the parts, which merging would overwrite; give another folder", out)
		}
	}
	return nil
}

// joined are the entries of parts that cover their run, in order.
func joined(parts []part) (entries []entry, err error) {
	slices.SortStableFunc(parts, func(a, b part) int { return cmp.Compare(a.res.Shard.Lo, b.res.Shard.Lo) })
	if err := fit(parts); err != nil {
		return nil, err
	}
	for _, p := range parts {
		entries = append(entries, p.entries...)
	}
	return entries, nil
}

// whole sorts a part's entries and checks that none is missing.
func (p *part) whole() error {
	slices.SortFunc(p.entries, func(a, b entry) int { return cmp.Compare(a.Index, b.Index) })
	if want := p.res.Shard.Hi - p.res.Shard.Lo; len(p.entries) != want {
		return fault.Inputf("%s: has %d images, but the shard covers %d; run the shard again", p.dir, len(p.entries), want)
	}
	return nil
}

// readPart reads a shard and checks that its files agree with each other. Of
// choices the features are read, too, which the merged set is scored from.
func readPart(dir string) (part, error) {
	p, err := readRowsOf(dir)
	if err != nil || p.res.Kind != dataset.Choice {
		return p, err
	}
	if p.res.Shard == nil { // the whole is shard 0 of 1
		p.res.Shard = &ShardInfo{0, 1, 0, p.res.Data.N}
	}
	if p.entries, err = journalled(dir, p.res.Key, p.res.Backend, p.res.Shard); err != nil {
		return p, err
	}
	return p, p.whole()
}

// readRowsOf reads a result and its rows, from which its counts must follow.
func readRowsOf(dir string) (part, error) {
	p := part{dir: dir}
	path, err := resultOf(dir)
	if err != nil {
		return p, err
	}
	b, err := fault.ReadFile(path, "a finished zero-shot run", 64<<20)
	if err != nil {
		return p, err
	}
	if err := json.Unmarshal(b, &p.res); err != nil {
		return p, fault.Inputf("%s: not the result of a zero-shot run: %w", path, err)
	}
	if p.res.Key == "" || len(p.res.PerClass) == 0 && p.res.Kind != dataset.Choice {
		return p, fault.Inputf("%s: not the result of a zero-shot run", path)
	}
	if m := p.res.Metric; p.res.Group == nil && (m == dataset.WorstGroupTop1 || m == dataset.WorstGroupTop5) {
		return p, fault.Inputf("%s: reports %s and says of which groups nowhere; run the evaluation again", path, m)
	}
	if p.res.Kind == dataset.Choice {
		if p.res.Shard == nil { // a part has no rows
			p.answers, err = p.res.recountChoices(dir)
		}
		return p, err
	}
	if p.res.Shard == nil {
		p.res.Shard = &ShardInfo{0, 1, 0, p.res.Data.N}
	}
	if p.entries, err = p.res.recount(dir); err != nil {
		return p, err
	}
	return p, p.whole()
}

// recount reads the rows of a set with classes and says whether the counts of
// the result follow from them. The entries are the rows and what was skipped.
func (res *Result) recount(dir string) ([]entry, error) {
	rows := filepath.Join(dir, rowsFile)
	entries, err := readRows(rows, res)
	if err != nil {
		return nil, err
	}
	for _, s := range res.Skipped {
		entries = append(entries, entry{row: row{Index: s.Index, Key: s.Key}, Bad: s.Reason})
	}
	names := make([]string, len(res.PerClass))
	for i, c := range res.PerClass {
		names[i] = c.Name
	}
	again := *res
	if res.Group != nil {
		group := *res.Group
		again.Group = &group
	}
	if err := count(&again, names, entries); err != nil {
		return nil, err
	}
	if again.N != res.N || again.Correct1 != res.Correct1 {
		return nil, fault.Inputf("%s: has %d images, %d correct, but %s says %d and %d; run the shard again", rows, again.N, again.Correct1, resultFile, res.N, res.Correct1)
	}
	if what := res.differs(&again); what != "" {
		return nil, fault.Inputf("%s: its figures for %s do not follow from %s; run the evaluation again", filepath.Join(dir, resultFile), what, rowsFile)
	}
	res.rightAt = again.rightAt
	return entries, nil
}

// recountChoices says whether the counts of a set of choices follow from its rows.
func (res *Result) recountChoices(dir string) ([]answer, error) {
	path := filepath.Join(dir, rowsFile)
	records, err := readTable(path, answersHead)
	if err != nil {
		return nil, err
	}
	var found []answer
	for i, rec := range records {
		a, err := parseAnswer(rec)
		if err != nil {
			return nil, fault.Inputf("%s: line %d: %w", path, i+2, err)
		}
		found = append(found, a)
	}
	again := *res
	again.choose(found)
	what := res.differs(&again)
	if again.N != res.N || again.Correct1 != res.Correct1 {
		what = "n and correct1"
	}
	if what != "" {
		return nil, fault.Inputf("%s: its figures for %s do not follow from %s; run the evaluation again", filepath.Join(dir, resultFile), what, rowsFile)
	}
	res.rightAt = again.rightAt
	return found, nil
}

// differs names the counts that two results do not share.
func (res *Result) differs(again *Result) string {
	counts := func(r *Result) [][2]any {
		return [][2]any{
			{"correct5", r.Correct5}, {"ties", r.Ties}, {"top1 and top5", [2]float64{r.Top1, r.Top5}},
			{"mean_per_class", r.MeanPerClass}, {"per_class", r.PerClass}, {"group", r.Group}, {"groups", r.Groups}, {"choice", r.Choice}, {"confused", r.Confused},
		}
	}
	mine, theirs := counts(res), counts(again)
	for i := range mine {
		a, _ := json.Marshal(mine[i][1])
		b, _ := json.Marshal(theirs[i][1])
		if !bytes.Equal(a, b) {
			return fmt.Sprint(mine[i][0])
		}
	}
	older := res.Value == 0 && res.CI95.Value == [2]float64{} // which have neither
	if res.Value != again.Value && !older {
		return "value"
	}
	if p := res.Published; p != nil && !older {
		for _, f := range append([]Figure{p.Figure}, p.Others...) {
			if f.InsideCI != inside(f.Value, res.CI95.Value) {
				return "published"
			}
		}
	}
	for _, ci := range []struct{ was, is [2]float64 }{
		{res.CI95.Top1, again.CI95.Top1}, {res.CI95.Top5, again.CI95.Top5},
		{res.CI95.MeanPerClass, again.CI95.MeanPerClass}, {res.CI95.Value, again.CI95.Value},
	} {
		// Some processors round a product and a sum once.
		if near := math.Abs(ci.was[0]-ci.is[0]) < 1e-9 && math.Abs(ci.was[1]-ci.is[1]) < 1e-9; !near && !older {
			return "ci95"
		}
	}
	return ""
}

// journalled reads the entries of a part that is scored from features.
func journalled(dir, key, backend string, s *ShardInfo) ([]entry, error) {
	path := filepath.Join(dir, journalFile)
	b, err := readFile(path, "the journal of an evaluation")
	if err != nil {
		return nil, err
	}
	done := map[int]entry{}
	if _, same := replay(b, contentKey(key, backend, fmt.Sprint(s.Lo, s.Hi)), done); !same {
		return nil, fault.Inputf("%s: does not belong to the run of %s; run the shard again", path, resultFile)
	}
	entries := make([]entry, 0, len(done))
	for _, e := range done {
		if e.Bad == "" && (e.Found == nil || !e.Found.whole(len(e.Found.Image))) {
			return nil, fault.Inputf("%s: image %d has no features; run the shard again", path, e.Index)
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// fit refuses shards of different runs, overlaps and gaps. parts are sorted.
func fit(parts []part) error {
	first, next := parts[0], 0
	for _, p := range parts {
		if err := sameRun(first, p); err != nil {
			return err
		}
		switch s := p.res.Shard; {
		case s.Lo < next:
			return fault.Inputf("%s: covers images %d to %d, but another shard already covers those below %d; give each shard once", p.dir, s.Lo, s.Hi-1, next)
		case s.Lo > next:
			return fault.Inputf("images %d to %d are in no shard; the next is %s, shard %d of %d; give all shards", next, s.Lo-1, p.dir, s.Index, s.Count)
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
				return fault.Inputf("%s: image %d (%s) is also in %s; give each shard once", p.dir, e.Index, e.Key, other)
			}
			seen[e.Index] = p.dir
		}
	}
	return nil
}

// sameRun says what differs between two shards: the key covers everything, the
// rest only names it.
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
			return fault.Inputf("%s: differs from %s in %s (%v, not %v); merge shards of one run only", b.dir, a.dir, c.what, c.got, c.have)
		}
	}
	return nil
}
