package eval

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"image/color"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/evatool/evatool/internal/fault"
)

// scored runs the fake model and returns the labels in order and the log.
func scored(t *testing.T, o Options) (*Result, []int, string, error) {
	t.Helper()
	var log bytes.Buffer
	o.Log, o.Out, o.ModelID = slog.New(slog.NewTextHandler(&log, nil)), t.TempDir(), "fake"
	res, err := ZeroShotWith(context.Background(), public{newFake()}, o)
	if err != nil {
		return nil, nil, log.String(), err
	}
	rows, err := readRows(filepath.Join(o.Out, rowsFile), res)
	if err != nil {
		t.Fatal(err)
	}
	var labels []int
	for _, r := range rows {
		labels = append(labels, r.Label)
	}
	return res, labels, log.String(), nil
}

// The data's own order of the classes reaches the rows and the counts.
func TestOwnOrderOfTheData(t *testing.T) {
	for _, c := range []struct {
		benchmark, file, log string
		want                 []int
		classes              int
	}{
		{"cifar10", "cifar10-own-order", "mapped by name to 10 of the 10 classes", []int{9, 3, 0, 5, 8, 2, 1, 6, 4, 7}, 10},
		{"imagenet", "imagenet-subset", "mapped by name to 4 of the 1000 classes", []int{6, 0, 281, 2}, 4},
		{"cifar10", "cifar10-foreign", "are not among the classes", []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, 10},
	} {
		res, labels, log, err := scored(t, Options{Benchmark: c.benchmark, Data: filepath.Join("../testdata/huggingface", c.file+".parquet"), Templates: []string{"{}"}})
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(labels, c.want) || res.Data.ClassesWithImages != c.classes {
			t.Errorf("%s: labels %v of %d classes; want %v of %d", c.file, labels, res.Data.ClassesWithImages, c.want, c.classes)
		}
		if !strings.Contains(log, c.log) || !strings.Contains(log, fmt.Sprintf("have=%d", c.classes)) {
			t.Errorf("%s: log %s; want %q", c.file, log, c.log)
		}
	}
}

// The caller's names: for folders of any words, in a benchmark's order only.
func TestCallersNames(t *testing.T) {
	dir := t.TempDir()
	for i, folder := range []string{"above_20", "below_20"} {
		writeFilled(t, filepath.Join(dir, folder, "a.png"), color.RGBA{uint8(i), 9, 9, 255})
	}
	names := filepath.Join(t.TempDir(), "names.txt")
	write(t, names, []byte("below_20\ta young person\r\nabove_20\tan old person\r\n"))
	folders, list, err := ClassNames(names)
	if err != nil {
		t.Fatal(err)
	}
	res, labels, _, err := scored(t, Options{Data: dir, ClassNames: list, Folders: folders})
	if err != nil || !slices.Equal(labels, []int{1, 0}) || res.PerClass[1].Name != "an old person" {
		t.Errorf("labels %v, %v; want above_20 to be class 1, an old person", labels, err)
	}
	for text, want := range map[string]string{
		"a\tb\nc\n":    "class 1",
		"c\na\tb\n":    "class 1",
		"a\tb\tc\n":    "want FOLDER<TAB>NAME",
		"a\tb\na\tc\n": `folder "a" is listed twice`,
		"a\xff\n":      "not UTF-8",
		"\n \n":        "empty",
	} {
		write(t, names, []byte(text))
		if _, _, err := ClassNames(names); err == nil || !strings.Contains(err.Error(), want) || fault.Code(err) != int(fault.Input) {
			t.Errorf("%q: %v; want %q", text, err, want)
		}
	}
	// A list for a named benchmark keeps its order.
	cifar := strings.Fields("airplane automobile bird cat deer dog frog horse ship truck")
	turned := append(slices.Clone(cifar[1:]), cifar[0])
	src := "../testdata/huggingface/numbers.parquet"
	if _, _, _, err := scored(t, Options{Benchmark: "cifar10", Data: src, ClassNames: turned}); err == nil || !strings.Contains(err.Error(), `in another order (number 0, "automobile", is number 1 there)`) {
		t.Errorf("names in another order: %v", err)
	}
	german := strings.Fields("Flugzeug Auto Vogel Katze Hirsch Hund Frosch Pferd Schiff Lastwagen")
	if _, labels, log, err := scored(t, Options{Benchmark: "cifar10", Data: src, ClassNames: german}); err != nil || !slices.Equal(labels, []int{3, 0, 1}) {
		t.Errorf("names in another language: %v, %v, %s", labels, err, log)
	}
	if _, labels, log, err := scored(t, Options{Benchmark: "cifar10", Data: "../testdata/huggingface/cifar10-foreign.parquet", ClassNames: german}); err != nil || labels[9] != 9 || strings.Contains(log, "WARN") {
		t.Errorf("names in the data's language: %v, %v, %s", labels, err, log)
	}
}

// Labels of tensors are numbers, which classnames.txt beside them may explain.
func TestNamesBesideTensors(t *testing.T) {
	dir := t.TempDir()
	src := filepath.Join(dir, "x.safetensors")
	writeLabelled(t, src, []int64{0, 1, 2})
	o := Options{Data: src, ClassNames: []string{"cat", "dog", "elk"}}
	plain, labels, _, err := scored(t, o)
	if err != nil || !slices.Equal(labels, []int{0, 1, 2}) {
		t.Fatalf("%v, %v", labels, err)
	}
	write(t, filepath.Join(dir, "classnames.txt"), []byte("elk\ncat\ndog\n"))
	named, labels, log, err := scored(t, o)
	if err != nil || !slices.Equal(labels, []int{2, 0, 1}) || !strings.Contains(log, "mapped by name") {
		t.Errorf("%v, %v, %s", labels, err, log)
	}
	if named.Data.Fingerprint == plain.Data.Fingerprint {
		t.Error("other labels have the same fingerprint")
	}
	if res, _, _, err := scored(t, Options{Data: src}); err != nil || res.PerClass[0].Name != "elk" {
		t.Errorf("the names beside the file: %v", err)
	}
	write(t, filepath.Join(dir, "classnames.txt"), []byte("elk\ncat\n"))
	if _, _, _, err := scored(t, o); err == nil || !strings.Contains(err.Error(), "labels[2]: label 2 has no name") {
		t.Errorf("a label without a name: %v", err)
	}
}

func writeLabelled(t *testing.T, path string, labels []int64) {
	t.Helper()
	n := len(labels)
	images := make([]byte, 4*n*3*8*8)
	for i := range n * 3 * 64 {
		binary.LittleEndian.PutUint32(images[4*i:], math.Float32bits(float32(i)))
	}
	ids := make([]byte, 8*n)
	for i, l := range labels {
		binary.LittleEndian.PutUint64(ids[8*i:], uint64(l))
	}
	head := fmt.Sprintf(`{"images":{"dtype":"F32","shape":[%d,3,8,8],"data_offsets":[0,%d]},"labels":{"dtype":"I64","shape":[%d],"data_offsets":[%d,%d]}}`, n, len(images), n, len(images), len(images)+len(ids))
	out := binary.LittleEndian.AppendUint64(nil, uint64(len(head)))
	write(t, path, slices.Concat(out, []byte(head), images, ids))
}

// Labels that are counted from one leave class 0 without images.
func TestCountedFromOne(t *testing.T) {
	dir := t.TempDir()
	table := "path,label\n"
	for i := range 4 {
		name := fmt.Sprintf("%d.png", i)
		writeFilled(t, filepath.Join(dir, name), color.RGBA{uint8(i), 9, 9, 255})
		table += fmt.Sprintf("%s,%d\n", name, 1+i%2)
	}
	src := filepath.Join(dir, "t.csv")
	write(t, src, []byte(table))
	res, _, log, err := scored(t, Options{Data: src, ClassNames: []string{"cat", "dog", "elk"}})
	if err != nil || res.Data.ClassesWithImages != 2 || !strings.Contains(log, "counted from one") {
		t.Errorf("%v, %s", err, log)
	}
	write(t, src, []byte(strings.ReplaceAll(table, ",2", ",0")))
	if _, _, log, err := scored(t, Options{Data: src, ClassNames: []string{"cat", "dog", "elk"}}); err != nil || strings.Contains(log, "counted from one") {
		t.Errorf("%v, %s", err, log)
	}
}

// A label that is not there is explained.
func TestNoLabelIsExplained(t *testing.T) {
	_, _, _, err := scored(t, Options{Data: "../testdata/huggingface/null-label.parquet", ClassNames: []string{"a", "b", "c", "d"}})
	if err == nil || !strings.Contains(err.Error(), "row 2: null-label.parquet#1: the label is null or empty") {
		t.Errorf("%v", err)
	}
}

// A password in the address of the data stands in nothing that a run shows or writes.
func TestPasswordOfAnAddress(t *testing.T) {
	tarFile, err := os.ReadFile(filepath.Join(tarred(t, 4, func(i int) map[string][]byte { return map[string][]byte{"cls": {byte('0' + i%2)}} }), "test", "0.tar"))
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/0.tar" {
			http.NotFound(w, r)
			return
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(tarFile))
	}))
	defer srv.Close()
	base := strings.Replace(srv.URL, "//", "//me:pass@word@", 1)
	o := Options{Data: base + "/0.tar", ClassNames: []string{"cat", "dog"}, Templates: []string{"a {c}"}, Out: t.TempDir()}
	score(t, newFake(), o)
	files, err := filepath.Glob(filepath.Join(o.Out, "*"))
	if err != nil || len(files) < 3 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		if b, _ := os.ReadFile(f); bytes.Contains(b, []byte("word@")) {
			t.Errorf("%s holds the password", filepath.Base(f))
		}
	}
	for _, data := range []string{base + "/none.tar", base + "/0.txt", base + "/dir/"} {
		o := Options{Data: data, ClassNames: o.ClassNames, Templates: o.Templates, ModelID: "fake"}
		if _, err := ZeroShotWith(t.Context(), public{newFake()}, o); err == nil || strings.Contains(err.Error(), "word@") {
			t.Errorf("%s: %v", data, err)
		}
	}
}
