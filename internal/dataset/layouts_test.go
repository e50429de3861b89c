package dataset

import (
	"context"
	"path/filepath"
	"slices"
	"testing"
)

// TestPublishedLayouts opens sets by the folder that a published archive unpacks
// to, and by the folders inside.
func TestPublishedLayouts(t *testing.T) {
	objectnet, _ := LookupBenchmark("objectnet")
	renditions, _ := LookupBenchmark("imagenet-r")
	v2, _ := LookupBenchmark("imagenet-v2")
	for _, tt := range []struct {
		name    string
		bench   Benchmark
		files   []string
		sources []string
		keys    []string
		labels  []int
	}{
		{"objectnet", objectnet,
			[]string{"objectnet-1.0/README", "objectnet-1.0/mappings/folder_to_objectnet_label.json", "objectnet-1.0/images/air_freshener/c.png",
				"objectnet-1.0/images/banana/b.png", "objectnet-1.0/images/alarm_clock/a.png"},
			[]string{"", "objectnet-1.0", "objectnet-1.0/images"}, []string{"alarm_clock/a.png", "banana/b.png"}, []int{0, 2}},
		{"imagenet-r", renditions, []string{"imagenet-r/README.txt", "imagenet-r/n01443537/a.jpg", "imagenet-r/n01514859/b.jpg"},
			[]string{"", "imagenet-r"}, []string{"n01443537/a.jpg", "n01514859/b.jpg"},
			[]int{slices.Index(renditions.Folders, "n01443537"), slices.Index(renditions.Folders, "n01514859")}},
		{"imagenet-v2", v2, []string{"imagenetv2-matched-frequency-format-val/10/a.jpeg", "imagenetv2-matched-frequency-format-val/2/b.jpeg"},
			[]string{"", "imagenetv2-matched-frequency-format-val"}, []string{"10/a.jpeg", "2/b.jpeg"}, []int{10, 2}},
	} {
		dir := t.TempDir()
		for _, f := range tt.files {
			write(t, filepath.Join(dir, f), "x")
		}
		for _, src := range tt.sources {
			d, err := Open(context.Background(), filepath.Join(dir, src), Options{ClassNames: tt.bench.Labels(), SkipOthers: tt.bench.Partial})
			if err != nil {
				t.Errorf("%s %q: %v", tt.name, src, err)
				continue
			}
			var keys []string
			var labels []int
			for i := range d.Len() {
				ex, err := d.Read(i)
				if err != nil {
					t.Fatal(err)
				}
				keys, labels = append(keys, ex.Key), append(labels, ex.Label)
			}
			if !slices.Equal(keys, tt.keys) || !slices.Equal(labels, tt.labels) {
				t.Errorf("%s %q: %q %v, want %q %v", tt.name, src, keys, labels, tt.keys, tt.labels)
			}
		}
	}
}

// TestTestPart takes the test part of a folder that has the training part too.
func TestTestPart(t *testing.T) {
	dir := t.TempDir()
	for i, part := range []string{"train", "test"} {
		writeParquet(t, filepath.Join(dir, "data", part+"-00000-of-00001.parquet"), []parquetLine{{[]byte("x"), int64(i)}}, 1)
	}
	d, err := Open(context.Background(), dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if ex, err := d.Read(0); err != nil || d.Len() != 1 || ex.Label != 1 {
		t.Errorf("%d rows, first %+v, %v", d.Len(), ex, err)
	}
}
