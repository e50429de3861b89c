package eval

import (
	"archive/tar"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/evatool/evatool/internal/dataset"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/published"
)

// madeUp is how many pictures a made-up set has, madeUpClasses how many classes;
// the last of them has no picture.
const (
	madeUp        = 13
	madeUpClasses = 7
)

func madeUpPicture(rng *rand.Rand) []byte {
	im := image.NewRGBA(image.Rect(0, 0, 20, 16))
	for y := range 16 {
		for x := range 20 {
			im.Set(x, y, color.RGBA{uint8(rng.IntN(256)), uint8(rng.IntN(256)), uint8(rng.IntN(256)), 255})
		}
	}
	var b bytes.Buffer
	if err := (&png.Encoder{CompressionLevel: png.NoCompression}).Encode(&b, im); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// madeUpTar is a tar of pictures with what a set's samples have beside them.
func madeUpTar(b dataset.Benchmark, captions bool, rng *rand.Rand) []byte {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for i := range madeUp {
		members := map[string][]byte{"png": madeUpPicture(rng)}
		switch {
		case captions:
			members["txt"] = []byte(fmt.Sprintf("view %d\nanother view %d\n", i, i))
		case b.Group != nil:
			meta := make([]int, b.Group.Column+1)
			meta[b.Group.Column] = 2 * (i % 3) // groups 1 and 3 have no picture
			members["npy"] = npy(meta...)
			fallthrough
		default:
			members["cls"] = []byte(fmt.Sprint(i * i % (madeUpClasses - 1)))
		}
		for _, ext := range []string{"cls", "npy", "png", "txt"} {
			if data, ok := members[ext]; ok {
				if err := w.WriteHeader(&tar.Header{Name: fmt.Sprintf("s%03d.%s", i, ext), Size: int64(len(data)), Typeflag: tar.TypeReg}); err != nil {
					panic(err)
				}
				w.Write(data)
			}
		}
	}
	w.Close()
	return out.Bytes()
}

// madeUpRoot writes all 38 sets, as DataComp's downloader has them or as
// CLIP_benchmark does; the pictures are the same.
func madeUpRoot(t *testing.T, downloader bool, only ...string) string {
	t.Helper()
	root := t.TempDir()
	for i, task := range published.Tasks() {
		rng := rand.New(rand.NewPCG(uint64(i), 38))
		b, known := dataset.LookupBenchmark(task.Benchmark)
		_, captions := hubCaptions[task.Benchmark]
		if len(only) > 0 && !slices.Contains(only, task.Benchmark) {
			continue
		}
		switch {
		case !known && !captions:
			t.Fatalf("%s: no entry in the table of benchmarks", task.Benchmark)
		case task.Benchmark == "winogavil":
			dir := filepath.Join(root, "winogavil")
			if downloader {
				dir = filepath.Join(root, "hf_cache", "downloads", "extracted", "ab12")
			}
			names := make([]string, 12)
			for k := range names {
				names[k] = fmt.Sprintf("thing%d", k)
				write(t, filepath.Join(dir, "winogavil_images", names[k]+".jpg"), madeUpPicture(rng))
			}
			var table bytes.Buffer
			w := csv.NewWriter(&table)
			w.Write([]string{"ID", "candidates", "cue", "associations"})
			for q, n := range []int{5, 6, 10, 12, 12} {
				list := func(names []string) string { return "['" + strings.Join(names, "', '") + "']" }
				w.Write([]string{fmt.Sprint(q), list(names[:n]), fmt.Sprintf("cue%d", q), list(names[q : q+n/2])})
			}
			w.Flush()
			if downloader { // the cache of Hugging Face's datasets
				write(t, filepath.Join(root, "hf_cache", "downloads", "77.json"), []byte(`{"url": "https://x/resolve/main/winogavil_dataset.csv", "etag": null}`))
				write(t, filepath.Join(root, "hf_cache", "downloads", "77"), table.Bytes())
			} else {
				write(t, filepath.Join(dir, "winogavil_dataset.csv"), table.Bytes())
			}
		case captions && downloader:
			hub := hubCaptions[task.Benchmark]
			var table bytes.Buffer
			w := csv.NewWriter(&table)
			w.Write([]string{"raw", "filename"})
			for k := range madeUp {
				name := fmt.Sprintf("p%02d.jpg", k)
				write(t, filepath.Join(root, "hf_cache", "downloads", "extracted", task.Benchmark, hub.folder, name), madeUpPicture(rng))
				w.Write([]string{fmt.Sprintf(`["view %d", "another view %d"]`, k, k), name})
			}
			w.Flush()
			write(t, filepath.Join(root, "hf_cache", "downloads", task.Benchmark+".json"), []byte(`{"url": "https://x/resolve/main/`+hub.table+`"}`))
			write(t, filepath.Join(root, "hf_cache", "downloads", task.Benchmark), table.Bytes())
		default:
			folder := filepath.Join(root, "wds_"+strings.ReplaceAll(task.Key, "/", "-")+"_test")
			if strings.HasPrefix(task.Key, "fairness/") {
				folder = filepath.Join(root, "wds_"+strings.TrimPrefix(task.Key, "fairness/")+"_test")
			}
			if !downloader {
				folder = filepath.Join(root, "wds_"+strings.ReplaceAll(task.Key, "/", "-"))
			}
			if captions {
				folder = filepath.Join(root, "wds_"+map[string]string{"flickr30k": "flickr30k", "coco": "mscoco_captions"}[task.Benchmark])
			}
			write(t, filepath.Join(folder, "test", "0.tar"), madeUpTar(b, captions, rng))
			write(t, filepath.Join(folder, "test", "nshards.txt"), []byte("1\n"))
			if !captions {
				var names []string
				for c := range madeUpClasses {
					names = append(names, fmt.Sprintf("%s %c", strings.ReplaceAll(task.Benchmark, "-", " "), 'a'+c))
				}
				write(t, filepath.Join(folder, "classnames.txt"), []byte(strings.Join(names, "\n")+"\n"))
				write(t, filepath.Join(folder, dataset.TemplatesFile), []byte("a photo of a {c}.\n{c}\n"))
			}
		}
	}
	return root
}

// Each of DataComp's 38 sets runs on made-up data in both layouts, to the same
// figures, which can be verified; what does not follow or differs is found.
func TestAll38(t *testing.T) {
	e := readExpected(t)
	fixture := fixtureOptions(t, e)
	o := SuiteOptions{Sets: []string{DataComp}, Models: []string{fixture.Model}, Options: Options{OpenOptions: OpenOptions{Config: fixture.Config, Backend: "go"}, Cache: "off"}}
	var all [2]*SuiteResult
	for i, downloader := range []bool{true, false} {
		o.Data, o.Out = madeUpRoot(t, downloader), t.TempDir()
		res, err := Suite(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		all[i] = res
		sum := 0.0
		for k, task := range published.Tasks() {
			if len(res.Sets) <= k || res.Sets[k].Key != task.Key {
				t.Fatalf("%d sets, missing %v", len(res.Sets), res.Missing)
			}
			s := res.Sets[k]
			sum += s.Value / 38
			want := madeUp
			if task.Benchmark == "winogavil" {
				want = 5
			}
			if s.N != want || s.Metric != task.MainMetric || s.Value < s.CI95[0] || s.Value > s.CI95[1] || s.CI95[0] == s.CI95[1] {
				t.Errorf("%+v", s)
			}
			if r := s.result; r != nil && r.Kind == "" && (r.Data.Classes != madeUpClasses || r.Data.Templates != 2 || r.Metric != task.Metric) {
				t.Errorf("%s: %d classes, %d templates, %s", s.Key, r.Data.Classes, r.Data.Templates, r.Metric)
			}
			if r := s.result; r != nil && r.Group != nil && (len(r.Groups) != 3 || r.Groups[1].Group != 2) {
				t.Errorf("%s: groups %+v", s.Key, r.Groups)
			}
		}
		if res.N != 38 || res.Of != 38 || math.Abs(res.Average-sum) > 1e-12 {
			t.Errorf("average %v of %d, want %v", res.Average, res.N, sum)
		}
		if i > 0 {
			continue
		}
		check := VerifyOptions{Dir: o.Out, Sample: 6, Options: Options{Model: fixture.Model, OpenOptions: OpenOptions{Config: fixture.Config, Backend: "go"}, Data: o.Data}}
		v, err := Verify(t.Context(), check)
		if err != nil || len(v.Sets) != 38 || v.Differs != 0 || v.Sample != 37*6+5 || v.Rows != 37*madeUp+5 || v.AtMost <= 0 {
			t.Fatalf("%+v, %v", v, err)
		}
		forge(t, check)
	}
	for k, s := range all[0].Sets {
		if other := all[1].Sets[k]; s.Value != other.Value || s.CI95 != other.CI95 {
			t.Errorf("%s: %v %v as downloaded, %v %v as CLIP_benchmark has it", s.Key, s.Value, s.CI95, other.Value, other.CI95)
		}
	}
}

// Parts of a suite merge to the whole, set by set, whatever their kinds.
func TestSuiteParts(t *testing.T) {
	e := readExpected(t)
	fixture := fixtureOptions(t, e)
	o := SuiteOptions{Sets: []string{DataComp}, Models: []string{fixture.Model}, Options: Options{OpenOptions: OpenOptions{Config: fixture.Config, Backend: "go"}, Cache: "off"}}
	o.Data, o.Out = madeUpRoot(t, true, "fmow", "iwildcam", "coco", "winogavil", "pets"), t.TempDir()
	want, err := Suite(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	var dirs []string
	for i := range 3 {
		part := o
		part.Shard, part.Shards, part.Out = i, 3, t.TempDir()
		if _, err := Suite(t.Context(), part); err != nil {
			t.Fatal(err)
		}
		// A part shows no figures that only the whole has.
		for _, set := range []string{"retrieval-mscoco_2014_5k_test_image_text_retrieval", "misc-winogavil"} {
			page, err := os.ReadFile(filepath.Join(part.Out, set, reportFile))
			if text := string(page); err != nil || !strings.Contains(text, fmt.Sprintf("This is part %d of 3", i)) || strings.Contains(text, "95 %") {
				t.Errorf("%s, part %d: its report shows a score, or does not say that it is of a part: %v", set, i, err)
			}
		}
		if _, err := os.Stat(filepath.Join(part.Out, tableFile)); err == nil {
			t.Errorf("part %d has a %s", i, tableFile)
		}
		dirs = append(dirs, part.Out)
	}
	out := t.TempDir()
	got, err := MergeSuite(dirs, MergeOptions{Out: out})
	if err != nil {
		t.Fatal(err)
	}
	if got.N != 5 || got.Of != 38 || got.Average != want.Average || got.AverageCI95 != want.AverageCI95 {
		t.Errorf("%v of %d, want %v", got.Average, got.N, want.Average)
	}
	for i, s := range got.Sets {
		if w := want.Sets[i]; s.Value != w.Value || s.CI95 != w.CI95 || s.N != w.N {
			t.Errorf("%s: %+v, want %+v", s.Key, s, w)
		}
	}
	check := VerifyOptions{Dir: out, Options: Options{Model: fixture.Model, OpenOptions: OpenOptions{Config: fixture.Config, Backend: "go"}, Data: o.Data}}
	if v, err := Verify(t.Context(), check); err != nil || v.Differs != 0 || len(v.Sets) != 5 {
		t.Errorf("%+v, %v", v, err)
	}
	if _, err := MergeSuite(dirs[:2], MergeOptions{}); err == nil || !strings.Contains(err.Error(), "are in no shard") {
		t.Error(err)
	}
}

// forge changes files of a suite's folder, one at a time, and says that each is
// found.
func forge(t *testing.T, check VerifyOptions) {
	t.Helper()
	check.Sample = 100
	// A folder of three sets is quicker than all.
	path := filepath.Join(check.Dir, resultFile)
	var res SuiteResult
	b, err := os.ReadFile(path)
	if err != nil || json.Unmarshal(b, &res) != nil {
		t.Fatal(err)
	}
	res.Sets = slices.DeleteFunc(res.Sets, func(s SuiteSet) bool {
		return s.Benchmark != "coco" && s.Benchmark != "winogavil" && s.Benchmark != "fmow"
	})
	res.Average = 0
	res.compare(false)
	few := func(change func(*SuiteResult)) []byte {
		again := res
		one := *res.SuiteModel
		one.Sets = slices.Clone(res.Sets)
		again.SuiteModel = &one
		change(&again)
		b, err := json.Marshal(again)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	write(t, path, few(func(*SuiteResult) {}))
	if v, err := Verify(t.Context(), check); err != nil || len(v.Sets) != 3 || v.AtMost != 0 {
		t.Fatalf("%+v, %v", v, err)
	}
	dirs := map[string]string{}
	for _, s := range res.Sets {
		dirs[s.Benchmark] = filepath.Join(check.Dir, s.Dir)
	}
	replace := func(old, new string) func([]byte) []byte {
		return func(b []byte) []byte {
			if !bytes.Contains(b, []byte(old)) {
				t.Fatalf("no %q in %.300s", old, b)
			}
			return bytes.Replace(b, []byte(old), []byte(new), 1)
		}
	}
	cell := func(line, column int, change func(string) string) func([]byte) []byte {
		return func(b []byte) []byte {
			records, err := csv.NewReader(bytes.NewReader(b)).ReadAll()
			if err != nil {
				t.Fatal(err)
			}
			records[line][column] = change(records[line][column])
			var out bytes.Buffer
			csv.NewWriter(&out).WriteAll(records)
			return out.Bytes()
		}
	}
	for _, c := range []struct {
		what, path string
		change     func([]byte) []byte
		code       fault.Kind
		want       string
	}{
		{"the suite's figure", path, func([]byte) []byte { return few(func(r *SuiteResult) { r.Sets[1].Value += 0.01 }) }, fault.Input, "do not follow from"},
		{"the average", path, func([]byte) []byte { return few(func(r *SuiteResult) { r.Average += 0.01 }) }, fault.Input, "average does not follow"},
		{"a recall", filepath.Join(dirs["coco"], resultFile), replace(`"hits10": `, `"hits10": 1`), fault.Input, "do not follow from the features"},
		{"a rank", filepath.Join(dirs["coco"], rowsFile), cell(2, 2, func(s string) string { return s + "1" }), fault.Input, "ranks do not follow"},
		{"a score of a choice, its counts too", filepath.Join(dirs["winogavil"], rowsFile), cell(1, 6, func(s string) string {
			first, rest, _ := strings.Cut(s, " ")
			return first + "1 " + rest // a digit more: below the tolerance
		}), 0, ""},
		{"another score of a choice", filepath.Join(dirs["winogavil"], rowsFile), cell(1, 6, func(s string) string {
			list := strings.Fields(s)
			for i, text := range list {
				v, err := strconv.ParseFloat(text, 32)
				if err != nil {
					t.Fatal(err)
				}
				list[i] = fmt.Sprint(float32(v / 2)) // the order stays
			}
			return strings.Join(list, " ")
		}), fault.CheckFailed, ""},
		{"a choice's count", filepath.Join(dirs["winogavil"], resultFile), replace(`"correct1": `, `"correct1": 1`), fault.Input, "do not follow from rows.csv"},
		{"a group's count", filepath.Join(dirs["fmow"], resultFile), replace(`"correct5": `, `"correct5": 1`), fault.Input, "do not follow from rows.csv"},
		{"a logit", filepath.Join(dirs["fmow"], rowsFile), cell(3, 8, func(string) string { return "88" }), fault.CheckFailed, "rows differ"},
	} {
		before, err := os.ReadFile(c.path)
		if err != nil {
			t.Fatal(err)
		}
		write(t, c.path, c.change(before))
		v, err := Verify(t.Context(), check)
		switch {
		case c.code == 0 && (err != nil || v.Differs != 0):
			t.Errorf("%s: %v", c.what, err)
		case c.code != 0 && (err == nil || fault.Code(err) != int(c.code) || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v, want %q", c.what, err, c.want)
		case c.code == fault.CheckFailed && (v == nil || v.Differs != 1 || v.AtMost <= 0):
			t.Errorf("%s: %+v", c.what, v)
		}
		write(t, c.path, before)
	}
	// Features that another model made: ranks and recalls follow, the sample differs.
	turnFeatures(t, dirs["coco"])
	v, err := Verify(t.Context(), check)
	if fault.Code(err) != int(fault.CheckFailed) || v == nil || v.Differs != madeUp {
		t.Errorf("other features: %+v, %v", v, err)
	}
}

// turnFeatures turns all features of a retrieval's journal alike: no rank changes.
func turnFeatures(t *testing.T, dir string) {
	t.Helper()
	path := filepath.Join(dir, journalFile)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	for i, line := range lines[1:] {
		var e entry
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		for _, v := range []vector{e.Found.Image, e.Found.Texts} {
			for k := range v {
				v[k] = -v[k]
			}
		}
		b, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		lines[i+1] = string(b)
	}
	write(t, path, []byte(strings.Join(lines, "\n")+"\n"))
}
