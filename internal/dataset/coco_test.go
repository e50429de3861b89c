package dataset

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/evatool/evatool/internal/fault"
)

const cocoText = `{"info": {"year": 2017}, "licenses": [],
 "images": [{"license": 4, "file_name": "000000397133.jpg", "height": 427, "id": 397133}, {"file_name": "000000000139.jpg", "id": 139}],
 "annotations": [{"image_id": 397133, "id": 1, "caption": "A man in\na kitchen."}, {"image_id": 139, "id": 37, "caption": " A room. "},
  {"image_id": 397133, "id": 2, "caption": "\u732b"}, {"image_id": 139, "id": 38, "caption": ""}]}`

// COCO's own captions: images by id, captions in the order of the file, the
// pictures where COCO has them.
func TestCOCO(t *testing.T) {
	for _, layout := range []struct{ json, images string }{
		{"annotations/captions_val2017.json", "val2017"},
		{"captions_val2017.json", "val2017"},
		{"captions_val2017.json", ""},
		{"captions_val2017.json", "images"},
		{"annotations/captions_val2017.json", "images/val2017"},
		{"annotations/captions_val2017.json", ""},
	} {
		dir := t.TempDir()
		for _, name := range []string{"000000397133.jpg", "000000000139.jpg"} {
			write(t, filepath.Join(dir, layout.images, name), name)
		}
		src := write(t, filepath.Join(dir, layout.json), cocoText)
		d, err := Open(context.Background(), src, Options{})
		if err != nil {
			t.Errorf("%+v: %v", layout, err)
			continue
		}
		var got []string
		for i := range d.Len() {
			ex, err := d.Read(i)
			if err != nil {
				t.Error(err)
			}
			got = append(got, fmt.Sprintf("%s %s %q", ex.Key, ex.Image, ex.Captions))
		}
		want := `000000000139.jpg 000000000139.jpg ["A room."]|000000397133.jpg 000000397133.jpg ["A man in a kitchen." "猫"]`
		if strings.Join(got, "|") != want {
			t.Errorf("%+v: %s, want %s", layout, strings.Join(got, "|"), want)
		}
	}
	for text, want := range map[string]string{
		`{"images": [], "annotations": []}`: "no images with captions",
		`{"images": [{"id": 1, "file_name": "a"}], "annotations": [{"image_id": 2, "caption": "x"}]}`:              "annotation 0 is of the image 2, which is not listed",
		`{"images": [{"id": 1, "file_name": "a"}], "annotations": [{"image_id": 1, "category_id": 3}]}`:            "annotation 0 has no caption",
		`{"images": [{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}], "annotations": [{"image_id": 1}]}`: "two images have the id 1",
		`{"images": [{"id": 1}], "annotations": [{"image_id": 1, "caption": "x"}]}`:                                "image 0 has no id or no file_name",
		"{\"images\": \"\xff\"}": "not UTF-8",
		`[1, 2]`:                 "not COCO's captions",
	} {
		_, err := Open(context.Background(), write(t, filepath.Join(t.TempDir(), "x.json"), text), Options{})
		if err == nil || !strings.Contains(err.Error(), want) || fault.Code(err) != int(fault.Input) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
