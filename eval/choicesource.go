package eval

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/dataset"
	"github.com/evatool/evatool/internal/fault"
)

// choices is a set that asks to choose between captions or pictures: each
// picture once, with the questions whose first picture it is.
type choices struct {
	fileSet
	name  string
	asked [][]question
	place map[string]int // of a picture's path
	from  string         // where they were read
	// tables hold the pictures instead of files: picture i is row i/2 of tables[i%2].
	tables []dataset.Dataset
}

func (c *choices) Describe() string { return c.name }

// Fingerprint covers the questions too.
func (c *choices) Fingerprint() string {
	asked, _ := json.Marshal(c.asked)
	if c.tables != nil {
		return contentKey(c.tables[0].Fingerprint(), c.tables[1].Fingerprint(), string(asked))
	}
	names := make([]string, len(c.fileSet))
	for i, path := range c.fileSet {
		names[i] = filepath.Base(path)
	}
	return contentKey(contentKey(names...), string(asked))
}

func (c *choices) Close() error {
	var errs []error
	for _, t := range c.tables {
		errs = append(errs, t.Close())
	}
	return errors.Join(errs...)
}

func (c *choices) Read(i int) (dataset.Example, error) {
	if c.tables != nil {
		ex, err := c.tables[i%2].Read(i / 2)
		ex.Index, ex.Key, ex.Label = i, c.fileSet[i], -1
		return ex, err
	}
	ex, err := fileSet{c.fileSet[i]}.Read(0)
	ex.Index, ex.Key = i, filepath.Base(c.fileSet[i])
	return ex, err
}

// Questions are those whose first picture is i.
func (c *choices) Questions(i int) []question { return c.asked[i] }

// picture is the index of a picture, which is added when it is new.
func (c *choices) picture(path string) int {
	i, ok := c.place[path]
	if !ok {
		i = len(c.fileSet)
		c.place[path] = i
		c.fileSet, c.asked = append(c.fileSet, path), append(c.asked, nil)
	}
	return i
}

// ask adds a question about pictures.
func (c *choices) ask(q question, paths ...string) error {
	for _, t := range q.Texts {
		if strings.TrimSpace(t) == "" || !utf8.ValidString(t) {
			return fault.Inputf("%s: question %s: text %.40q is blank or not UTF-8", fault.Name(c.from), fault.Name(q.ID), t)
		}
	}
	for _, p := range paths {
		q.Images = append(q.Images, c.picture(p))
	}
	c.asked[q.Images[0]] = append(c.asked[q.Images[0]], q)
	return nil
}

// openChoices reads the questions of a set, the first limit of them; 0 is all.
func openChoices(ctx context.Context, set, dir string, limit int, p arch.Preprocess) (_ source, err error) {
	c := &choices{place: map[string]int{}}
	defer func() {
		if err != nil {
			c.Close()
		}
	}()
	switch {
	case set == "winoground":
		err = c.winoground(ctx, dir)
	case set == "winogavil":
		err = c.winogavil(dir)
	default:
		err = c.sugarCrepe(dir, strings.TrimPrefix(strings.TrimPrefix(set, "sugarcrepe"), "-"))
	}
	if err != nil {
		return nil, err
	}
	if len(c.fileSet) == 0 {
		return nil, fault.Inputf("%s: has no questions; fetch the file again", fault.Name(c.from))
	}
	c.first(limit)
	return newPictures(c, p), nil
}

// first keeps the first n questions in the order of their pictures.
func (c *choices) first(n int) {
	if n <= 0 {
		return
	}
	used := 0 // pictures
	for i := range c.asked {
		c.asked[i] = c.asked[i][:min(len(c.asked[i]), n)]
		n -= len(c.asked[i])
		for _, q := range c.asked[i] {
			used = max(used, 1+slices.Max(q.Images))
		}
	}
	c.fileSet, c.asked = c.fileSet[:used], c.asked[:used]
}

// sugarParts are the files of SugarCrepe; older releases say ent for obj.
var sugarParts = []string{"add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj"}

// sugarCrepe reads data/PART.json: {"0": {filename, caption, negative_caption}}.
func (c *choices) sugarCrepe(dir, part string) error {
	c.name = "SugarCrepe"
	parts := sugarParts
	if part != "" {
		parts = []string{strings.ReplaceAll(part, "-", "_")}
	}
	for _, part := range parts {
		file, err := besideOne(dir, part+".json", strings.Replace(part, "_obj", "_ent", 1)+".json")
		if err != nil {
			return err
		}
		c.from = file
		var asked map[string]struct {
			File     string `json:"filename"`
			Right    string `json:"caption"`
			Negative string `json:"negative_caption"`
		}
		if err := readJSON(file, "SugarCrepe's questions", &asked); err != nil {
			return err
		}
		ids := make([]string, 0, len(asked))
		for id := range asked {
			ids = append(ids, id)
		}
		slices.SortFunc(ids, func(a, b string) int {
			x, _ := strconv.Atoi(a)
			y, _ := strconv.Atoi(b)
			return 2*(x-y) + strings.Compare(a, b)
		})
		for _, id := range ids {
			q := asked[id]
			path, err := findPicture(dir, "val2017", q.File, "coco/val2017", "images/val2017", "coco/images/val2017", "data/val2017", "../val2017", "../coco/val2017")
			if err != nil {
				return err
			}
			if err := c.ask(question{ID: part + "/" + id, Part: part, Texts: []string{q.Right, q.Negative}}, path); err != nil {
				return err
			}
		}
	}
	return nil
}

// winogroundTables finds the Parquet files of the hub's repository: what is given,
// or data/test-00000-of-00001.parquet.
func winogroundTables(dir string) string {
	if strings.EqualFold(filepath.Ext(dir), ".parquet") {
		return dir
	}
	for _, pattern := range []string{"data/test-*.parquet", "test-*.parquet", "*.parquet", "test/*.parquet", "default/test/*.parquet"} {
		if found, _ := filepath.Glob(filepath.Join(dir, filepath.FromSlash(pattern))); len(found) > 0 {
			return filepath.Join(dir, filepath.FromSlash(pattern))
		}
	}
	return ""
}

// winogroundTable reads the rows of such files, each column of pictures with its
// captions.
func (c *choices) winogroundTable(ctx context.Context, files string) error {
	c.from = files
	var captions [2][]string
	for k := range captions {
		ds, err := dataset.Open(ctx, files, dataset.Options{Kind: dataset.Parquet, ImageColumn: fmt.Sprint("image_", k), CaptionColumn: fmt.Sprint("caption_", k)})
		if err != nil {
			return err
		}
		c.tables = append(c.tables, ds)
		for i := range ds.Len() {
			ex, err := ds.Read(i)
			if err != nil {
				return err
			}
			if len(ex.Captions) != 1 {
				return fault.Inputf("%s: row %d: %d captions in caption_%d; want one", fault.Name(files), i, len(ex.Captions), k)
			}
			captions[k] = append(captions[k], ex.Captions[0])
		}
	}
	if len(captions[0]) != len(captions[1]) {
		return fault.Inputf("%s: %d rows have image_0 and caption_0, but %d have image_1 and caption_1", fault.Name(files), len(captions[0]), len(captions[1]))
	}
	for i := range captions[0] {
		if err := c.ask(question{ID: strconv.Itoa(i), Texts: []string{captions[0][i], captions[1][i]}}, fmt.Sprintf("row %d image_0", i), fmt.Sprintf("row %d image_1", i)); err != nil {
			return err
		}
	}
	return nil
}

// winoground reads the hub's Parquet files, or examples.jsonl: {id, image_0,
// image_1, caption_0, caption_1}.
func (c *choices) winoground(ctx context.Context, dir string) error {
	c.name = "Winoground"
	if files := winogroundTables(dir); files != "" {
		return c.winogroundTable(ctx, files)
	}
	file, err := besideOne(dir, "examples.jsonl")
	if err != nil {
		return err
	}
	c.from = file
	b, err := readFile(file, "Winoground's examples.jsonl")
	if err != nil {
		return err
	}
	line := 0
	for text := range bytes.Lines(b) {
		line++
		if len(bytes.TrimSpace(text)) == 0 {
			continue
		}
		var q struct {
			ID       json.Number
			Image0   string `json:"image_0"`
			Image1   string `json:"image_1"`
			Caption0 string `json:"caption_0"`
			Caption1 string `json:"caption_1"`
		}
		if err := json.Unmarshal(text, &q); err != nil {
			return fault.Inputf("%s: line %d: %w", fault.Name(file), line, err)
		}
		var paths []string
		for _, name := range []string{q.Image0, q.Image1} {
			if filepath.Ext(name) == "" {
				name += ".png"
			}
			path, err := findPicture(dir, "images", name, "data/images")
			if err != nil {
				return err
			}
			paths = append(paths, path)
		}
		if err := c.ask(question{ID: q.ID.String(), Texts: []string{q.Caption0, q.Caption1}}, paths...); err != nil {
			return err
		}
	}
	return nil
}

// winogavilFiles are those of the repository nlphuji/winogavil.
var winogavilFiles = hubSet{"winogavil_dataset.csv", "winogavil_images"}

// winogavil reads winogavil_dataset.csv: candidates, cue, associations.
func (c *choices) winogavil(dir string) error {
	c.name = "WinoGAViL"
	file, pictures, err := hubFiles(dir, winogavilFiles.table, winogavilFiles.folder)
	if err != nil {
		return err
	}
	c.from = file
	rows, err := readColumns(file, "candidates", "cue", "associations")
	if err != nil {
		return err
	}
	for i, r := range rows {
		where := fmt.Sprintf("%s: question %d", fault.Name(file), i)
		candidates, ok1 := dataset.StringList(r[0])
		associated, ok2 := dataset.StringList(r[2])
		if !ok1 || !ok2 || strings.TrimSpace(r[1]) == "" {
			return fault.Inputf("%s: want a list of candidates, a list of associations and a cue; found %.60q, %.60q and %.40q", where, r[0], r[2], r[1])
		}
		var paths []string
		q := question{ID: strconv.Itoa(i), Texts: []string{cuePrompt(r[1])}}
		for k, name := range candidates {
			path, err := findPicture(pictures, ".", name+".jpg", "winogavil_images")
			if err != nil {
				return err
			}
			paths = append(paths, path)
			if slices.Contains(associated, name) {
				q.Right = append(q.Right, k)
			}
		}
		if len(q.Right) == 0 {
			return fault.Inputf("%s: none of the associations %.80q is among the candidates %.80q", where, r[2], r[0])
		}
		if err := c.ask(q, paths...); err != nil {
			return err
		}
	}
	return nil
}

// cuePrompt is DataComp's prompt for a cue: "A werewolf", "An owl".
func cuePrompt(cue string) string {
	cue = strings.ToLower(cue)
	if strings.ContainsRune("aeiou", rune(cue[0])) {
		return "An " + cue
	}
	return "A " + cue
}

// besideOne finds one of the names in a folder or its data folder.
func besideOne(dir string, names ...string) (string, error) {
	for _, sub := range []string{".", "data"} {
		for _, name := range names {
			path := filepath.Join(dir, sub, name)
			if _, err := os.Stat(path); err == nil {
				return path, nil
			}
		}
	}
	return "", fault.Inputf("%s: no %s in this folder or in its subfolder data", fault.Name(dir), names[0])
}

func readJSON(path, want string, into any) error {
	b, err := readFile(path, want)
	if err != nil {
		return err
	}
	if !utf8.Valid(b) { // encoding/json would take it
		return fault.Inputf("%s: not UTF-8; save it as UTF-8", fault.Name(path))
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fault.Inputf("%s: not %s: %w", fault.Name(path), want, err)
	}
	return nil
}

// readColumns reads columns of a CSV with a header; a|b is a, or b where there
// is no a.
func readColumns(path string, columns ...string) ([][]string, error) {
	b, err := readFile(path, "a CSV with the columns "+strings.Join(columns, ", "))
	if err != nil {
		return nil, err
	}
	records, err := csv.NewReader(bytes.NewReader(bytes.TrimPrefix(b, []byte("\xef\xbb\xbf")))).ReadAll()
	if err != nil {
		return nil, fault.Inputf("%s: %w", fault.Name(path), err)
	}
	if len(records) < 2 {
		return nil, fault.Inputf("%s: has no rows; want a header and at least one row", fault.Name(path))
	}
	at := make([]int, len(columns))
	for i, name := range columns {
		at[i] = -1
		for _, n := range strings.Split(name, "|") {
			if k := slices.Index(records[0], n); k >= 0 && at[i] < 0 {
				at[i] = k
			}
		}
		if at[i] < 0 {
			return nil, fault.Inputf("%s: no column %s; the columns are %s", fault.Name(path), name, fault.Name(strings.Join(records[0], ", ")))
		}
	}
	out := make([][]string, 0, len(records)-1)
	for _, r := range records[1:] {
		row := make([]string, len(at))
		for i, k := range at {
			row[i] = r[k]
		}
		out = append(out, row)
	}
	return out, nil
}

// hubFiles finds a set's table and its folder of pictures: where a repository of
// the hub is unpacked, or in the cache of Hugging Face's datasets, which keeps
// files under hashes, with their addresses beside them.
func hubFiles(dir, table, folder string) (file, pictures string, err error) {
	if file, err = besideOne(dir, table); err == nil {
		return file, filepath.Dir(file), nil
	}
	beside, _ := filepath.Glob(filepath.Join(dir, "downloads", "*.json"))
	slices.Sort(beside)
	for _, about := range beside {
		var from struct{ URL string }
		if b, err := os.ReadFile(about); err != nil || json.Unmarshal(b, &from) != nil || !strings.HasSuffix(from.URL, "/"+table) {
			continue
		}
		found, _ := filepath.Glob(filepath.Join(dir, "downloads", "extracted", "*", folder))
		if len(found) == 0 {
			return "", "", fault.Inputf("%s: has %s, but no unpacked folder downloads/extracted/*/%s; unpack the pictures", fault.Name(dir), table, folder)
		}
		return strings.TrimSuffix(about, ".json"), found[0], nil
	}
	return "", "", fault.Inputf("%s: no %s in this folder, and no cache of Hugging Face's datasets (downloads) that has it", fault.Name(dir), table)
}
