package eval

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/evatool/evatool/internal/dataset"
	"github.com/evatool/evatool/internal/fault"
)

// forged is a copy of a result's folder that a test changes.
type forged struct {
	t   *testing.T
	dir string
}

func (f forged) path(name string) string { return filepath.Join(f.dir, name) }

func copyOf(t *testing.T, dir string) forged {
	t.Helper()
	f := forged{t, t.TempDir()}
	if err := os.CopyFS(f.dir, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return f
}

// rows changes the lines below the header.
func (f forged) rows(change func(rows [][]string) [][]string) {
	f.t.Helper()
	path := f.path(rowsFile)
	b, err := os.ReadFile(path)
	if err != nil {
		f.t.Fatal(err)
	}
	records, err := csv.NewReader(strings.NewReader(string(b))).ReadAll()
	if err != nil {
		f.t.Fatal(err)
	}
	if err := writeCSV(path, append(records[:1:1], change(records[1:])...)); err != nil {
		f.t.Fatal(err)
	}
}

// result changes result.json.
func result[R any](f forged, change func(res *R)) {
	f.t.Helper()
	res := new(R)
	b, err := os.ReadFile(f.path(resultFile))
	if err != nil || json.Unmarshal(b, res) != nil {
		f.t.Fatal(err)
	}
	change(res)
	if b, err = json.Marshal(res); err != nil {
		f.t.Fatal(err)
	}
	write(f.t, f.path(resultFile), b)
}

// recount makes the counts of a set with classes those of its rows.
func (f forged) recount() {
	f.t.Helper()
	result(f, func(res *Result) {
		entries, err := readRows(f.path(rowsFile), res)
		if err != nil {
			f.t.Fatal(err)
		}
		names := make([]string, len(res.PerClass))
		for i, c := range res.PerClass {
			names[i] = c.Name
		}
		for _, s := range res.Skipped {
			entries = append(entries, entry{row: row{Index: s.Index, Key: s.Key}, Bad: s.Reason})
		}
		if err := count(res, names, entries); err != nil {
			f.t.Fatal(err)
		}
	})
}

// refused says whether a forgery is found with this status.
func refused(t *testing.T, what string, o VerifyOptions, status fault.Kind, want string) {
	t.Helper()
	v, err := Verify(t.Context(), o)
	switch {
	case status == 0 && (err != nil || v.Differs != 0):
		t.Errorf("%s: %v", what, err)
	case status == 0:
	case err == nil || fault.Code(err) != int(status) || !strings.Contains(err.Error(), want):
		t.Errorf("%s: %v, want status %d and %q", what, err, status, want)
	case status == fault.CheckFailed && (v == nil || v.Differs == 0 || v.AtMost <= 0):
		t.Errorf("%s: %+v", what, v)
	}
}

// A probe's rows follow from its head and the images, its counts from the rows.
func TestVerifyProbe(t *testing.T) {
	e := readExpected(t)
	fixture := fixtureOptions(t, e)
	model := OpenOptions{Config: fixture.Config, Backend: "go"}
	// The classes to score are fewer than those to learn, and in other numbers there.
	train, data := colours(t, 6, 1, fakeClasses[:6]...), colours(t, 5, 2, "bee", "cat", "fox")
	write(t, filepath.Join(data, "cat", "zz.png"), []byte("not a picture"))
	probe := func(l2 float64) string {
		out := t.TempDir()
		o := ProbeOptions{Model: fixture.Model, OpenOptions: model, Train: train, Data: data, L2: l2, Features: filepath.Join(data, "..", "features"), Out: out, MaxBad: 1}
		if _, err := Probe(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		return out
	}
	out, other := probe(1e-4), probe(1)
	check := VerifyOptions{Dir: out, Options: Options{Model: fixture.Model, OpenOptions: model, Data: data}}
	v, err := Verify(t.Context(), check)
	if err != nil || v.Rows != 16 || v.Sample != 16 || v.Differs != 0 || v.AtMost != 0 || v.MaxLogit > 1e-3 ||
		!slices.Equal(v.NotCovered, []string{"train", "neighbours", "zero_shot"}) {
		t.Fatalf("%+v, %v", v, err)
	}
	check.Sample = 8
	if v, err = Verify(t.Context(), check); err != nil || v.Sample != 8 || v.AtMost <= 0 || v.AtMost > 0.4 {
		t.Errorf("%+v, %v", v, err)
	}
	check.Sample = 0

	follow := func(f forged) {
		result(f, func(res *ProbeResult) {
			tally := newTally(res.names())
			entries, err := readRows(f.path(rowsFile), &Result{PerClass: tally.class})
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				tally.add(e.row)
			}
			res.Probe.count(tally)
			res.Data.N = tally.n
		})
	}
	const label, top1, logit = 2, 3, 8
	for _, c := range []struct {
		what   string
		forge  func(f forged)
		status fault.Kind
		want   string
	}{
		{"nothing", func(f forged) {}, 0, ""},
		{"the order of the lines", func(f forged) {
			f.rows(func(rows [][]string) [][]string { rows[0], rows[7] = rows[7], rows[0]; return rows })
		}, 0, ""},
		{"a label", func(f forged) {
			f.rows(func(rows [][]string) [][]string { rows[0][label] = "0"; return rows })
		}, fault.Input, "do not follow from rows.csv"},
		{"a label and the counts", func(f forged) {
			f.rows(func(rows [][]string) [][]string { rows[0][label] = "0"; return rows })
			follow(f)
		}, fault.CheckFailed, "is label 1 of"},
		{"a label of no class", func(f forged) {
			f.rows(func(rows [][]string) [][]string { rows[0][label] = "7"; return rows })
		}, fault.Input, "not among the 6 classes"},
		{"a count", func(f forged) {
			result(f, func(res *ProbeResult) { res.Probe.Correct1++ })
		}, fault.Input, "do not follow from rows.csv"},
		{"a share", func(f forged) {
			result(f, func(res *ProbeResult) { res.Probe.Top5 = 0.99 })
		}, fault.Input, "do not follow from rows.csv"},
		{"the number of images", func(f forged) {
			result(f, func(res *ProbeResult) { res.Data.N++; res.Probe.N++ })
		}, fault.Input, "do not follow from rows.csv"},
		{"the answers of two rows", func(f forged) {
			f.rows(func(rows [][]string) [][]string {
				a, b := rows[0][top1:], rows[1][top1:]
				if slices.Equal(a, b) {
					t.Fatal("the rows are alike")
				}
				rows[0], rows[1] = append(rows[0][:top1:top1], b...), append(rows[1][:top1:top1], a...)
				return rows
			})
			follow(f)
		}, fault.CheckFailed, "logit"},
		{"an answer", func(f forged) {
			f.rows(func(rows [][]string) [][]string {
				rows[3][top1], rows[3][top1+1] = rows[3][top1+1], rows[3][top1]
				return rows
			})
			follow(f)
		}, fault.CheckFailed, ""},
		{"a logit", func(f forged) {
			f.rows(func(rows [][]string) [][]string {
				x, err := strconv.ParseFloat(rows[2][logit], 32)
				if err != nil {
					t.Fatal(err)
				}
				rows[2][logit] = fmt.Sprint(float32(x + 0.5))
				return rows
			})
		}, fault.CheckFailed, "logit"},
		{"one row twice instead of another", func(f forged) {
			f.rows(func(rows [][]string) [][]string { rows[1] = slices.Clone(rows[0]); return rows })
			follow(f)
		}, fault.Input, "once each"},
		{"a row that is left out", func(f forged) {
			f.rows(func(rows [][]string) [][]string { return rows[1:] })
			follow(f)
		}, fault.Input, ""},
		{"a picture that is said not to decode", func(f forged) {
			f.rows(func(rows [][]string) [][]string { return rows[1:] })
			result(f, func(res *ProbeResult) {
				res.Data.Skipped = append(res.Data.Skipped, Skipped{0, "bee/a.png", "broken"})
			})
			follow(f)
		}, fault.CheckFailed, "decodes now"},
		{"the head", func(f forged) {
			if err := os.Remove(f.path(headFile)); err != nil {
				t.Fatal(err)
			}
			b, err := os.ReadFile(filepath.Join(other, headFile))
			if err != nil {
				t.Fatal(err)
			}
			write(t, f.path(headFile), b)
		}, fault.Input, "is not the head"},
		{"the head and its hash", func(f forged) {
			b, err := os.ReadFile(filepath.Join(other, headFile))
			if err != nil {
				t.Fatal(err)
			}
			write(t, f.path(headFile), b)
			result(f, func(res *ProbeResult) { res.Head.SHA256 = digest(b) })
		}, fault.CheckFailed, "logit"},
		{"no head", func(f forged) {
			if err := os.Remove(f.path(headFile)); err != nil {
				t.Fatal(err)
			}
		}, fault.Input, headFile},
		{"the number of classes", func(f forged) {
			result(f, func(res *ProbeResult) { res.Classes = 1 << 40 })
		}, fault.Input, "want weight"},
	} {
		f := copyOf(t, out)
		c.forge(f)
		of := check
		of.Dir = f.dir
		refused(t, c.what, of, c.status, c.want)
	}
	of := check
	of.ClassNames = []string{"other"}
	refused(t, "other words", of, fault.Input, "its class names differ")
	of = check
	of.Data = train
	refused(t, "other data", of, fault.Input, "covers 16 images, but the data has 36")
}

// What a forger would do to a set's rows: leave out what is wrong, say what is
// right twice, and change what a count follows from.
func TestVerifyForgeries(t *testing.T) {
	e := readExpected(t)
	fixture := fixtureOptions(t, e)
	run := func(o Options) (VerifyOptions, *Result) {
		o.Model, o.Config, o.Backend, o.Cache, o.Out = fixture.Model, fixture.Config, "go", "off", t.TempDir()
		res, err := ZeroShot(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		check := VerifyOptions{Dir: o.Out, Options: o}
		check.Out, check.Limit = "", 0
		refused(t, "nothing forged of "+res.Benchmark, check, 0, "")
		return check, res
	}
	plain, _ := run(Options{Data: fixture.Data, ClassNames: fixture.ClassNames, Templates: fixture.Templates})
	limited, _ := run(Options{Data: fixture.Data, ClassNames: fixture.ClassNames, Templates: fixture.Templates, Limit: 9})
	voc, _ := dataset.LookupBenchmark("voc2007-multilabel")
	several, _ := run(Options{Benchmark: "voc2007-multilabel", Data: tarred(t, 11, func(i int) map[string][]byte {
		has := make([]int, len(voc.ClassNames))
		for c := range has {
			if (i+1)*(c+2)%7 == 0 {
				has[c] = 1
			}
		}
		return map[string][]byte{"npy": npy(has...)}
	})})
	pairs, _ := run(Options{Benchmark: "winoground", Data: winoground(t, 6)})
	run(Options{Benchmark: "winoground", Data: pairs.Data, Limit: 4})
	// More pictures that do not decode than rows are drawn.
	damaged := winoground(t, 30)
	for i := 20; i < 30; i++ {
		write(t, filepath.Join(damaged, "images", fmt.Sprintf("ex_%d_img_0.png", i)), []byte("not a picture"))
	}
	few, _ := run(Options{Benchmark: "winoground", Data: damaged, MaxBad: 10})
	few.Sample = 2
	refused(t, "nothing forged, pictures that do not decode", few, 0, "")

	const key, label, top1, logits = 1, 2, 3, 11
	wrong := func(rows [][]string) int {
		return slices.IndexFunc(rows, func(r []string) bool { return r[label] != r[top1] })
	}
	right := func(rows [][]string) int {
		return slices.IndexFunc(rows, func(r []string) bool { return r[label] == r[top1] })
	}
	for _, c := range []struct {
		what   string
		of     VerifyOptions
		forge  func(f forged)
		status fault.Kind
		want   string
	}{
		{"a right row in the place of a wrong one", plain, func(f forged) {
			f.rows(func(rows [][]string) [][]string { rows[wrong(rows)] = slices.Clone(rows[right(rows)]); return rows })
			f.recount()
		}, fault.Input, "once each"},
		{"the same of a part of the data", limited, func(f forged) {
			f.rows(func(rows [][]string) [][]string { rows[wrong(rows)] = slices.Clone(rows[right(rows)]); return rows })
			f.recount()
		}, fault.Input, "once each"},
		{"a wrong row that is said not to decode", plain, func(f forged) {
			var gone []string
			f.rows(func(rows [][]string) [][]string {
				i := wrong(rows)
				gone = rows[i]
				return slices.Delete(rows, i, i+1)
			})
			result(f, func(res *Result) {
				i, err := strconv.Atoi(gone[0])
				if err != nil {
					t.Fatal(err)
				}
				res.Skipped = append(res.Skipped, Skipped{i, gone[key], "broken"})
			})
			f.recount()
		}, fault.CheckFailed, "decodes now"},
		{"the label in the fifth place", plain, func(f forged) {
			f.rows(func(rows [][]string) [][]string {
				i := slices.IndexFunc(rows, func(r []string) bool { return !slices.Contains(r[top1:top1+5], r[label]) })
				rows[i][top1+4] = rows[i][label]
				return rows
			})
			f.recount()
		}, fault.CheckFailed, "answers"},
		{"an answer twice", plain, func(f forged) {
			f.rows(func(rows [][]string) [][]string { rows[0][top1+4] = rows[0][top1]; return rows })
		}, fault.Input, "are not among"},
		{"a tie", plain, func(f forged) {
			f.rows(func(rows [][]string) [][]string {
				i := slices.IndexFunc(rows, func(r []string) bool { return r[9] == "0" })
				rows[i][9] = "1"
				return rows
			})
			f.recount()
		}, fault.CheckFailed, "the best logit is not shared"},
		{"a value without its interval", plain, func(f forged) {
			result(f, func(res *Result) { res.Value, res.CI95.Value = 0.99, [2]float64{} })
		}, fault.Input, "value"},
		{"another metric", plain, func(f forged) {
			result(f, func(res *Result) {
				res.Metric, res.Value, res.CI95.Value = dataset.MeanPerClass, res.MeanPerClass, res.CI95.MeanPerClass
			})
		}, fault.Input, "is scored by top1"},
		{"the worst group of none", plain, func(f forged) {
			result(f, func(res *Result) { res.Metric = dataset.WorstGroupTop1 })
		}, fault.Input, "of which groups nowhere"},
		{"an interval of average precision", several, func(f forged) {
			result(f, func(res *Result) { res.CI95.Value[0] += 0.01 })
		}, fault.Input, "ci95"},
		{"an interval of choices", pairs, func(f forged) {
			result(f, func(res *Result) { res.CI95.Top1[1] = res.Top1 })
		}, fault.Input, "ci95"},
		{"logits that average precision follows from", several, func(f forged) {
			f.rows(func(rows [][]string) [][]string {
				list := strings.Fields(rows[2][logits])
				top, _ := strconv.Atoi(rows[2][top1])
				x, err := strconv.ParseFloat(list[(top+1)%len(list)], 32)
				if err != nil {
					t.Fatal(err)
				}
				list[(top+1)%len(list)] = fmt.Sprint(float32(x - 3))
				rows[2][logits] = strings.Join(list, " ")
				return rows
			})
			f.recount()
		}, fault.CheckFailed, "of class"},
		{"a question that is left out", pairs, func(f forged) {
			f.rows(func(rows [][]string) [][]string { return slices.Delete(rows, 1, 2) })
			recountChoices(f)
		}, fault.Input, "is missing"},
		{"a question twice", pairs, func(f forged) {
			f.rows(func(rows [][]string) [][]string { rows[1] = slices.Clone(rows[0]); return rows })
			recountChoices(f)
		}, fault.Input, "is missing"},
		{"a question that is left out for a picture", pairs, func(f forged) {
			f.rows(func(rows [][]string) [][]string {
				result(f, func(res *Result) {
					i, err := strconv.Atoi(strings.Fields(rows[1][3])[0])
					if err != nil {
						t.Fatal(err)
					}
					res.Skipped = append(res.Skipped, Skipped{i, "x", "broken"})
				})
				return slices.Delete(rows, 1, 2)
			})
			recountChoices(f)
		}, fault.CheckFailed, "decodes now"},
	} {
		f := copyOf(t, c.of.Dir)
		c.forge(f)
		of := c.of
		of.Dir = f.dir
		refused(t, c.what, of, c.status, c.want)
	}
}

// recountChoices makes the counts of a set of choices those of its rows.
func recountChoices(f forged) {
	f.t.Helper()
	result(f, func(res *Result) {
		records, err := readTable(f.path(rowsFile), answersHead)
		if err != nil {
			f.t.Fatal(err)
		}
		var list []answer
		for _, rec := range records {
			a, err := parseAnswer(rec)
			if err != nil {
				f.t.Fatal(err)
			}
			list = append(list, a)
		}
		res.choose(list)
	})
}

func TestTheWorstGroupFollows(t *testing.T) {
	a, b := &Result{Group: &GroupInfo{Name: "region", Worst: 1}}, &Result{Group: &GroupInfo{Name: "region", Worst: 2}}
	if what := a.differs(b); what != "group" {
		t.Errorf("another worst group: %q", what)
	}
	if what := a.differs(a); what != "" {
		t.Errorf("the same: %q", what)
	}
}

// What a suite says beside the figures of its sets follows from them, too.
func TestForgedSuite(t *testing.T) {
	out := t.TempDir()
	data := pictureFolder(t, 40)
	models := []*SuiteModel{{Model: ModelInfo{File: "a"}}, {Model: ModelInfo{File: "b"}}}
	for i, m := range models {
		for _, name := range []string{"imagenet", "imagenet-v2"} {
			s := SuiteSet{Key: name, Benchmark: name, Dir: filepath.Join(m.Model.File, name)}
			s.ofResult(score(t, newFake(), Options{Data: data, Templates: []string{[]string{"a {c}", "no {c} at all"}[i] + name}, Out: filepath.Join(out, s.Dir)}))
			figure, in := s.Value+0.001, true
			s.Published, s.InsideCI = &figure, &in
			m.Sets = append(m.Sets, s)
		}
		m.compare(false)
		m.PublishedAverage, m.PublishedSame = m.Sets[0].Published, m.Sets[0].Published
	}
	res := &SuiteResult{Suite: "imagenet,imagenet-v2", Models: models, Pairs: pairs(models)}
	if err := res.finish(out); err != nil {
		t.Fatal(err)
	}
	if p := res.Pairs[0]; p.OnlyA+p.OnlyB == 0 || models[0].Robustness == nil {
		t.Fatalf("%+v: this data cannot show a difference", res)
	}
	refused(t, "nothing forged", VerifyOptions{Dir: out, Options: Options{Data: data, Model: "none"}}, fault.Input, "none: no such file")
	for what, forge := range map[string]func(res *SuiteResult){
		"comparisons": func(res *SuiteResult) { res.Pairs[0].P /= 2 },
		"inside_ci":   func(res *SuiteResult) { *res.Models[1].Sets[0].InsideCI = false },
		"robustness":  func(res *SuiteResult) { res.Models[0].Robustness[0].Below -= 0.01 },
		"of the same ": func(res *SuiteResult) {
			m := res.Models[1]
			m.Sets, m.Average = m.Sets[:1], 0
			m.compare(false)
		},
	} {
		f := copyOf(t, out)
		result(f, forge)
		refused(t, what, VerifyOptions{Dir: f.dir, Options: Options{Data: data, Model: "none"}}, fault.Input, what)
	}
	f := forged{t, copyOf(t, filepath.Join(out, models[0].Sets[0].Dir)).dir}
	result(f, func(res *Result) { res.Published = &Published{Figure: Figure{Value: 0.999, InsideCI: true}} })
	if _, err := readRowsOf(f.dir); err == nil || !strings.Contains(err.Error(), "published") {
		t.Errorf("a set: %v", err)
	}
}
