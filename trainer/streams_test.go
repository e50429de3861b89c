package trainer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/evatool/evatool/internal/dataset"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/runlog"
)

// smallTars writes tars of so many emoji each, 00.tar and so on. The counts of
// their samples are walked, and kept below the test's folder.
func smallTars(t *testing.T, dir string, counts ...int) (source string) {
	t.Helper()
	t.Setenv("XDG_CACHE_HOME", filepath.Join(t.TempDir(), "cache"))
	in, err := os.Open(filepath.Join(testdata, "emoji", "train-fxemoji.tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	r := tar.NewReader(in)
	for i, n := range counts {
		var out bytes.Buffer
		w := tar.NewWriter(&out)
		for range 2 * n {
			h, err := r.Next()
			if err != nil {
				t.Fatal(err)
			}
			data, err := io.ReadAll(r)
			if err := errors.Join(err, w.WriteHeader(h)); err != nil {
				t.Fatal(err)
			}
			w.Write(data)
		}
		if err := errors.Join(w.Close(), os.WriteFile(filepath.Join(dir, fmt.Sprintf("%02d.tar", i)), out.Bytes(), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return fmt.Sprintf("%s/{00..%02d}.tar", dir, len(counts)-1)
}

// streamed is the tiny recipe on a stream of small tars.
func streamed(t testing.TB, source string, sets ...string) *Recipe {
	return tiny(t, append([]string{`data=[{source: "` + source + `", read: stream}]`, "lanes=4"}, sets...)...)
}

func openTest(t *testing.T, r *Recipe) *pairs {
	t.Helper()
	cfg, err := r.config()
	if err != nil {
		t.Fatal(err)
	}
	p, err := openPairs(t.Context(), r, cfg, newBadSamples(filepath.Join(t.TempDir(), badFile), 1, 0, runlog.Discard()), reading{open: dataset.Open, pause: time.Microsecond})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestStreamRows: the rows of a batch are the same for any number of processes
// that share the lanes, and from any position on; weights are respected, and a pass
// gives every sample once.
func TestStreamRows(t *testing.T) {
	source := smallTars(t, t.TempDir(), 5, 5, 5, 0, 5, 9, 1, 5, 5)
	for name, r := range map[string]*Recipe{
		"stream":  streamed(t, source, "steps=10"),
		"mixed":   tiny(t, `data=[{source: "`+source+`", read: stream, weight: 3}, {source: "../testdata/emoji/train-emojione.tar", weight: 1}, {source: "`+source+`", read: stream, weight: 2}]`, "lanes=4"),
		"by size": tiny(t, `data=[{source: "`+source+`", read: stream}, {source: "../testdata/emoji/train-emojione.tar"}, {source: "../testdata/emoji/train-noto.tar", read: random}]`, "lanes=2"),
	} {
		const steps = 10
		size, words := 3*32*32, 16
		batches := func(from int64, of rowRange) (out [][]byte) {
			p := openTest(t, r)
			pl := startShare(context.WithoutCancel(t.Context()), p, from*8, steps-from, 2, of)
			defer pl.close()
			for range steps - from {
				b, _, err := pl.next(t.Context())
				if err != nil {
					t.Fatal(name, err)
				}
				for i := range of.to - of.from {
					row := slices.Clone(b.pixels[i*size : (i+1)*size])
					out = append(out, fmt.Append(row, b.tokens[i*words:(i+1)*words]))
				}
				pl.done(b)
			}
			return out
		}
		whole := batches(0, rowRange{0, 8})
		for _, n := range []int{1, 2, 4} {
			if n > r.Lanes {
				continue
			}
			for k := range n {
				rows := rowRange{k * 8 / n, (k + 1) * 8 / n}
				from := int64(3 * k)
				part := batches(from, rows)
				for i := range part {
					step, row := from+int64(i/(8/n)), i%(8/n)+rows.from
					if !bytes.Equal(part[i], whole[step*8+int64(row)]) {
						t.Fatalf("%s: process %d of %d, from step %d: row %d of step %d differs", name, k, n, from, row, step)
					}
				}
			}
		}
		p := openTest(t, r)
		defer p.close()
		got := make([]int64, len(p.pools))
		keys := map[string]int{}
		d := p.draws(t.Context(), 0, rowRange{0, 8})
		defer d.close()
		for range 40 * 8 {
			x, err := d.next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if got[x.source]++; x.sample != nil && name == "stream" && got[0] <= 40 {
				keys[x.sample.Example.Key]++
			}
		}
		if !slices.Equal(got, p.given(40*8)) {
			t.Errorf("%s: gave %v, given says %v", name, got, p.given(40*8))
		}
		switch name {
		case "stream":
			if len(keys) != 40 || slices.Max(slices.Collect(maps.Values(keys))) != 1 {
				t.Errorf("the first pass gives %v", keys)
			}
		case "mixed": // 320 of 6 shares
			if got[0] < 135 || got[0] > 185 || got[1] < 35 || got[1] > 75 {
				t.Errorf("weights 3, 1, 2 gave %v", got)
			}
		case "by size": // 40 of the stream beside one pool of both others
			if len(got) != 2 {
				t.Errorf("pools %v", got)
			}
		}
	}
}

// TestStreamRun: a run on streams resumes to the same bits after any stop, even if the
// tars have moved.
func TestStreamRun(t *testing.T) {
	dir := t.TempDir()
	source := smallTars(t, dir, 5, 5, 5, 5, 9, 1, 5, 5)
	whole := filepath.Join(dir, "whole")
	mustRun(t, streamed(t, source), Options{Out: whole})
	out := filepath.Join(dir, "stops")
	for _, n := range []int64{1, 3, 1, 2} {
		mustRun(t, streamed(t, source), Options{Out: out, StopAfter: n, Workers: 3})
	}
	moved := filepath.Join(t.TempDir(), "moved")
	if err := os.MkdirAll(moved, 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range 8 {
		name := fmt.Sprintf("%02d.tar", i)
		if err := os.Rename(filepath.Join(dir, name), filepath.Join(moved, name)); err != nil {
			t.Fatal(err)
		}
	}
	mustRun(t, streamed(t, moved+"/{00..07}.tar"), Options{Out: out})
	sameRun(t, out, whole)

	// What the run has chosen stays; another way of reading is another run.
	for set, want := range map[string]string{
		"lanes=2":            "lanes was 4 and is now 2",
		"data.0.read=random": "data.0.read was stream and is now not set",
	} {
		_, err := Run(t.Context(), streamed(t, moved+"/{00..07}.tar", set), Options{Out: out, Backend: "go"})
		if err == nil || !strings.Contains(err.Error(), want) || fault.Code(err) != 2 {
			t.Errorf("%s: %v", set, err)
		}
	}
	mustRun(t, tiny(t, `data=[{source: "`+moved+`/{00..07}.tar"}]`), Options{Out: out}) // says nothing: as before
}

// TestStreamMissing: a tar that cannot be read ends a run with a checkpoint, or is left
// out; a resumed run leaves it out again, even if the tar is back.
func TestStreamMissing(t *testing.T) {
	dir := t.TempDir()
	source := smallTars(t, dir, 5, 5, 5, 5, 5, 5, 5, 5)
	sizes := `{"00.tar": 5, "01.tar": 5, "02.tar": 5, "03.tar": 5, "04.tar": 5, "05.tar": 5, "06.tar": 5, "07.tar": 5}`
	if err := os.WriteFile(filepath.Join(dir, "sizes.json"), []byte(sizes), 0o644); err != nil {
		t.Fatal(err)
	}
	quick := fakes{reading: reading{open: dataset.Open, pause: time.Microsecond}}
	tars := map[string]string{"missing": "no such file", "short": "holds 2 samples, not the 5 of sizes.json", "cut": "truncated", "corrupt": "not a tar header"}
	third := filepath.Join(dir, "03.tar")
	good := readFile(t, third)
	whole := filepath.Join(dir, "whole")
	mustRun(t, streamed(t, source), Options{Out: whole})
	for name, says := range tars {
		t.Run(name, func(t *testing.T) {
			defer os.WriteFile(third, good, 0o644)
			switch at := headerAt(t, good, 4); name {
			case "missing":
				os.Remove(third)
			case "short":
				os.WriteFile(third, append(slices.Clone(good[:at]), make([]byte, 1024)...), 0o644)
			case "cut":
				os.WriteFile(third, good[:at+700], 0o644)
			case "corrupt":
				os.WriteFile(third, append(slices.Clone(good[:at]), bytes.Repeat([]byte("?"), 5000)...), 0o644)
			}
			out := filepath.Join(dir, "error-"+name)
			_, err := Run(t.Context(), streamed(t, source, "seed=6"), Options{Out: out, Backend: "go", fakes: quick})
			if err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), "data.0.missing_shards: skip") || fault.Code(err) != 3 {
				t.Errorf("error %v has exit status %d", err, fault.Code(err))
			}
			// Continuing without it is not another run.
			skip := streamed(t, source, "seed=6", "data.0.missing_shards=skip")
			mustRun(t, skip, Options{Out: out, fakes: quick})

			out = filepath.Join(dir, "skip-"+name)
			mustRun(t, skip, Options{Out: out, fakes: quick})
			list := string(readFile(t, out, badFile))
			if !strings.Contains(list, "03.tar (from sample ") || !strings.Contains(list, says) {
				t.Errorf("the list is %s", list)
			}
			state, err := readState(filepath.Join(out, checkpointDir, "step-10"))
			if err != nil || len(state.Gaps) == 0 || filepath.Base(state.Gaps[0].Shard) != "03.tar" {
				t.Fatalf("state %+v, %v", state, err)
			}
			again := filepath.Join(dir, "again-"+name)
			mustRun(t, skip, Options{Out: again, StopAfter: 6, fakes: quick}) // in the second pass
			before, err := readState(filepath.Join(again, checkpointDir, "step-6"))
			if err != nil || !slices.ContainsFunc(before.Gaps, func(g gap) bool { return g.Epoch == 1 }) {
				t.Fatalf("state %+v, %v", before, err)
			}
			os.WriteFile(third, good, 0o644)
			moved := t.TempDir() // the tars have moved
			if err := os.CopyFS(moved, onlyFiles{os.DirFS(dir)}); err != nil {
				t.Fatal(err)
			}
			mustRun(t, streamed(t, moved+"/{00..07}.tar", "seed=6", "data.0.missing_shards=skip"), Options{Out: again, fakes: quick})
			sameRun(t, again, out)
		})
	}
}

// onlyFiles is a folder without those in it.
type onlyFiles struct{ fs.FS }

func (o onlyFiles) ReadDir(name string) ([]fs.DirEntry, error) {
	list, err := fs.ReadDir(o.FS, name)
	return slices.DeleteFunc(list, fs.DirEntry.IsDir), err
}

// TestStreamFaults: storage that fails for good in the middle of a run ends it with a
// checkpoint of the step before, and the same command resumes to the same bits once
// the storage is back.
func TestStreamFaults(t *testing.T) {
	dir := t.TempDir()
	smallTars(t, dir, 5, 5, 5, 5, 5, 5, 5, 5)
	var served atomic.Int32 // times that the third tar was read
	var trouble atomic.Pointer[func(w http.ResponseWriter, r *http.Request, good []byte)]
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		good, err := os.ReadFile(filepath.Join(dir, filepath.Base(r.URL.Path)))
		if err != nil {
			http.NotFound(w, r)
			return
		}
		// One or two of the lanes read a tar in a pass; the second pass starts at the
		// sixth step.
		if bad := trouble.Load(); bad != nil && strings.HasSuffix(r.URL.Path, "/03.tar") && served.Load() > 0 {
			(*bad)(w, r, good)
			return
		}
		if strings.HasSuffix(r.URL.Path, "/03.tar") && r.Header.Get("Range") != "bytes=0-0" {
			served.Add(1)
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(good))
	}))
	defer srv.Close()
	if err := os.WriteFile(filepath.Join(dir, "sizes.json"), []byte(`{"00.tar": 5, "01.tar": 5, "02.tar": 5, "03.tar": 5, "04.tar": 5, "05.tar": 5, "06.tar": 5, "07.tar": 5}`), 0o644); err != nil {
		t.Fatal(err)
	}
	recipe := streamed(t, srv.URL+"/{00..07}.tar", "lanes=1", "checkpoint.every_steps=0")
	quick := fakes{reading: reading{open: dataset.Open, pause: time.Microsecond}}
	whole := filepath.Join(dir, "whole")
	mustRun(t, recipe, Options{Out: whole})
	at := headerAt(t, readFile(t, dir, "03.tar"), 4)
	content := func(change func([]byte) []byte) func(http.ResponseWriter, *http.Request, []byte) {
		return func(w http.ResponseWriter, r *http.Request, good []byte) {
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(change(slices.Clone(good))))
		}
	}
	for name, c := range map[string]struct {
		bad  func(http.ResponseWriter, *http.Request, []byte)
		says string
		code int
	}{
		"missing": {func(w http.ResponseWriter, r *http.Request, _ []byte) { http.NotFound(w, r) }, "03.tar: no such file", 3},
		"refused": {func(w http.ResponseWriter, _ *http.Request, _ []byte) { w.WriteHeader(403) }, "access denied (403); 6 attempts", 4},
		"short":   {content(func(b []byte) []byte { return append(b[:at], make([]byte, 1024)...) }), "holds 2 samples, not the 5 of sizes.json", 3},
		"cut":     {content(func(b []byte) []byte { return b[:at+700] }), "truncated", 3},
		"corrupt": {content(func(b []byte) []byte { return append(b[:at], bytes.Repeat([]byte("?"), len(b)-at)...) }), "not a tar header", 3},
	} {
		t.Run(name, func(t *testing.T) {
			out := filepath.Join(dir, name)
			served.Store(0)
			trouble.Store(&c.bad)
			_, err := Run(t.Context(), recipe, Options{Out: out, Backend: "go", fakes: quick})
			if err == nil || !strings.Contains(err.Error(), c.says) || fault.Code(err) != c.code {
				t.Fatalf("error %v has exit status %d", err, fault.Code(err))
			}
			saved, err := os.ReadDir(filepath.Join(out, checkpointDir))
			if err != nil || len(saved) != 1 || saved[0].Name() != "step-5" {
				t.Fatalf("checkpoints %v, %v", saved, err)
			}
			if trouble.Store(nil); served.Load() == 0 {
				t.Error("the tar was never read")
			}
			mustRun(t, recipe, Options{Out: out})
			sameRun(t, out, whole)
		})
	}
}

// TestStreamUncounted: a tar that cannot even be counted is empty with
// missing_shards: skip, in a resumed run too.
func TestStreamUncounted(t *testing.T) {
	dir := t.TempDir()
	source := smallTars(t, dir, 5, 5, 5, 5, 5, 5)
	third := filepath.Join(dir, "03.tar")
	good := readFile(t, third)
	os.WriteFile(third, good[:3000], 0o644)
	skip := streamed(t, source, "data.0.missing_shards=skip")
	whole, cut := filepath.Join(dir, "whole"), filepath.Join(dir, "cut")
	if _, err := Run(t.Context(), streamed(t, source), Options{Out: whole, Backend: "go"}); err == nil || !strings.Contains(err.Error(), "03.tar: truncated") || fault.Code(err) != 3 {
		t.Error(err)
	}
	mustRun(t, skip, Options{Out: whole})
	mustRun(t, skip, Options{Out: cut, StopAfter: 4})
	os.WriteFile(third, good, 0o644)
	mustRun(t, skip, Options{Out: cut})
	sameRun(t, cut, whole)
	if list := string(readFile(t, whole, badFile)); !strings.Contains(list, "03.tar (all samples, in all passes)") {
		t.Errorf("the list is %s", list)
	}
}

// headerAt is the offset of the header of an entry of a tar.
func headerAt(t *testing.T, data []byte, n int) int {
	t.Helper()
	in := bytes.NewReader(data)
	r := tar.NewReader(in)
	at := 0
	for range n {
		h, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		at = (len(data) - in.Len() + int(h.Size) + 511) &^ 511
	}
	return at
}

// TestLanesFitTheHost: lanes that do not fit into memory are refused before any data is
// read.
func TestLanesFitTheHost(t *testing.T) {
	source := `{source: "x/{00..09}.tar", read: stream}, `
	r := tiny(t, "data=["+strings.Repeat(source, 8)+"]", "lanes=4096", "batch=4096", "image.size=32")
	cfg, err := r.config()
	if err != nil {
		t.Fatal(err)
	}
	err = fitsHost(r, cfg, rowRange{0, r.Batch})
	if err == nil || !strings.Contains(err.Error(), "lanes 4096") || !strings.Contains(err.Error(), "samples of 8 streams 3.88e+03 GB") || fault.Code(err) != 4 {
		t.Error(err)
	}
	r.Lanes = 8
	if err := fitsHost(r, cfg, rowRange{0, r.Batch}); err != nil {
		t.Error(err)
	}
}

// TestStreamSettled: how a source is read by default, and what is refused.
func TestStreamSettled(t *testing.T) {
	dir := t.TempDir()
	source := smallTars(t, dir, 5, 5)
	const many = "somewhere/{00000..01000}.tar"
	for _, c := range []struct {
		source, read string
		lanes        int
	}{{source, "", 0}, {many, readStream, 8}, {"somewhere/{00000..00999}.tar", "", 0}, {"somewhere/x.csv", "", 0}} {
		r := tiny(t, `data=[{source: "`+c.source+`"}]`).settleReading(t.Context())
		if r.Data[0].Read != c.read || r.Lanes != c.lanes {
			t.Errorf("%s: read %q, %d lanes", c.source, r.Data[0].Read, r.Lanes)
		}
	}
	old := tiny(t, `data=[{source: "`+many+`"}]`) // a run from before there were streams
	if r := old.adopt(old).settleReading(t.Context()); r.Data[0].Read != readRandom || r.Lanes != 0 || r.identity() != old.identity() {
		t.Errorf("an old run: read %q, %d lanes", r.Data[0].Read, r.Lanes)
	}
	for batch, lanes := range map[int]int{1: 1, 8: 8, 7: 7, 11: 1, 128: 8, 4096: 8, 32768: 64, 131072: 256, 144000: 250} {
		if n := lanesFor(batch); n != lanes {
			t.Errorf("batch %d: %d lanes, want %d", batch, n, lanes)
		}
	}
	r := streamed(t, source)
	for set, free := range map[string]bool{"data.0.missing_shards=skip": true, "lanes=2": false, "data.0.read=random": false} {
		if same := r.identity() == streamed(t, source, set).identity(); same != free {
			t.Errorf("%s: the same recipe: %v", set, same)
		}
	}
	if tiny(t).identity() != tiny(t, "data.0.read=random", "data.1.missing_shards=error").identity() {
		t.Error("read: random is not what nothing says")
	}
	few := filepath.Join(dir, "t.csv")
	os.WriteFile(few, []byte("path,text\na.png,a\n"), 0o644)
	for _, c := range []struct {
		source string
		sets   []string
		want   string
		code   int
	}{
		{few, nil, "not a list or a folder of .tar files", 3},
		{"pipe:aws s3 cp s3://b/{00..11}.tar -", nil, "cannot be read in pieces or twice; give s3://b/{00..11}.tar itself", 2},
		{filepath.Join(dir, "{07..09}.tar"), nil, "no such file", 3},
		{source, []string{"data.0.image=jpg"}, `data.0.image: "jpg" is a column of a table, and tars have none`, 2},
		{source, []string{"data.0.read=random", "data.0.count=headers"}, "data.0.count: headers needs read: stream", 2},
		{source, []string{"data.0.read=random", "data.0.image=jpg"}, "data.0.image", 2},
		{source, []string{"lanes=8", "batch=16", "data.0.weight=1"}, "10 samples do not fill a batch of 16", 3},
	} {
		_, err := Run(t.Context(), streamed(t, c.source, c.sets...), Options{Out: filepath.Join(dir, "out"), Backend: "go"})
		if err == nil || !strings.Contains(err.Error(), c.want) || fault.Code(err) != c.code || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: error %v has exit status %d; want %q", c.source, err, fault.Code(err), c.want)
		}
	}
}
