package dataset

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/parquet-go/parquet-go"
)

type parquetLine struct {
	Image []byte `parquet:"image"`
	Label int64  `parquet:"label"`
}

func TestParquetErrors(t *testing.T) {
	dir := t.TempDir()
	good := writeParquet(t, filepath.Join(dir, "good.parquet"), []parquetLine{{[]byte("a"), 1}, {[]byte("b"), 7}}, 1)
	data, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	type paths struct {
		Path  string `parquet:"path"`
		Label int64  `parquet:"label"`
	}
	type lists struct {
		Image [][]byte `parquet:"image,list"`
	}
	type numbers struct {
		Image int64 `parquet:"image"`
	}
	type none struct {
		URL string `parquet:"url"`
	}
	tests := []struct {
		name    string
		src     string
		options Options
		want    string
	}{
		{"cut short", write(t, filepath.Join(dir, "cut.parquet"), string(data[:len(data)/2])), Options{}, "cut short"},
		{"empty", write(t, filepath.Join(dir, "empty.parquet"), ""), Options{}, "cut short"},
		{"no image", writeParquet(t, filepath.Join(dir, "none.parquet"), []none{{"u"}}, 1), Options{}, "no image column; the columns are url"},
		{"no such column", good, Options{CaptionColumn: "what"}, `no caption column "what"`},
		{"list of images", writeParquet(t, filepath.Join(dir, "lists.parquet"), []lists{{[][]byte{{1}}}}, 1), Options{}, "holds a list per row"},
		{"number as image", writeParquet(t, filepath.Join(dir, "numbers.parquet"), []numbers{{1}}, 1), Options{}, "want bytes or a path"},
		{"label out of range", good, Options{ClassNames: classes}, "label 7 is not in 0..2"},
		{"bytes and paths", good + "::" + writeParquet(t, filepath.Join(dir, "paths.parquet"), []paths{{"a.jpg", 1}}, 1), Options{}, "give one kind"},
	}
	for _, tt := range tests {
		if _, err := Open(context.Background(), tt.src, tt.options); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}

// Readers that jump about find every row, also far apart and backwards.
func TestParquetRandomOrder(t *testing.T) {
	const n = 500
	rng := rand.New(rand.NewPCG(1, 2))
	rows := make([]parquetLine, n)
	for i := range rows {
		rows[i] = parquetLine{bytes.Repeat([]byte(fmt.Sprint(i, " ")), 1+rng.IntN(50)), int64(i)}
	}
	d, err := Open(context.Background(), writeParquet(t, filepath.Join(t.TempDir(), "t.parquet"), rows, 300), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for range 2 * n {
		i := rng.IntN(n)
		if ex, err := d.Read(i); err != nil || ex.Label != i || !bytes.Equal(ex.Image, rows[i].Image) {
			t.Fatalf("Read(%d): label %d, image %.20q, %v", i, ex.Label, ex.Image, err)
		}
	}
}

// A damaged file is an error or other values, never a crash.
func TestParquetDamaged(t *testing.T) {
	dir := t.TempDir()
	rows := make([]parquetLine, 40)
	for i := range rows {
		rows[i] = parquetLine{bytes.Repeat([]byte{byte(i)}, 30), int64(i)}
	}
	data, err := os.ReadFile(writeParquet(t, filepath.Join(dir, "t.parquet"), rows, 10))
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(3, 4))
	for round := range 300 {
		bad := bytes.Clone(data)
		for range 1 + rng.IntN(3) {
			bad[rng.IntN(len(bad))] ^= byte(1 + rng.IntN(255))
		}
		name := write(t, filepath.Join(dir, fmt.Sprintf("bad%d.parquet", round)), string(bad))
		d, err := Open(context.Background(), name, Options{})
		if err != nil {
			continue
		}
		for i := range d.Len() {
			d.Read(i)
		}
		d.Close()
	}
}

func TestParquetClassNames(t *testing.T) {
	about := parquet.KeyValueMetadata("huggingface", `{"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}, "image": {"_type": "Image"}}}}`)
	dir := t.TempDir()
	src := writeParquet(t, filepath.Join(dir, "t.parquet"), []parquetLine{{[]byte("a"), 1}}, 1, about)
	d, err := Open(context.Background(), src, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(d.Classes(), []string{"cat", "dog"}) {
		t.Errorf("classes %q", d.Classes())
	}
	bad := writeParquet(t, filepath.Join(dir, "bad.parquet"), []parquetLine{{[]byte("a"), 2}}, 1, about)
	if _, err := Open(context.Background(), bad, Options{}); err == nil || !strings.Contains(err.Error(), "label 2 has no name") {
		t.Errorf("label without a name: %v", err)
	}
}

// A column whose values are not one text or number each is refused, not read as the
// first of its parts or as its bytes; one that nobody asked for is passed over.
func TestParquetColumnKinds(t *testing.T) {
	type parts struct {
		File string `parquet:"file"`
		Raw  string `parquet:"raw"`
	}
	type row[L, C any] struct {
		Image []byte `parquet:"image"`
		Label L      `parquet:"label"`
		Text  C      `parquet:"text"`
	}
	type decimals struct {
		Image []byte `parquet:"image"`
		Label int64  `parquet:"label,decimal(2:10)"`
	}
	nan := math.NaN()
	dir := t.TempDir()
	for i, tt := range []struct {
		src     string
		options Options
		want    string // the error, or label and captions of the last row
	}{
		{writeParquet(t, filepath.Join(dir, "0.parquet"), []decimals{{[]byte("a"), 300}}, 1), Options{}, "column label: type DECIMAL(10,2)"},
		{writeParquet(t, filepath.Join(dir, "1.parquet"), []row[int64, parts]{{[]byte("a"), 3, parts{"f", "dog"}}}, 1), Options{}, "3 []"},
		{writeParquet(t, filepath.Join(dir, "2.parquet"), []row[int64, parts]{{[]byte("a"), 3, parts{"f", "dog"}}}, 1), Options{CaptionColumn: "text"}, "column text: has the fields file, raw"},
		{writeParquet(t, filepath.Join(dir, "2l.parquet"), []row[int64, parts]{{[]byte("a"), 3, parts{"f", "dog"}}}, 1), Options{LabelColumn: "label"}, "3 []"},
		{writeParquet(t, filepath.Join(dir, "3.parquet"), []row[parts, string]{{[]byte("a"), parts{"0", "dog"}, "x"}}, 1), Options{}, "-1 [x]"},
		{writeParquet(t, filepath.Join(dir, "4.parquet"), []row[parts, parts]{{[]byte("a"), parts{"0", "dog"}, parts{"f", "dog"}}}, 1), Options{}, "column text: has the fields file, raw"},
		{writeParquet(t, filepath.Join(dir, "5.parquet"), []row[int64, map[string]string]{{[]byte("a"), 3, map[string]string{"en": "dog"}}}, 1), Options{CaptionColumn: "text"}, "column text: has the fields key, value"},
		{writeParquet(t, filepath.Join(dir, "6.parquet"), []row[float64, string]{{[]byte("a"), 2, "x"}, {[]byte("b"), nan, "x"}}, 1), Options{ClassNames: classes}, "the label is null or empty"},
		{writeParquet(t, filepath.Join(dir, "7.parquet"), []row[float64, string]{{[]byte("b"), nan, "x"}, {[]byte("a"), 3, `["x", "y"]`}}, 1), Options{}, "3 [x y]"},
	} {
		d, err := Open(t.Context(), tt.src, tt.options)
		got := ""
		if err != nil {
			got = err.Error()
		} else {
			ex, err := d.Read(d.Len() - 1)
			got = fmt.Sprint(ex.Label, ex.Captions)
			if err != nil {
				t.Errorf("%d: %v", i, err)
			}
		}
		if !strings.Contains(got, tt.want) {
			t.Errorf("%d: %s; want %s", i, got, tt.want)
		}
	}
}
