package dataset

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/parquet-go/parquet-go"

	"github.com/evatool/evatool/internal/fault"
)

const huggingFace = "../../testdata/huggingface"

// optionsOf are the options with which a benchmark is scored, and what goes to
// the log.
func optionsOf(t *testing.T, benchmark string) (Options, *bytes.Buffer) {
	t.Helper()
	var log bytes.Buffer
	o := Options{Log: slog.New(slog.NewTextHandler(&log, nil))}
	if benchmark != "" {
		b, ok := LookupBenchmark(benchmark)
		if !ok {
			t.Fatalf("no benchmark %s", benchmark)
		}
		o.ClassNames, o.Also, o.SkipOthers = b.Labels(), b.Synonyms(), b.Partial
	}
	return o, &log
}

// labelsIn opens a set and reads all labels.
func labelsIn(src string, o Options) ([]int, error) {
	d, err := Open(context.Background(), src, o)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	var out []int
	for i := range d.Len() {
		ex, err := d.Read(i)
		if err != nil {
			return out, err
		}
		out = append(out, ex.Label)
	}
	return out, nil
}

// What "datasets" wrote: numbers, and the names that they stand for.
func TestHuggingFaceLabels(t *testing.T) {
	ten := []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}
	for _, tt := range []struct {
		benchmark, files string
		want             []int
		warns, fails     string // parts of what is said
	}{
		{"cifar10", "cifar10-own-order", []int{9, 3, 0, 5, 8, 2, 1, 6, 4, 7}, "", ""},
		{"cifar10", "cifar10-nine", []int{9, 3, 0, 5, 8, 2, 1, 6, 4}, "", ""},
		{"cifar10", "cifar10-foreign", ten, "10 of the data's 10 names for its label numbers are not among the classes", ""},
		{"cifar10", "cifar10-foreign-nine", nil, "", "9 names for its label numbers (Flugzeug, Auto, Vogel, …), none of which is among the 10 classes"},
		{"cifar10", "numbers", []int{3, 0, 1}, "", ""},
		{"cifar10", "words-beside", []int{9, 3, 0}, "", ""},
		{"cifar10", "null-label", nil, "", "row 2: null-label.parquet#1: the label is null"},
		{"cifar10", "unlabelled", nil, "", "label -1, which means that the class is unknown"},
		{"imagenet", "imagenet-subset", []int{6, 0, 281, 2}, "", ""},
		{"imagenet", "imagenet-lemmas", []int{6, 0, 281, 2}, "", ""},
		{"cifar100", "fine-label", []int{1, 0}, "", ""},
		{"stl10", "cifar10-nine", nil, "", `label 7, "frog", is not one of the 10 classes`},
		// Several parts, each with an order of its own.
		{"cifar10", "cifar10-own-order cifar10-other-order", []int{9, 3, 0, 5, 8, 2, 1, 6, 4, 7, 9, 8}, "", ""},
		{"cifar10", "cifar10-own-order numbers", []int{9, 3, 0, 5, 8, 2, 1, 6, 4, 7, 5, 9, 3}, "has no names for its label numbers; those of", ""},
		// Without a benchmark the first part's names are the classes.
		{"", "cifar10-own-order", ten, "", ""},
		{"", "cifar10-own-order cifar10-other-order", append(slices.Clone(ten), 0, 4), "", ""},
		{"", "cifar10-own-order cifar10-foreign", nil, "", "its class names (Flugzeug, Auto, Vogel, …) are not those of"},
	} {
		t.Run(tt.benchmark+" "+tt.files, func(t *testing.T) {
			o, log := optionsOf(t, tt.benchmark)
			var files []string
			for name := range strings.FieldsSeq(tt.files) {
				files = append(files, filepath.Join(huggingFace, name+".parquet"))
			}
			got, err := labelsIn(strings.Join(files, "::"), o)
			if tt.fails != "" {
				if err == nil || !strings.Contains(err.Error(), tt.fails) || fault.Code(err) != int(fault.Input) {
					t.Errorf("%v, %v; want an error that says %q", got, err, tt.fails)
				}
				return
			}
			if err != nil || !slices.Equal(got, tt.want) {
				t.Errorf("labels %v, %v; want %v", got, err, tt.want)
			}
			if warned := strings.Contains(log.String(), "level=WARN"); warned != (tt.warns != "") || !strings.Contains(log.String(), tt.warns) {
				t.Errorf("log %s; want %q", log, tt.warns)
			}
		})
	}
}

// Names for numbers in every layout that can have both: the numbers of a list
// in another order than the benchmark's.
func TestOwnOrderInEveryLayout(t *testing.T) {
	own := strings.Fields("truck cat airplane dog ship bird automobile frog deer horse")
	want := []int{9, 3, 0, 5, 8, 2, 1, 6, 4, 7}
	list := strings.Join(own, "\n") + "\n"
	type line struct {
		Image []byte `parquet:"image"`
		Label int32  `parquet:"label"`
	}
	type paths struct {
		Path  string `parquet:"path"`
		Label int32  `parquet:"label"`
		Name  string `parquet:"class_name"`
	}
	tars := func(t *testing.T, dir, ext string) {
		var entries []entry
		for i := range own {
			key := fmt.Sprintf("%04d", i)
			entries = append(entries, entry{key + ".jpg", "x"}, entry{key + ext, fmt.Sprintln(i)})
		}
		writeTar(t, filepath.Join(dir, "test", "0.tar"), entries[:10])
		writeTar(t, filepath.Join(dir, "test", "1.tar"), entries[10:])
	}
	csv := func(head string, row func(i int) string) string {
		out := head + "\n"
		for i := range own {
			out += fmt.Sprintf("%d.jpg,%s\n", i, row(i))
		}
		return out
	}
	infos := func() string {
		b, _ := json.Marshal(map[string]any{"default": map[string]any{"features": map[string]any{"label": map[string]any{"names": own, "_type": "ClassLabel"}}}})
		return string(b)
	}
	card := "---\ndataset_info:\n  features:\n  - name: label\n    dtype:\n      class_label:\n        names:\n"
	for i, name := range own {
		card += fmt.Sprintf("          '%d': %s\n", i, name)
	}
	card += "  splits:\n  - name: test\n---\n# words\n"
	bare := func(t *testing.T, dir string) {
		var rows []line
		for i := range own {
			rows = append(rows, line{[]byte("x"), int32(i)})
		}
		writeParquet(t, filepath.Join(dir, "data", "test-00000-of-00001.parquet"), rows, 4)
	}
	for name, make := range map[string]func(t *testing.T, dir string) string{
		"webdataset, classnames.txt above": func(t *testing.T, dir string) string {
			tars(t, dir, ".cls")
			write(t, filepath.Join(dir, "classnames.txt"), list)
			return dir
		},
		"webdataset, classnames.txt beside": func(t *testing.T, dir string) string {
			tars(t, dir, ".cls.txt")
			write(t, filepath.Join(dir, "test", "classnames.txt"), strings.ReplaceAll(list, "\n", "\r\n"))
			return filepath.Join(dir, "test", "{0..1}.tar")
		},
		"webdataset with a card": func(t *testing.T, dir string) string {
			tars(t, dir, ".cls")
			write(t, filepath.Join(dir, "README.md"), card)
			return dir
		},
		"webdataset of names": func(t *testing.T, dir string) string {
			var entries []entry
			for i, name := range own {
				entries = append(entries, entry{fmt.Sprintf("%d.png", i), "x"}, entry{fmt.Sprintf("%d.cls", i), strings.ToUpper(name) + "\n"})
			}
			return writeTar(t, filepath.Join(dir, "x.tar"), entries)
		},
		"csv, classnames.txt": func(t *testing.T, dir string) string {
			write(t, filepath.Join(dir, "classnames.txt"), list)
			return write(t, filepath.Join(dir, "t.csv"), csv("path,label", func(i int) string { return fmt.Sprint(i) }))
		},
		"csv, names in a column": func(t *testing.T, dir string) string {
			return write(t, filepath.Join(dir, "t.csv"), csv("path,label,class_name", func(i int) string { return fmt.Sprintf("%d,%s", i, own[i]) }))
		},
		"csv of floats, names in a column": func(t *testing.T, dir string) string {
			return write(t, filepath.Join(dir, "t.csv"), csv("path,label,category", func(i int) string { return fmt.Sprintf("%d.0,%s", i, own[i]) }))
		},
		"tsv of names": func(t *testing.T, dir string) string {
			return write(t, filepath.Join(dir, "t.tsv"), strings.ReplaceAll(csv("path,label", func(i int) string { return own[i] }), ",", "\t"))
		},
		"parquet, dataset_infos.json": func(t *testing.T, dir string) string {
			bare(t, dir)
			write(t, filepath.Join(dir, "dataset_infos.json"), infos())
			return dir
		},
		"parquet with a card": func(t *testing.T, dir string) string {
			bare(t, dir)
			write(t, filepath.Join(dir, "README.md"), card)
			return filepath.Join(dir, "data", "test-00000-of-00001.parquet")
		},
		"parquet, names in a column": func(t *testing.T, dir string) string {
			var rows []paths
			for i, name := range own {
				rows = append(rows, paths{fmt.Sprintf("%d.jpg", i), int32(i), name})
			}
			return writeParquet(t, filepath.Join(dir, "t.parquet"), rows, 3)
		},
	} {
		t.Run(name, func(t *testing.T) {
			o, log := optionsOf(t, "cifar10")
			src := make(t, t.TempDir())
			d, err := Open(context.Background(), src, o)
			if err != nil {
				t.Fatal(err)
			}
			var got []int
			for i := range d.Len() {
				ex, err := d.Read(i)
				if err != nil && !strings.Contains(err.Error(), "no such file") { // tables name pictures that are not there
					t.Fatal(err)
				}
				got = append(got, ex.Label)
			}
			if !slices.Equal(got, want) {
				t.Errorf("labels %v, want %v", got, want)
			}
			if strings.Contains(log.String(), "WARN") {
				t.Error(log)
			}
			if strings.Contains(name, "names") == strings.Contains(log.String(), "mapped by name to 10 of the 10 classes") && !strings.Contains(name, ", names") && !strings.Contains(name, "classnames") {
				t.Errorf("log: %s", log)
			}
		})
	}
}

func TestRenumber(t *testing.T) {
	abc := []string{"apple", "pear tree", "cherry"}
	for _, tt := range []struct {
		name    string
		own     nameList
		classes []string
		also    [][]string
		want    []int
		odd     bool
		says    string
	}{
		{"the same", nameList{names: []string{"Apple", "pear_tree", "CHERRY"}}, abc, nil, []int{0, 1, 2}, false, ""},
		{"another order", nameList{names: []string{"cherry", "apple", "pear-tree"}}, abc, nil, []int{2, 0, 1}, false, "mapped by name to 3 of the 3"},
		{"some", nameList{names: []string{"PearTree", "apple"}}, abc, nil, []int{1, 0}, false, "2 of the 3"},
		{"first ones in order", nameList{names: []string{"apple", "pear tree"}}, abc, nil, []int{0, 1}, false, "2 of the 3"},
		{"more than asked for", nameList{names: []string{"plum", "cherry", "apple", "pear tree"}}, abc, nil, []int{-1, 2, 0, 1}, true, "3 of 4 names"},
		{"foreign", nameList{names: []string{"x", "y", "z"}}, abc, nil, []int{0, 1, 2}, true, "3 of the data's 3 names"},
		{"one foreign in order", nameList{names: []string{"apple", "pear", "cherry"}}, abc, nil, []int{0, 1, 2}, true, `number 1 is "pear" there, "pear tree" here`},
		{"one foreign in another order", nameList{names: []string{"cherry", "pear", "apple"}}, abc, nil, []int{2, -1, 0}, true, `2 of 3 names`},
		{"foreign, too few", nameList{names: []string{"x", "y"}}, abc, nil, nil, false, "2 names"},
		{"foreign, too many", nameList{names: []string{"x", "y", "z", "v"}}, abc, nil, nil, false, "4 names"},
		{"numbers are no names", nameList{names: []string{"0", "1", "2"}}, abc, nil, []int{0, 1, 2}, false, ""},
		{"numbers are names", nameList{names: []string{"0", "1", "2"}}, []string{"2", "1", "0"}, nil, []int{2, 1, 0}, false, "3 of the 3"},
		{"too few numbers", nameList{names: []string{"0", "1"}}, abc, nil, nil, false, "2 names"},
		{"synonyms", nameList{names: []string{"fruit", "malus"}}, abc, [][]string{{"Malus, apple tree", "", "cherry, fruit"}}, []int{2, 0}, false, "2 of the 3"},
		{"a synonym of two", nameList{names: []string{"fruit", "cherry"}}, abc, [][]string{{"malus, fruit", "", "prunus, fruit"}}, []int{-1, 2}, true, "1 of 2 names"},
		{"its place decides for a shared name", nameList{names: []string{"crane", "crane"}}, []string{"crane bird", "construction crane"}, [][]string{{"crane", "crane"}}, []int{0, 1}, false, ""},
		{"two names of one class", nameList{names: []string{"apple", "malus"}}, abc, [][]string{{"malus", "", ""}}, []int{-1, -1}, true, "0 of 2 names"},
		{"rows that know some", nameList{names: []string{"", "cherry", "", "apple"}, sparse: true}, []string{"apple", "x", "y", "z", "cherry"}, nil, []int{-1, 4, -1, 0}, false, "2 of the 5"},
		{"rows that know foreign ones", nameList{names: []string{"", "Kirsche"}, sparse: true}, abc, nil, []int{0, 1}, true, "1 of the data's 1 names"},
		{"decomposed", nameList{names: []string{"cafe\u0301", "re\u0301sume\u0301"}}, []string{"résumé", "café"}, nil, []int{1, 0}, false, "2 of the 2"},
	} {
		s := newSpelling(tt.classes, tt.also)
		n, err := renumber(tt.own, tt.classes, s.best(tt.own.names), s.calls)
		if tt.want == nil {
			if err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%s: %v, %v; want an error that says %q", tt.name, n, err, tt.says)
			}
			continue
		}
		if err != nil || !slices.Equal(n.to, tt.want) || n.odd != tt.odd || !strings.Contains(n.says, tt.says) || (n.says == "") != (tt.says == "") {
			t.Errorf("%s: %+v, %v; want %v, odd %v, %q", tt.name, n, err, tt.want, tt.odd, tt.says)
		}
	}
}

// ImageNet's classes by every list of names in use.
func TestImageNetNames(t *testing.T) {
	b, _ := LookupBenchmark("imagenet")
	s := newSpelling(b.Labels(), b.Synonyms())
	for name, want := range map[string]int{
		"n01440764": 0, "tench": 0, "Tinca tinca": 0, "tench, Tinca tinca": 0, "Tench": 0, "n01440764 tench": 0, "n01440764-tench": 0,
		"great_white_shark": 2, "white shark": 2, "Golden Retriever": 207, "golden_retriever": 207,
		"gong": 577, "gong, tam-tam": 577, "harp": 594, "cardigan": 474, "Cardigan": 264, "crayfish": 124,
		"church": 497, "English springer": 217, "chain saw": 491, "cassette player": 482, "garbage truck": 569, "maillot, tank suit": 639,
		"projectile, missile": 744, "sunglass": 836, "crane bird": 134, "tabby cat": 281, "TabbyCat": 281,
	} {
		if got, ok := s.find(name); !ok || got != want {
			t.Errorf("%q is class %d, %v; want %d", name, got, ok, want)
		}
	}
	for _, name := range []string{"crane", "missile", "sunglasses", "panda", "no such thing", "n99999999", "", "  "} {
		if got, ok := s.find(name); ok {
			t.Errorf("%q is class %d, want none: several have the name, or none has", name, got)
		}
	}
	// The whole list, permuted, in each of its spellings.
	for k, list := range s.lists {
		turned := append(slices.Clone(list[500:]), list[:500]...)
		n, err := renumber(nameList{names: turned}, b.Labels(), s.best(turned), s.calls)
		if err != nil {
			t.Fatal(err)
		}
		unknown := 0
		for i, class := range n.to {
			if class < 0 {
				unknown++
			} else if class != (i+500)%1000 {
				t.Errorf("list %d: %q is class %d, want %d", k, turned[i], class, (i+500)%1000)
			}
		}
		if unknown > 4 {
			t.Errorf("list %d: %d names are no class", k, unknown)
		}
	}
}

// Folders named by numbers, by their own words, and in another Unicode form.
func TestFolderNames(t *testing.T) {
	numbers := func(format string, from, to int) (out []string) {
		for n := from; n <= to; n++ {
			out = append(out, fmt.Sprintf(format, n))
		}
		return out
	}
	for _, tt := range []struct {
		name      string
		benchmark string
		classes   []string
		dirs      []string
		want      []int // in the order of sorted folders
		warns     string
		fails     string
	}{
		{"0 to 9", "cifar10", nil, numbers("%d", 0, 9), []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, "", ""},
		{"00 to 09", "cifar10", nil, numbers("%02d", 0, 9), []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, "", ""},
		{"some with 0", "cifar10", nil, []string{"0", "7"}, []int{0, 7}, "", ""},
		{"1 to 10", "cifar10", nil, numbers("%d", 1, 10), nil, "", "they seem to be counted from one; name the folders"},
		{"001 to 010", "cifar10", nil, numbers("%03d", 1, 10), nil, "", "counted from one"},
		{"1 to 9", "cifar10", nil, numbers("%d", 1, 9), nil, "", "counted from one"},
		{"1 to 5", "cifar10", nil, numbers("%d", 1, 5), nil, "", "counted from one"},
		{"0 to 10", "cifar10", nil, numbers("%d", 0, 10), nil, "", `folder "10" is not a class number from 0 to 9`},
		{"few without 0", "cifar10", nil, []string{"3", "9"}, []int{3, 9}, "none of the 2 is 0", ""},
		{"few with the highest", "cifar10", nil, []string{"3", "10"}, nil, "", "counted from one"},
		{"one number twice", "cifar10", nil, []string{"0", "00"}, nil, "", "the same number"},
		{"1 to 1000", "imagenet", nil, numbers("%d", 1, 1000), nil, "", "ILSVRC2012_IDs"},
		{"1 to 999", "imagenet", nil, numbers("%d", 1, 999), nil, "", "ILSVRC2012_IDs"},
		{"a sign", "cifar10", nil, []string{"+1", "0"}, nil, "", "not among the 10 classes"},
		{"numbers that are the names", "", []string{"1", "2", "3"}, []string{"1", "2", "3"}, []int{0, 1, 2}, "", ""},
		{"wnids, classes in another order", "", []string{"goldfish", "tench"}, []string{"n01440764", "n01443537"}, []int{1, 0}, "", ""},
		{"wnids, classes in another language", "", []string{"Schleie", "Goldfisch"}, []string{"n01440764", "n01443537"}, []int{0, 1}, "2 of the data's 2 names", ""},
		{"wnids, other classes", "", []string{"a", "b", "c"}, []string{"n01440764", "n01443537"}, nil, "", "not among the 3 classes"},
		{"lemmas", "imagenet", nil, []string{"Tinca tinca", "tabby"}, []int{0, 281}, "", ""},
		{"decomposed", "", []string{"café", "naïve"}, []string{"cafe\u0301", "nai\u0308ve"}, []int{0, 1}, "", ""},
		{"own words", "", []string{"above_20", "below_20"}, []string{"below_20", "above 20"}, []int{0, 1}, "", ""},
		{"published folders", "country211", nil, []string{"AD", "DE", "ZW"}, []int{0, 49, 210}, "", ""},
		{"published folders", "eurosat", nil, []string{"AnnualCrop", "SeaLake"}, []int{0, 9}, "", ""},
	} {
		t.Run(tt.benchmark+" "+tt.name, func(t *testing.T) {
			o, log := optionsOf(t, tt.benchmark)
			if tt.classes != nil {
				o.ClassNames = tt.classes
			}
			var files []file
			for _, d := range tt.dirs {
				files = append(files, file{name: d + "/a.jpg", path: d + "/a.jpg", size: 1})
			}
			d, err := newFolders(context.Background(), disk{}, "set", files, o)
			var got []int
			for i := 0; err == nil && i < d.Len(); i++ {
				got = append(got, d.(*list).records[i].label)
			}
			if tt.fails != "" {
				if err == nil || !strings.Contains(err.Error(), tt.fails) || fault.Code(err) != int(fault.Input) {
					t.Errorf("%v, %v; want an error that says %q", got, err, tt.fails)
				}
				return
			}
			if err != nil || !slices.Equal(got, tt.want) {
				t.Errorf("labels %v, %v; want %v", got, err, tt.want)
			}
			if warned := strings.Contains(log.String(), "WARN"); warned != (tt.warns != "") || !strings.Contains(log.String(), tt.warns) {
				t.Errorf("log %s, want %q", log, tt.warns)
			}
		})
	}
}

// Digits in a label column are numbers, or names when the classes are called so.
func TestDigitsAsLabels(t *testing.T) {
	for _, tt := range []struct {
		classes, labels string
		want            string
	}{
		{"a b c", "0 1 2", "[0 1 2]"},
		{"a b c", "2.0 1. 0.00", "[2 1 0]"},
		{"1 2 3", "1 2 3", "[0 1 2]"},
		{"1 2 3", "0 1 2", "[0 1 2]"},
		{"1 2 3", "1 2", `label "1" is the number of class "2" and the name of class 0`},
		{"0 20 40", "0 20 40", "[0 1 2]"},
		{"0 20 40", "0 1 2", "[0 1 2]"},
		{"a b c", "1 2 3", "label 3 is not in 0..2; are the labels counted from one?"},
		{"a b c", "0 7", "label 7 is not in 0..2"},
		{"a b c", "c 1", "[2 1]"},
		{"a b c", "1.5", `label "1.5" is not one of the 3 classes`},
		{"a b c", "١", "not one of the 3 classes"},
		{"", "cat 1 dog", "[1 0 2]"}, // words: each is a class of its own
	} {
		table := "path,label\n"
		for label := range strings.FieldsSeq(tt.labels) {
			table += "a.jpg," + label + "\n"
		}
		dir := t.TempDir()
		write(t, filepath.Join(dir, "a.jpg"), "x")
		got, err := labelsIn(write(t, filepath.Join(dir, "t.csv"), table), Options{ClassNames: strings.Fields(tt.classes)})
		if err == nil && fmt.Sprint(got) != tt.want || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("classes %q, labels %q: %v, %v; want %s", tt.classes, tt.labels, got, err, tt.want)
		}
	}
	// A .cls is read alone: what could be both is an error.
	dir := t.TempDir()
	src := writeTar(t, filepath.Join(dir, "x.tar"), []entry{{"a.jpg", "x"}, {"a.cls", "1"}, {"b.jpg", "x"}, {"b.cls", "3"}})
	d, err := Open(context.Background(), src, Options{ClassNames: []string{"1", "2", "3"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Read(0); err == nil || !strings.Contains(err.Error(), "the name of class 0") {
		t.Errorf("label 1 of the classes 1, 2, 3: %v", err)
	}
	if ex, err := d.Read(1); err != nil || ex.Label != 2 {
		t.Errorf("label 3 of the classes 1, 2, 3: %d, %v", ex.Label, err)
	}
}

// A dataset card as "datasets" writes it, long names and all.
func TestCardNames(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(huggingFace, "card-names.json"))
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	if err := json.Unmarshal(b, &want); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"card.md", "card-two.md"} {
		card, err := os.ReadFile(filepath.Join(huggingFace, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, data := range [][]byte{card, bytes.ReplaceAll(card, []byte("\n"), []byte("\r\n"))} {
			if got := cardNames(data, "label"); !slices.Equal(got, want) {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		}
		if got := cardNames(card, "image"); got != nil {
			t.Errorf("%s: names of the image column %q", name, got)
		}
		// Two configurations that differ say nothing.
		other := bytes.Replace(card, []byte("'1': cat"), []byte("'1': dog"), 1)
		if got := cardNames(other, "label"); name == "card-two.md" && got != nil {
			t.Errorf("%s: configurations that differ gave %q", name, got)
		}
	}
}

// Pictures that a Hugging Face table only names lie beside it.
func TestNullBytes(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(huggingFace, "null-bytes.parquet"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	src := write(t, filepath.Join(dir, "t.parquet"), string(b))
	write(t, filepath.Join(dir, "pictures", "a.png"), "first")
	d, err := Open(context.Background(), src, Options{ClassNames: []string{"cat", "dog"}})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if ex, err := d.Read(0); err != nil || string(ex.Image) != "first" || ex.Label != 1 || ex.Key != "pictures/a.png" {
		t.Errorf("path: %q, %v", ex.Image, err)
	}
	if ex, err := d.Read(1); err != nil || !strings.HasPrefix(string(ex.Image), "\x89PNG") || ex.Label != 0 {
		t.Errorf("bytes: %q, %v", ex.Image, err)
	}
	if _, err := d.Read(2); err == nil || !strings.Contains(err.Error(), "c.png: no such file") {
		t.Errorf("path to nowhere: %v", err)
	}
	type line struct {
		Image *[]byte `parquet:"image,optional"`
		Label int32   `parquet:"label"`
	}
	none := writeParquet(t, filepath.Join(dir, "n.parquet"), []line{{nil, 0}, {&[]byte{}, 0}}, 2)
	if d, err = Open(context.Background(), none, Options{}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Read(0); err == nil || !strings.Contains(err.Error(), "row 1: no image: its bytes are null") {
		t.Errorf("null without a path: %v", err)
	}
	if ex, err := d.Read(1); err != nil || len(ex.Image) != 0 {
		t.Errorf("no bytes: %v", err)
	}
}

// A table may name a file in another Unicode form than its folder has.
func TestUnicodeFormOfPaths(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "Cafe\u0301", "re\u0301sume\u0301.jpg"), "x")
	write(t, filepath.Join(dir, "\u00e9.jpg"), "y")
	src := write(t, filepath.Join(dir, "t.csv"), "path,label\nCafé/résumé.jpg,1\ne\u0301.jpg,2\n")
	if got, err := labelsIn(src, Options{}); err != nil || !slices.Equal(got, []int{1, 2}) {
		t.Errorf("%v, %v", got, err)
	}
	tar := writeTar(t, filepath.Join(dir, "x.tar"), []entry{{"é.jpg", "x"}, {"e\u0301.cls", "4"}})
	if got, err := labelsIn(tar, Options{}); err != nil || !slices.Equal(got, []int{4}) {
		t.Errorf("members of one key in two forms: %v, %v", got, err)
	}
	if _, err := labelsIn(writeFolders(t, "caf\u00e9", "cafe\u0301"), Options{}); err == nil || !strings.Contains(err.Error(), "two Unicode forms") {
		t.Errorf("two folders of one name: %v", err)
	}
}

func writeFolders(t *testing.T, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range names {
		write(t, filepath.Join(dir, name, "a.jpg"), "x")
	}
	return dir
}

// Another list beside the tars makes another data set.
func TestNamesAreOfTheFingerprint(t *testing.T) {
	var prints []string
	for _, list := range []string{"", "cat\ndog\n", "dog\ncat\n"} {
		dir := t.TempDir()
		src := writeTar(t, filepath.Join(dir, "0.tar"), []entry{{"a.jpg", "x"}, {"a.cls", "1"}})
		if list != "" {
			write(t, filepath.Join(dir, "classnames.txt"), list)
		}
		d, err := Open(context.Background(), src, Options{})
		if err != nil {
			t.Fatal(err)
		}
		prints = append(prints, d.Fingerprint())
	}
	if slices.Sort(prints); len(slices.Compact(prints)) != 3 {
		t.Error("lists of names that differ have one fingerprint")
	}
}

// Every tar folder has its own list.
func TestListsOfSeveralTars(t *testing.T) {
	dir := t.TempDir()
	var src []string
	for part, list := range map[string]string{"a": "cat\ndog\n", "b": "dog\ncat\n"} {
		src = append(src, writeTar(t, filepath.Join(dir, part, "0.tar"), []entry{{part + ".jpg", "x"}, {part + ".cls", "1"}}))
		write(t, filepath.Join(dir, part, "classnames.txt"), list)
	}
	slices.Sort(src)
	if got, err := labelsIn(strings.Join(src, "::"), Options{ClassNames: []string{"bird", "cat", "dog"}}); err != nil || !slices.Equal(got, []int{2, 1}) {
		t.Errorf("labels %v, %v; want 2, 1", got, err)
	}
}

func TestMisplaced(t *testing.T) {
	classes, also := []string{"n1", "n2", "n3"}, [][]string{{"cat", "dog", "bird"}}
	for names, want := range map[string]string{"cat dog bird": "false", "Katze Hund Vogel": "false", "dog cat bird": "0 1 true", "cat dog Vogel": "false", "bird dog Katze": "false"} {
		i, class, ok := Misplaced(strings.Fields(names), classes, also)
		got := fmt.Sprint(ok)
		if ok {
			got = fmt.Sprint(i, class, ok)
		}
		if got != want {
			t.Errorf("Misplaced(%s) = %s, want %s", names, got, want)
		}
	}
}

// Rows of classes that a partial set does not ask for are left out.
func TestOtherRowsLeftOut(t *testing.T) {
	type line struct {
		Image []byte `parquet:"image"`
		Label string `parquet:"label"`
	}
	src := writeParquet(t, filepath.Join(t.TempDir(), "t.parquet"), []line{{[]byte("a"), "air freshener"}, {[]byte("b"), "alarm_clock"}, {[]byte("c"), "banana"}}, 2, parquet.KeyValueMetadata("x", "y"))
	o, log := optionsOf(t, "objectnet")
	d, err := Open(context.Background(), src, o)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"b", "c"} {
		if ex, err := d.Read(i); err != nil || string(ex.Image) != want || ex.Label != 2*i {
			t.Errorf("Read(%d): %q, label %d, %v", i, ex.Image, ex.Label, err)
		}
	}
	if d.Len() != 2 || !strings.Contains(log.String(), "1 row of other classes left out") {
		t.Errorf("%d rows; %s", d.Len(), log)
	}
}
