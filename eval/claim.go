package eval

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/hub"
)

// identity describes an evaluation: enough to name it, and to tell it from
// another.
type identity struct {
	Benchmark   string `json:"benchmark"`
	Model       string `json:"model"`
	SHA256      string `json:"sha256,omitempty"` // of the model
	Data        string `json:"data"`
	Fingerprint string `json:"fingerprint,omitempty"`
	N           int    `json:"n,omitempty"` // images
	DType       string `json:"dtype,omitempty"`
	Backend     string `json:"backend,omitempty"`
	Shard       string `json:"shard,omitempty"`
	// Key hashes everything the rows depend on except backend and shard.
	Key string `json:"key,omitempty"`
}

func (r *run) identity() identity {
	id := identity{
		Benchmark: r.w.name, Model: r.model.File, SHA256: r.model.SHA256, Data: fault.Masked(r.o.Data), Fingerprint: r.data.Fingerprint(),
		N: len(r.scored), DType: r.o.DType, Backend: r.backend, Key: r.key,
	}
	if r.o.Shards > 1 {
		id.Shard = fmt.Sprintf("%d/%d", r.o.Shard, r.o.Shards)
	}
	return id
}

// of names an evaluation in a message.
func (id identity) of() string {
	s := fault.Name(cmp.Or(id.Model, "a model"))
	switch id.Benchmark {
	case "":
	case probeName:
		s = "a probe of " + s
	default:
		s += " on " + fault.Name(id.Benchmark)
	}
	if id.Data != "" {
		s += " (" + fault.Name(id.Data) + ")"
	}
	return s
}

// differs says in a word what two evaluations do not share; "" when they are one.
func (id identity) differs(held identity) string {
	for _, c := range []struct {
		what string
		same bool
	}{
		{"different benchmark", id.Benchmark == held.Benchmark},
		{"different model", id.SHA256 == held.SHA256},
		{"different data", id.Fingerprint == held.Fingerprint},
		{"different number of images", id.N == held.N},
		{"different part", id.Shard == held.Shard},
		{"different dtype", id.DType == held.DType},
		{"different backend", id.Backend == held.Backend || id.Backend == ""},
		{"different classes, templates, preprocessing or settings, or other pictures of the same names", id.Key == held.Key},
	} {
		if !c.same {
			return c.what
		}
	}
	return ""
}

// claim refuses to overwrite another evaluation in dir: a finished one, or the
// journal of one that has begun. journal is the key of this evaluation's own,
// "" where it keeps none. With force the other one's results are removed.
func claim(dir string, mine identity, journal string, force bool) error {
	held, what := heldIn(dir, journal)
	if what == "" {
		return nil
	}
	why := ""
	if held != nil {
		if why = mine.differs(*held); why == "" && what == resultFile {
			return nil
		}
	}
	return occupied(dir, cmp.Or(why, "another evaluation"), held, mine.of(), force)
}

// occupied says what else dir holds or, with force, makes room.
func occupied(dir, why string, held *identity, mine string, force bool) error {
	if !force {
		has := "another evaluation"
		if held != nil {
			has = held.of()
		}
		return fault.Usagef("%s: already holds %s, and this is %s: %s; give another Options.Out, or Options.Force to replace what is there", fault.Name(dir), has, mine, why)
	}
	for _, name := range []string{resultFile, rowsFile, headFile, reportFile, tableFile} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fault.File(dir, "a folder that can be written, as Options.Out", err)
		}
	}
	return nil
}

// heldIn finds an evaluation in dir other than the one of this journal. what is
// the file that shows it, "" when there is none; held is nil where the file does
// not name it.
func heldIn(dir, journal string) (held *identity, what string) {
	path := filepath.Join(dir, resultFile)
	if b, err := fault.ReadFile(path, "an older result", 64<<20); err == nil {
		return resultIdentity(b), resultFile
	}
	f, err := os.Open(filepath.Join(dir, journalFile)) // a plain file, as Folder has seen
	if err != nil {
		return nil, ""
	}
	defer f.Close()
	line, _ := bufio.NewReader(io.LimitReader(f, 1<<20)).ReadBytes('\n')
	if len(line) == 0 {
		return nil, ""
	}
	var head journalHead
	if json.Unmarshal(line, &head) == nil && head.Key == journal && journal != "" {
		return nil, ""
	}
	return head.Of, journalFile
}

// resultIdentity reads the result.json of any kind of evaluation.
func resultIdentity(b []byte) *identity {
	var res struct {
		Benchmark, Set, Suite, Source, Fingerprint, DType, Backend, Key string
		Model                                                           ModelInfo
		Models                                                          []struct{ Model ModelInfo }
		Data                                                            json.RawMessage
		Train                                                           *ProbeSet
		Shard                                                           *ShardInfo
		N                                                               int
	}
	if json.Unmarshal(b, &res) != nil {
		return nil
	}
	id := &identity{
		Benchmark: cmp.Or(res.Benchmark, res.Set, res.Suite), Model: res.Model.File, SHA256: res.Model.SHA256,
		Data: res.Source, Fingerprint: res.Fingerprint, N: res.N, DType: res.DType, Backend: res.Backend, Key: res.Key,
	}
	if res.Shard != nil {
		id.Shard = fmt.Sprintf("%d/%d", res.Shard.Index, res.Shard.Count)
	}
	var data DataInfo
	if json.Unmarshal(res.Data, &data) == nil {
		id.Data, id.Fingerprint, id.N = data.Source, data.Fingerprint, data.N
	} else {
		_ = json.Unmarshal(res.Data, &id.Data) // a suite's folder
	}
	if res.Train != nil {
		id.Benchmark = probeName
	}
	var models []string
	for _, m := range res.Models {
		models = append(models, m.Model.File)
	}
	if len(models) > 0 {
		id.Model = strings.Join(models, ", ")
	}
	if id.Benchmark == "" {
		return nil
	}
	return id
}

// probeName stands for a benchmark where an evaluation is a probe.
const probeName = "a probe"

// claim refuses to overwrite a suite that has models or sets this one lacks, or
// an evaluation that is not a suite. The folders of the sets have their own
// claims.
func (o *SuiteOptions) claim(ctx context.Context, keys []string) error {
	if o.Out == "" {
		return nil
	}
	held, what := heldIn(o.Out, "")
	if what == "" {
		return nil
	}
	var models []string
	for _, m := range o.Models {
		found, err := hub.Find(ctx, m, hub.Options{Cache: o.ModelCache, Offline: o.Offline, ToRun: true, Log: o.Log})
		if err != nil {
			return err
		}
		models = append(models, found.Path)
	}
	mine := identity{Benchmark: strings.Join(o.Sets, ","), Model: strings.Join(models, ", "), Data: o.Data}.of()
	old := &SuiteResult{}
	b, err := fault.ReadFile(filepath.Join(o.Out, resultFile), "an older result", 64<<20)
	if err != nil || json.Unmarshal(b, old) != nil || old.Suite == "" {
		return occupied(o.Out, "different kind of evaluation", held, mine, o.Force)
	}
	for _, m := range old.All() {
		if !slices.ContainsFunc(models, func(path string) bool { return samePath(path, m.Model.File) }) {
			return occupied(o.Out, "it lacks the model "+fault.Name(m.Model.File), held, mine, o.Force)
		}
		for _, s := range m.Sets {
			if !slices.Contains(keys, s.Key) {
				return occupied(o.Out, "it lacks the set "+fault.Name(s.Key), held, mine, o.Force)
			}
		}
	}
	return nil
}

// samePath says whether two paths are the same file.
func samePath(a, b string) bool {
	if a == b {
		return true
	}
	x, err := os.Stat(a)
	y, err2 := os.Stat(b)
	return err == nil && err2 == nil && os.SameFile(x, y)
}
