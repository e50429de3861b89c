package dataset

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/evatool/evatool/internal/fault"
)

// IsCOCO says whether the file holds COCO's captions: images with ids, and
// annotations that name them.
func IsCOCO(data []byte) bool {
	var keys struct {
		Images, Annotations json.RawMessage
	}
	return json.Unmarshal(data, &keys) == nil && keys.Images != nil && keys.Annotations != nil
}

// cocoDocument is captions_val2017.json and its like.
type cocoDocument struct {
	Images []struct {
		ID   json.RawMessage `json:"id"`
		File string          `json:"file_name"`
	} `json:"images"`
	Annotations []struct {
		Image   json.RawMessage `json:"image_id"`
		Caption *string         `json:"caption"`
	} `json:"annotations"`
}

// openCOCO reads COCO's captions: the images in the order of their ids, as
// torchvision's CocoCaptions has them, each with all its captions.
func openCOCO(ctx context.Context, st storage, names []string) (Dataset, error) {
	var records []record
	for _, name := range names {
		data, err := readAll(ctx, st, name, "COCO's captions")
		if err != nil {
			return nil, err
		}
		more, err := cocoRecords(ctx, st, name, data)
		if err != nil {
			return nil, fault.As(fault.Input, fmt.Errorf("%s: %w", fault.Name(name), err))
		}
		records = append(records, more...)
	}
	return newList(ctx, st, "coco captions", records, nil), nil
}

func cocoRecords(ctx context.Context, st storage, name string, data []byte) ([]record, error) {
	var doc cocoDocument
	if !utf8.Valid(data) {
		return nil, fault.Inputf("not UTF-8; write the captions as UTF-8")
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, fault.Inputf("not COCO's captions: %w", err)
	}
	if len(doc.Images) == 0 || len(doc.Annotations) == 0 {
		return nil, fault.Inputf("no images with captions: want COCO's \"images\" and \"annotations\", as in captions_val2017.json")
	}
	records := make([]record, len(doc.Images))
	ids := make([]string, len(doc.Images))
	place := make(map[string]int, len(doc.Images))
	for i, im := range doc.Images {
		ids[i] = string(bytes.TrimSpace(im.ID))
		if ids[i] == "" || ids[i] == "null" || im.File == "" {
			return nil, fault.Inputf("image %d has no id or no file_name", i)
		}
		if _, again := place[ids[i]]; again {
			return nil, fault.Inputf("two images have the id %s", fault.Name(brief(ids[i])))
		}
		place[ids[i]] = i
		records[i] = record{key: im.File, label: -1}
	}
	for i, a := range doc.Annotations {
		k, ok := place[string(bytes.TrimSpace(a.Image))]
		if !ok {
			return nil, fault.Inputf("annotation %d is of the image %s, which is not listed", i, fault.Name(brief(string(a.Image))))
		}
		if a.Caption == nil {
			return nil, fault.Inputf("annotation %d has no caption; give a captions file, such as captions_val2017.json, not instances or keypoints", i)
		}
		text, err := oneCaption(*a.Caption)
		records[k].captions, records[k].bad = append(records[k].captions, text...), cmp.Or(records[k].bad, err)
	}
	dir := cocoFolder(ctx, st, name, doc.Images[0].File)
	order := make([]int, len(records))
	for i := range order {
		order[i] = i
		records[i].file = file{name: records[i].key, path: st.join(dir, records[i].key), size: -1}
	}
	slices.SortFunc(order, func(a, b int) int { return compareIDs(ids[a], ids[b]) })
	sorted := make([]record, len(records))
	for i, k := range order {
		sorted[i] = records[k]
	}
	return sorted, nil
}

// compareIDs orders numbers by their value.
func compareIDs(a, b string) int {
	x, errX := strconv.ParseInt(a, 10, 64)
	y, errY := strconv.ParseInt(b, 10, 64)
	if errX == nil && errY == nil {
		return cmp.Compare(x, y)
	}
	return strings.Compare(a, b)
}

// cocoFolder is where the images of a captions file lie: the first of the usual
// places that has one of them. COCO/annotations/captions_val2017.json has them
// in COCO/val2017.
func cocoFolder(ctx context.Context, st storage, name, image string) string {
	base := path.Base(strings.ReplaceAll(name, "\\", "/"))
	part := strings.TrimSuffix(base[strings.LastIndexByte(base, '_')+1:], path.Ext(base))
	dir := st.dir(name)
	for _, sub := range []string{"", part, "images", "images/" + part, "../" + part, "../images", "../images/" + part, ".."} {
		if where := st.join(dir, sub); exists(ctx, st, st.join(where, image)) {
			return where
		}
	}
	return st.join(dir, "../"+part)
}
