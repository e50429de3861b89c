package dataset

import (
	"slices"
	"strings"
	"testing"
)

func TestBenchmarks(t *testing.T) {
	all := Benchmarks()
	names := map[string]bool{}
	for _, b := range all {
		if names[b.Name] || b.Name == "" || b.Title == "" || b.Source == "" {
			t.Errorf("%q: twice, or without name, title or source", b.Name)
		}
		names[b.Name] = true
		words := b.Kind != Choice && !strings.Contains(b.Source, "words beside")
		if (len(b.ClassNames) >= 2) != words || (len(b.Templates) > 0) != words {
			t.Errorf("%s: %d classes, %d templates", b.Name, len(b.ClassNames), len(b.Templates))
		}
		if err := CheckTemplates(b.Name, b.Templates); err != nil {
			t.Error(err)
		}
		grouped := b.Metric == WorstGroupTop1 || b.Metric == WorstGroupTop5
		if b.Metric == "" || grouped != (b.Group != nil) || (b.Metric == MAP) != (b.Kind == MultiLabel) {
			t.Errorf("%s: metric %q of %v, kind %q", b.Name, b.Metric, b.Group, b.Kind)
		}
		if b.Folders != nil && len(b.Folders) != len(b.ClassNames) {
			t.Errorf("%s: %d folders for %d classes", b.Name, len(b.Folders), len(b.ClassNames))
		}
	}
	if len(all) != 53 {
		t.Errorf("%d benchmarks, want 53", len(all))
	}
}

func TestImageNet(t *testing.T) {
	b, ok := LookupBenchmark("imagenet1k")
	if !ok {
		t.Fatal("no imagenet")
	}
	distinct := map[string]bool{}
	for _, c := range b.ClassNames {
		distinct[c] = true
	}
	if len(b.ClassNames) != 1000 || len(distinct) != 998 || len(b.Templates) != 80 || !slices.IsSorted(b.Folders) {
		t.Errorf("%d names, %d distinct, %d templates", len(b.ClassNames), len(distinct), len(b.Templates))
	}
	// The pairs that share a name, and some classes whose place is well known.
	for i, want := range map[int]string{0: "tench", 657: "missile", 744: "missile", 836: "sunglasses", 837: "sunglasses", 207: "Golden Retriever", 134: "crane bird", 517: "construction crane", 999: "toilet paper"} {
		if b.ClassNames[i] != want {
			t.Errorf("class %d is %q, want %q", i, b.ClassNames[i], want)
		}
	}
	for i, want := range map[int]string{0: "n01440764", 207: "n02099601", 999: "n15075141"} {
		if b.Folders[i] != want {
			t.Errorf("class %d is %s, want %s", i, b.Folders[i], want)
		}
	}
}

// The first validation images: their ILSVRC2012_ID in the development kit's
// ground truth and their class in the sorted order.
func TestILSVRCOrderIsAnotherOne(t *testing.T) {
	for id, class := range map[int]int{490: 65, 361: 970, 171: 230, 822: 809, 297: 516, 482: 57, 13: 334, 704: 415} {
		if got := slices.Index(Wnids(), ilsvrcIDs()[id-1]); got != class {
			t.Errorf("ILSVRC2012_ID %d is class %d, want %d", id, got, class)
		}
	}
	ids := slices.Sorted(slices.Values(ilsvrcIDs()))
	if !slices.Equal(ids, Wnids()) {
		t.Error("the two orders are not of the same 1000 classes")
	}
}

func TestSubsets(t *testing.T) {
	imagenet, _ := LookupBenchmark("imagenet")
	for _, name := range []string{"imagenet-a", "imagenet-r"} {
		b, _ := LookupBenchmark(name)
		if len(b.Subset) != 200 || !slices.IsSorted(b.Subset) {
			t.Errorf("%s: %d classes", name, len(b.Subset))
		}
		for i, full := range b.Subset {
			if b.ClassNames[i] != imagenet.ClassNames[full] || b.Folders[i] != imagenet.Folders[full] {
				t.Errorf("%s: class %d is %s %q", name, i, b.Folders[i], b.ClassNames[i])
			}
		}
	}
	b, _ := LookupBenchmark("objectnet")
	if len(b.ClassNames) != 113 || len(b.Groups) != 113 || !slices.IsSorted(b.Folders) {
		t.Fatalf("objectnet: %d classes", len(b.ClassNames))
	}
	i := slices.Index(b.ClassNames, "alarm clock")
	if b.Folders[i] != "alarm_clock" || !slices.Equal(b.Groups[i], []int{409, 530}) {
		t.Errorf("alarm clock: folder %s, classes %v", b.Folders[i], b.Groups[i])
	}
}

func TestPrompt(t *testing.T) {
	for template, want := range map[string]string{"a photo of {c}.": "a photo of a cat.", "{}, {}": "a cat, a cat"} {
		if got := Prompt(template, "a cat"); got != want {
			t.Errorf("Prompt(%q) = %q, want %q", template, got, want)
		}
	}
	if err := CheckTemplates("t.txt", []string{"{c}", "a photo"}); err == nil || !strings.Contains(err.Error(), "t.txt: template 2") {
		t.Errorf("template without a place: %v", err)
	}
}
