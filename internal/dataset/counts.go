package dataset

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/evatool/evatool/internal/atomicfile"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/usercache"
)

// This file finds out how many samples the tars of a stream have: from the
// files that come with such sets, else by one walk over the headers, whose
// result is kept. A sample is a run of members with one key, with a picture or
// without.

// Tars lists the tars that a source is; none when it is something else. Files
// given by name need not exist.
func Tars(ctx context.Context, src string) ([]string, error) {
	_, names, err := tarsOf(ctx, src)
	return names, err
}

func tarsOf(ctx context.Context, src string) (storage, []string, error) {
	st, names, err := resolve(ctx, src)
	if err != nil {
		return nil, nil, err
	}
	if slices.ContainsFunc(names, func(n string) bool { return !isTar(n) }) {
		_, dir, err := st.stat(ctx, names[0])
		if err != nil || !dir || len(names) > 1 {
			return st, nil, nil // opening it says what is wrong
		}
		s := source{names: names, dir: true}
		if s.files, err = st.list(ctx, names[0]); err != nil {
			return nil, nil, err
		}
		if len(filesWithExt(s.files, "tar")) == 0 {
			return st, nil, nil
		}
		names, err = s.withExt("tar")
		return st, names, err
	}
	return st, names, nil
}

// isTar goes by the name; a web address may have a query behind it.
func isTar(name string) bool { return strings.EqualFold(path.Ext(plainName(name)), ".tar") }

// OpenPlan finds the tars of a source and how many samples each has.
func OpenPlan(ctx context.Context, src string, o Options) (*Plan, error) {
	st, names, err := tarsOf(ctx, src)
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return nil, fault.Inputf("%s: not a list or a folder of .tar files, as a stream reads them; give tars, or read: random", fault.Name(src))
	}
	c := counter{ctx: ctx, st: st, names: names, counts: make([]int32, len(names)), log: o.Log, o: o}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if err := c.count(); err != nil {
		return nil, err
	}
	p := &Plan{st: st, names: names, counts: c.counts, o: o, from: strings.Join(c.from, ", "), index: c.index, reads: make(chan struct{}, maxReads)}
	for _, n := range p.counts {
		p.total += int64(n)
	}
	if p.total == 0 {
		return nil, fault.Inputf("%s: no samples in %s (counted by %s)", fault.Name(src), plural(len(names), "tar"), p.from)
	}
	return p, nil
}

// counter fills counts; -1 stands for a tar that is not counted yet.
type counter struct {
	ctx    context.Context
	st     storage
	names  []string
	counts []int32
	from   []string // which ways gave some
	index  bool     // Energon's index of offsets lies beside the first tar
	log    *slog.Logger
	o      Options
}

const maxCount = 1<<31 - 1

// count tries every way in turn for the tars that the ways before it left over.
func (c *counter) count() error {
	for i := range c.counts {
		c.counts[i] = -1
	}
	for _, i := range c.o.Without {
		if i >= 0 && i < len(c.counts) {
			c.counts[i] = 0
		}
	}
	folders := map[string][]int{}
	for i, name := range c.names {
		dir := c.st.dir(name)
		folders[dir] = append(folders[dir], i)
	}
	for dir, tars := range folders {
		if err := c.lists(dir, tars); err != nil {
			return err
		}
	}
	for _, way := range []struct {
		what   string
		beside func(tar string) string
		read   func(name string, size int64) (int64, error)
	}{
		{"the _stats.json of img2dataset", func(tar string) string { return strings.TrimSuffix(tar, path.Ext(tar)) + "_stats.json" }, c.stats},
		{"the .tar.idx of Energon", func(tar string) string { return tar + ".idx" }, func(name string, _ int64) (int64, error) {
			x, err := openTarIndex(c.ctx, c.st, strings.TrimSuffix(name, ".idx"))
			if err != nil {
				return 0, err
			}
			return x.samples, x.check(c.ctx)
		}},
	} {
		if err := c.eachBeside(way.what, way.beside, way.read); err != nil {
			return err
		}
	}
	c.index = present(c.ctx, c.st, c.names[0]+".idx")
	return c.walk()
}

// left are the tars among some, all for nil, that are not counted yet.
func (c *counter) left(some []int) (out []int) {
	each := func(yield func(int) bool) {
		if some != nil {
			slices.Values(some)(yield)
			return
		}
		for i := range c.names {
			if !yield(i) {
				return
			}
		}
	}
	n := 0
	for i := range each {
		if c.counts[i] < 0 {
			n++
		}
	}
	if n == 0 {
		return nil
	}
	out = make([]int, 0, n)
	for i := range each {
		if c.counts[i] < 0 {
			out = append(out, i)
		}
	}
	return out
}

// found notes how some tars were counted.
func (c *counter) found(what string, before, after int) {
	if after < before && !slices.Contains(c.from, what) {
		c.from = append(c.from, what)
	}
}

// lists reads the files that count all tars of a folder.
func (c *counter) lists(dir string, tars []int) error {
	for _, f := range []struct {
		name  string
		above bool // its names are paths below its own folder
		read  func(*json.Decoder, func(name string, n json.Number) error) error
	}{
		{"shardindex.json", false, widsCounts}, {"index.json", false, widsCounts}, {"sizes.json", false, numberFields},
		{".nv-meta/.info.json", false, energonCounts}, {"../.nv-meta/.info.json", true, energonCounts},
	} {
		left := c.left(tars)
		if len(left) == 0 {
			return nil
		}
		file := c.st.join(dir, f.name)
		size, isDir, err := c.st.stat(c.ctx, file)
		if absent(err) || err == nil && isDir {
			continue
		}
		if err != nil {
			return explain(file, "a list of tars", err)
		}
		key := func(name string) string { return path.Base(plainName(name)) }
		if f.above {
			key = func(name string) string { return path.Base(plainName(dir)) + "/" + path.Base(plainName(name)) }
		}
		first := make(map[string]int, len(left))
		for _, i := range left {
			first[key(c.names[i])] = i
		}
		twice := map[int]bool{} // names that the file has twice, with different numbers
		dec := json.NewDecoder(&section{ctx: c.ctx, st: c.st, name: file, size: size, window: 1 << 20})
		dec.UseNumber()
		err = f.read(dec, func(name string, n json.Number) error {
			if f.above {
				name = path.Clean(name)
			} else {
				name = key(name)
			}
			i, ok := first[name]
			if !ok {
				return nil
			}
			v, err := n.Int64()
			if err != nil || v < 0 || v > maxCount {
				return fmt.Errorf("%s has %s samples; want 0 to %d", fault.Name(name), n, maxCount)
			}
			if c.counts[i] >= 0 && c.counts[i] != int32(v) {
				twice[i] = true
			}
			c.counts[i] = int32(v)
			return nil
		})
		if err != nil {
			return fault.As(fault.Input, fmt.Errorf("%s: %w; correct it, or remove it to have the tars counted", fault.Name(file), err))
		}
		for i := range twice {
			c.counts[i] = -1
		}
		for _, i := range left { // tars that the source names more than once
			c.counts[i] = c.counts[first[key(c.names[i])]]
		}
		c.found(path.Base(f.name), len(left), len(c.left(tars)))
	}
	return nil
}

// absent says whether a file that may be missing is missing: some servers refuse
// access to what does not exist.
func absent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission)
}

// fields calls each for the keys of the object that comes next; each has to read
// the value.
func fields(dec *json.Decoder, each func(key string) error) error {
	t, err := dec.Token()
	if err != nil {
		return notJSON(err)
	}
	if t != json.Delim('{') {
		return fmt.Errorf("want a JSON object, found %v", t)
	}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return notJSON(err)
		}
		if err := each(key.(string)); err != nil {
			return notJSON(err)
		}
	}
	_, err = dec.Token()
	return notJSON(err)
}

func notJSON(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func ignore(dec *json.Decoder) error {
	var raw json.RawMessage
	return dec.Decode(&raw)
}

// widsCounts reads the index of wids: {"shardlist": [{"url": …, "nsamples":
// n}]}. Another file of that name says nothing.
func widsCounts(dec *json.Decoder, each func(string, json.Number) error) error {
	return fields(dec, func(key string) error {
		if key != "shardlist" {
			return ignore(dec)
		}
		if t, err := dec.Token(); err != nil || t != json.Delim('[') {
			return fmt.Errorf("shardlist: want a list, found %v (%w)", t, err)
		}
		for dec.More() {
			var s struct {
				URL      string      `json:"url"`
				NSamples json.Number `json:"nsamples"`
			}
			if err := dec.Decode(&s); err != nil {
				return err
			}
			if s.NSamples == "" {
				continue
			}
			if err := each(s.URL, s.NSamples); err != nil {
				return err
			}
		}
		_, err := dec.Token()
		return err
	})
}

// numberFields reads sizes.json: {"00000.tar": n}.
func numberFields(dec *json.Decoder, each func(string, json.Number) error) error {
	return fields(dec, func(key string) error {
		t, err := dec.Token()
		if err != nil {
			return err
		}
		switch n := t.(type) {
		case json.Number:
			return each(key, n)
		case string:
			return each(key, json.Number(n))
		}
		return fmt.Errorf("%s: want a number of samples, found %v", fault.Name(key), t)
	})
}

// energonCounts reads Energon's .info.json: {"shard_counts": {"a/0.tar": n}}.
func energonCounts(dec *json.Decoder, each func(string, json.Number) error) error {
	return fields(dec, func(key string) error {
		if key != "shard_counts" {
			return ignore(dec)
		}
		return numberFields(dec, each)
	})
}

// stats reads what img2dataset writes about a tar.
func (c *counter) stats(name string, size int64) (int64, error) {
	if size > maxList {
		return 0, fmt.Errorf("has %d bytes; at most %d are read", size, maxList)
	}
	text, err := c.st.read(c.ctx, name, 0, size)
	if err != nil {
		return 0, err
	}
	var s struct{ Successes *int64 }
	if err := json.Unmarshal(text, &s); err != nil {
		return 0, err
	}
	if s.Successes == nil || *s.Successes < 0 || *s.Successes > maxCount {
		return 0, fmt.Errorf("want successes, a number from 0 to %d", maxCount)
	}
	return *s.Successes, nil
}

// maxReads bounds the requests under way.
const maxReads = 64

// eachBeside counts tars by a file beside each. Where the first tar that is left
// has none, the others are not looked for.
func (c *counter) eachBeside(what string, beside func(string) string, read func(string, int64) (int64, error)) error {
	left := c.left(nil)
	if len(left) == 0 || !exists(c.ctx, c.st, beside(c.names[left[0]])) {
		return nil
	}
	g, ctx := errgroup.WithContext(c.ctx)
	g.SetLimit(maxReads)
	for _, i := range left {
		g.Go(func() error {
			name := beside(c.names[i])
			size, dir, err := c.st.stat(ctx, name)
			if absent(err) || err == nil && dir {
				return nil
			}
			if err != nil {
				return explain(name, "a count of samples", err)
			}
			n, err := read(name, size)
			if err == nil && n > maxCount {
				err = fmt.Errorf("%d samples; want at most %d", n, maxCount)
			}
			if told := (*fault.Error)(nil); errors.As(err, &told) {
				return err
			}
			if err != nil {
				return fault.As(fault.Input, fmt.Errorf("%s: %w; correct it, or remove it to have the tar counted", fault.Name(name), err))
			}
			c.counts[i] = int32(n)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	c.found(what, len(left), len(c.left(nil)))
	return nil
}

// counted is a tar whose headers have been walked.
type counted struct {
	Stamp   string `json:"stamp"` // of the tar then
	Samples int32  `json:"samples"`
}

// keepEvery is how often a long walk is saved on the way.
const keepEvery = time.Minute

// walk counts the tars that are left by their headers. The counts are kept in
// the user's cache and hold for tars that have not changed.
func (c *counter) walk() error {
	left := c.left(nil)
	if len(left) == 0 {
		return nil
	}
	keep := c.keeper()
	had := map[string]counted{}
	if text, err := fault.ReadFile(keep, "kept counts", 1<<30); keep != "" && err == nil {
		_ = json.Unmarshal(text, &had) // a damaged one is written anew
	}
	if err := c.remote(left, had); err != nil {
		return err
	}
	var mu sync.Mutex
	saved, said := time.Now(), time.Now()
	done, walked := 0, 0
	save := func() {
		if keep != "" {
			if err := atomicfile.WriteJSON(keep, had); err != nil {
				c.log.Warn("cannot keep the sample counts; the next run will count again", "error", fault.Line(err))
				keep = ""
			}
		}
		saved = time.Now()
	}
	g, ctx := errgroup.WithContext(c.ctx)
	g.SetLimit(maxReads)
	walks := make(chan struct{}, indexers)
	for _, i := range left {
		g.Go(func() error {
			mu.Lock()
			before, ok := had[c.names[i]]
			mu.Unlock()
			now, fresh, err := c.counted(ctx, walks, i, before, ok)
			mu.Lock()
			defer mu.Unlock()
			switch done++; {
			case err != nil && c.o.Skip != nil && ctx.Err() == nil && !fault.FromEnvironment(err):
				c.o.Skip(i, c.names[i], err)
				c.counts[i] = 0
				return nil
			case err != nil:
				return err
			case fresh:
				had[c.names[i]] = now
				walked++
			}
			c.counts[i] = now.Samples
			if time.Since(saved) > keepEvery {
				save()
			}
			if time.Since(said) > keepEvery/2 {
				c.log.Info("counting samples, as nothing beside the tars says how many there are", "tars", done, "of", len(left))
				said = time.Now()
			}
			return nil
		})
	}
	err := g.Wait()
	if walked > 0 {
		save()
	}
	c.found("their headers", len(left), 0)
	return err
}

// remoteWalk is how many tars on another machine's storage are counted by their
// headers without being asked for.
const remoteWalk = 1000

// ErrUncounted ends the message about a set with so many tars that counting
// their samples has to be asked for.
var ErrUncounted = errors.New("or have them counted")

// remote logs what a walk over tars of another machine's storage reads, and
// refuses a long one that was not asked for.
func (c *counter) remote(left []int, had map[string]counted) error {
	if _, local := c.st.(disk); local {
		return nil
	}
	var unknown []int
	for _, i := range left {
		if _, ok := had[c.names[i]]; !ok {
			unknown = append(unknown, i)
		}
	}
	if len(unknown) == 0 {
		return nil
	}
	// The size of all is estimated from some of them.
	some := min(len(unknown), maxReads)
	sizes := make([]int64, some)
	var g errgroup.Group
	for k := range some {
		g.Go(func() (err error) {
			sizes[k], _, err = c.st.stat(c.ctx, c.names[unknown[k*len(unknown)/some]])
			if absent(err) {
				return nil // counting it says so
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return explain(c.names[unknown[0]], "a tar", err)
	}
	mean := 0.0
	for _, n := range sizes {
		mean += float64(n) / float64(some)
	}
	total := fmt.Sprintf("%.4g GB", mean*float64(len(unknown))/1e9)
	if len(unknown) > remoteWalk && !c.o.CountHeaders {
		return fault.Inputf("%s: nothing beside these %d tars says how many samples they have, and counting them reads through about %s; put a sizes.json ({\"NAME.tar\": SAMPLES, …}) there, %w", fault.Name(c.names[unknown[0]]), len(unknown), total, ErrUncounted)
	}
	c.log.Info("counting samples by reading through the tars; a sizes.json beside them saves this", "tars", len(unknown), "about", total)
	return nil
}

// counted counts a tar by its headers, unless it has not changed since it was
// counted.
func (c *counter) counted(ctx context.Context, walks chan struct{}, i int, before counted, known bool) (now counted, fresh bool, err error) {
	if _, _, now.Stamp, err = c.st.stamped(ctx, c.names[i]); err != nil {
		return now, false, missingFile(c.names, i, err)
	}
	if known && before.Stamp == now.Stamp && before.Samples >= 0 {
		return before, false, nil
	}
	walks <- struct{}{}
	defer func() { <-walks }()
	if now.Samples, err = countTar(ctx, c.st, c.names[i], i); err != nil && len(c.names) > 1 && ctx.Err() == nil {
		err = fault.As(fault.Input, fmt.Errorf("%w (one of %d tars)", err, len(c.names)))
	}
	return now, true, err
}

// keeper is the file that keeps the walk over these tars; empty where there is
// no cache folder.
func (c *counter) keeper() string {
	folder, err := usercache.Counts.Folder()
	if err != nil || os.MkdirAll(folder, 0o755) != nil {
		return ""
	}
	h := newHash("counts")
	for _, name := range c.names {
		if _, local := c.st.(disk); local {
			if abs, err := filepath.Abs(name); err == nil {
				name = abs
			}
		}
		h.text(name)
	}
	return filepath.Join(folder, h.sum()[:32]+".json")
}

// countTar walks over the headers of a tar.
func countTar(ctx context.Context, st storage, name string, i int) (int32, error) {
	var members []member
	if err := scanTar(ctx, st, name, func(m member) error { members = append(members, m); return nil }); err != nil {
		return 0, err
	}
	g, err := groupSamples(members, name, i)
	if err == nil {
		err = g.check(WebDataset)
	}
	return int32(len(g.samples) + g.skipped), err
}
