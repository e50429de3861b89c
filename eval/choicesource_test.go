package eval

import (
	"bytes"
	"encoding/json"
	"fmt"
	"image/color"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/parquet-go/parquet-go"

	"github.com/evatool/evatool/internal/fault"
)

// hubPicture is how Hugging Face's datasets write an image.
type hubPicture struct {
	Bytes []byte `parquet:"bytes"`
	Path  string `parquet:"path"`
}

// winogroundRow has the columns of facebook/winoground.
type winogroundRow struct {
	ID           int32      `parquet:"id"`
	Image0       hubPicture `parquet:"image_0"`
	Image1       hubPicture `parquet:"image_1"`
	Caption0     string     `parquet:"caption_0"`
	Caption1     string     `parquet:"caption_1"`
	Tag          string     `parquet:"tag"`
	SecondaryTag string     `parquet:"secondary_tag"`
	NumMainPreds int32      `parquet:"num_main_preds"`
	CollapsedTag string     `parquet:"collapsed_tag"`
}

// The hub's Parquet files are the set that examples.jsonl and images are.
func TestWinogroundParquet(t *testing.T) {
	const n = 9
	plain := winoground(t, n)
	rows := make([]winogroundRow, n)
	for i := range rows {
		picture := func(k int) hubPicture {
			name := fmt.Sprintf("ex_%d_img_%d.png", i, k)
			b, err := os.ReadFile(filepath.Join(plain, "images", name))
			if err != nil {
				t.Fatal(err)
			}
			return hubPicture{b, name}
		}
		rows[i] = winogroundRow{int32(i), picture(0), picture(1), fmt.Sprintf("dog %d bites man", i), fmt.Sprintf("man %d bites dog", i), "Object", "", 1, "Object"}
	}
	hub := t.TempDir()
	for k, part := range [][]winogroundRow{rows[:4], rows[4:]} {
		var b bytes.Buffer
		if err := parquet.Write(&b, part); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(hub, "data", fmt.Sprintf("test-%05d-of-00002.parquet", k)), b.Bytes())
	}
	want := score(t, newFake(), Options{Benchmark: "winoground", Data: plain})
	for _, data := range []string{hub, filepath.Join(hub, "data"), filepath.Join(hub, "data", "test-*.parquet")} {
		o := Options{Benchmark: "winoground", Data: data, Out: t.TempDir()}
		got := score(t, newFake(), o)
		if got.N != n || !cmp.Equal(got.Choice, want.Choice) || got.Value != want.Value || got.Ties != want.Ties {
			t.Errorf("%s: %+v of %d, want %+v", data, got.Choice, got.N, want.Choice)
		}
	}
	half := score(t, newFake(), Options{Benchmark: "winoground", Data: hub, Limit: 3})
	if half.N != 3 || half.Data.N != 6 {
		t.Errorf("%d questions of %d pictures", half.N, half.Data.N)
	}
	rows[2].Caption1 = " "
	var b bytes.Buffer
	if err := parquet.Write(&b, rows); err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(t.TempDir(), "x.parquet")
	write(t, bad, b.Bytes())
	if _, err := ZeroShotWith(t.Context(), public{newFake()}, Options{Benchmark: "winoground", Data: bad}); fault.Code(err) != int(fault.Input) {
		t.Error(err)
	}
}

// SugarCrepe as its repository has it: data/PART.json, of which the first release
// says ent for obj, indices with gaps, pictures of COCO's val2017.
func TestSugarCrepe(t *testing.T) {
	var want *Result
	for _, entities := range []bool{false, true} {
		dir := t.TempDir()
		for p, part := range sugarParts {
			asked := map[string]map[string]string{}
			for i := range 3 + p {
				name := fmt.Sprintf("%012d.jpg", 10*p+i)
				writeFilled(t, filepath.Join(dir, "val2017", name), color.RGBA{uint8(40 * p), uint8(71 * i), uint8(13 * p * i), 255})
				asked[fmt.Sprint(i*i)] = map[string]string{"filename": name, "caption": fmt.Sprintf("a %s of %d", part, i), "negative_caption": fmt.Sprintf("%d of a %s", i, part)}
			}
			b, err := json.MarshalIndent(asked, "", "    ")
			if err != nil {
				t.Fatal(err)
			}
			if entities {
				part = strings.Replace(part, "_obj", "_ent", 1)
			}
			write(t, filepath.Join(dir, "data", part+".json"), b)
		}
		got := score(t, newFake(), Options{Benchmark: "sugarcrepe", Data: dir})
		if got.N != 3+4+5+6+7+8+9 || len(got.Choice.Parts) != 7 {
			t.Fatalf("%d questions, parts %+v", got.N, got.Choice.Parts)
		}
		mean := 0.0
		for p, part := range got.Choice.Parts {
			if part.Name != sugarParts[p] || part.N != 3+p {
				t.Errorf("%+v", part)
			}
			one := score(t, newFake(), Options{Benchmark: "sugarcrepe-" + strings.ReplaceAll(part.Name, "_", "-"), Data: dir})
			if one.N != part.N || one.Choice.TextCorrect != part.Correct || one.Value != part.Value {
				t.Errorf("%s alone: %d of %d, in the whole %+v", part.Name, one.Choice.TextCorrect, one.N, part)
			}
			mean += part.Value / 7
		}
		if got.Value-mean > 1e-12 || mean-got.Value > 1e-12 {
			t.Errorf("%v, want the mean of the parts %v", got.Value, mean)
		}
		if want != nil && !cmp.Equal(want.Choice, got.Choice) {
			t.Errorf("%+v, want %+v", got.Choice, want.Choice)
		}
		want = got
	}
}
