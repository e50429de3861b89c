package dataset

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/sync/errgroup"

	"github.com/evatool/evatool/internal/fault"
)

// webDataset reads samples out of tars. Its index is 16 bytes a sample: where
// the run of entries with the sample's key lies. One read brings all of them.
type webDataset struct {
	ctx      context.Context
	st       storage
	tars     []string
	samples  []sample
	skipped  int
	labels   []*labels // of each tar
	classes  []string
	o        Options
	identity string
}

// indexers bounds how many tars are indexed at the same time.
const indexers = 8

// openTars indexes WebDataset tars, the published ILSVRC tar, or a tar of
// class folders, by what their entries are.
func openTars(ctx context.Context, st storage, tars []string, o Options) (Dataset, error) {
	type scanned struct {
		group
		members []member // only while the tars may be class folders or ILSVRC
	}
	found := make([]scanned, len(tars))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(indexers)
	for i, name := range tars {
		g.Go(func() error {
			var members []member
			err := scanTar(gctx, st, name, func(m member) error { members = append(members, m); return nil })
			if err != nil {
				return err
			}
			f := &found[i]
			if f.group, err = groupSamples(members, name, i); err != nil {
				return err
			}
			if !f.sidecar && o.Kind != WebDataset {
				f.members = members
			}
			return f.check(o.Kind)
		})
	}
	if err := g.Wait(); err != nil {
		if len(tars) > 1 && ctx.Err() == nil {
			return nil, fault.As(fault.Input, fmt.Errorf("%w (one of %d tars)", err, len(tars)))
		}
		return nil, err
	}
	d := &webDataset{ctx: ctx, st: st, tars: tars, o: o}
	plain := o.Kind != WebDataset
	var files []file
	for i, f := range found {
		plain = plain && !f.sidecar
		for _, m := range f.members {
			files = append(files, file{name: m.name, path: tars[i], off: m.off, size: m.size})
		}
		d.samples = append(d.samples, f.samples...)
		d.skipped += f.skipped
	}
	if plain && len(files) > 0 {
		if anyValidationImage(files) {
			return openILSVRC(ctx, st, st.dir(tars[0]), files, o)
		}
		if inFolders(files) {
			return newFolders(ctx, st, tars[0], withoutTop(files), o)
		}
	}
	if o.Kind == ILSVRC || o.Kind == ImageFolder {
		return nil, fault.Inputf("%s: no %s layout: want only images in the tar; read it as webdataset", fault.Name(tars[0]), o.Kind)
	}
	if len(d.samples) == 0 {
		return nil, fault.Inputf("%s: no samples: want entries KEY.jpg (or png, webp) with KEY.txt, KEY.json or KEY.cls beside them", fault.Name(tars[0]))
	}
	own, err := d.readLabels()
	if err != nil {
		return nil, err
	}
	h := newHash("webdataset")
	for _, name := range tars {
		h.text(path.Base(name))
	}
	for _, s := range d.samples {
		h.number(int64(s.tar), s.off, int64(s.size))
	}
	for _, name := range own {
		h.text(name)
	}
	d.identity = h.sum()
	return d, nil
}

// readLabels finds the class names that lie beside the tars, which number the
// .cls files, and returns all of them.
func (d *webDataset) readLabels() (all []string, err error) {
	if d.o.Unlabelled {
		d.labels = make([]*labels, len(d.tars))
		return nil, nil
	}
	root := newLabels(d.o)
	lists := map[string]nameList{} // by folder
	var parts []part
	for _, tar := range d.tars {
		dir := d.st.dir(tar)
		own, known := lists[dir]
		if !known {
			if own, err = namesNear(d.ctx, d.st, dir, true, "cls", "label"); err != nil {
				return nil, err
			}
			lists[dir] = own
			all = append(all, own.names...)
		}
		parts = append(parts, part{name: tar, own: own})
	}
	d.labels, d.classes, err = partLabels(root, parts)
	return all, err
}

// inFolders says whether there are images and all of them are in folders.
func inFolders(files []file) bool {
	images, flat := 0, 0
	for _, f := range files {
		if hasImageSuffix(f.name) {
			images++
			if !strings.Contains(f.name, "/") {
				flat++
			}
		}
	}
	return images > 0 && flat == 0
}

func (d *webDataset) Len() int            { return len(d.samples) }
func (d *webDataset) Classes() []string   { return d.classes }
func (d *webDataset) Fingerprint() string { return d.identity }
func (d *webDataset) Close() error        { return nil }

func (d *webDataset) Describe() string {
	s := fmt.Sprintf("webdataset, %s, %s", plural(len(d.tars), "tar"), plural(len(d.samples), "sample"))
	if d.skipped > 0 {
		s += fmt.Sprintf(", %s without an image left out", plural(d.skipped, "key"))
	}
	return s
}

func (d *webDataset) Read(i int) (Example, error) {
	s := d.samples[i]
	name := d.tars[s.tar]
	ex := Example{Index: i, Label: -1}
	span, err := d.st.read(d.ctx, name, s.off, int64(s.size))
	if err != nil {
		return ex, lost(name, err)
	}
	m := members{example: &ex, labels: d.labels[s.tar], o: d.o}
	ex.Key, err = unpack(span, m.add)
	ex.Path = name + "/" + ex.Key
	if err == nil {
		err = m.finish()
	}
	if err != nil {
		return ex, lost(name, fault.Inputf("%s: %s at offset %d: %w", fault.Name(name), fault.Name(ex.Key), s.off, err))
	}
	return ex, nil
}

// members makes an example out of the members of a key.
type members struct {
	example        *Example // Key is set before finish
	labels         *labels  // nil: not looked at
	o              Options
	meta           []byte
	txt            bool     // there is a .txt
	images, dotted []string // compound extensions: of images, of captions and labels
	rank           int      // of the image, as imageRank has it
}

// otherImages is the rank of extensions such as seg.png, which are the image only
// when there is no a.jpg.
const otherImages = 9

// imageRank says which of several images under a key is taken: OpenCLIP's first of
// "jpg;png;jpeg;webp", wherever in the tar it stands, then any other plain one.
func imageRank(ext string) int {
	if strings.Contains(ext, ".") {
		return otherImages
	}
	usual := []string{"jpg", "png", "jpeg", "webp"}
	if i := slices.Index(usual, ext); i >= 0 {
		return i
	}
	return len(usual)
}

// wanted says whether a member's bytes are needed.
func wanted(ext string) bool {
	return isImage(ext) || ext == "txt" || ext == "caption" || ext == "json" || ext == "cls" || ext == "cls.txt"
}

func (m *members) add(ext string, data []byte) (err error) {
	ex := m.example
	switch {
	case isImage(ext):
		if strings.Contains(ext, ".") {
			m.images = append(m.images, ext)
		}
		if rank := imageRank(ext); ex.Image == nil || rank < m.rank {
			ex.Image, m.rank = data, rank
		}
	case ext == "txt" || ext == "caption":
		m.txt = m.txt || ext == "txt"
		switch {
		case m.o.CaptionColumn != "": // it is a key of the .json
		case ext == "caption" && m.txt: // OpenCLIP reads the .txt
		case m.o.CaptionLines:
			ex.Captions, err = captionLines(string(data))
		default:
			ex.Captions, err = oneCaption(string(data))
		}
	case ext == "json":
		m.meta = data
	case ext == "cls" || ext == "cls.txt":
		if m.labels != nil {
			ex.Label, err = m.labels.class(string(data))
		}
	case ext == "npy" && m.o.Metadata:
		ex.Meta, err = metaVector(data)
	case sidecars[ext[strings.LastIndexByte(ext, '.')+1:]]:
		m.dotted = append(m.dotted, ext)
	}
	return err
}

func (m *members) finish() (err error) {
	ex := m.example
	if m.meta != nil && (ex.Captions == nil || m.labels != nil && ex.Label < 0) {
		err = ex.addJSON(m.meta, m.labels, m.o)
	}
	if err == nil && m.rank == otherImages && len(m.images) > 1 {
		err = fmt.Errorf("several images (%s) and no plain one: WebDataset ends a key at the first dot, so they are one sample; rename the members so that the key has no dot", fault.Name(strings.Join(m.images, ", ")))
	}
	if c := m.o.CaptionColumn; c != "" && ex.Captions == nil {
		ex.Hint = fmt.Sprintf("%s has no %s in a .json", fault.Name(path.Base(ex.Key)), fault.Name(strconv.Quote(c)))
	}
	if len(m.dotted) > 0 && (ex.Captions == nil || ex.Label < 0) {
		ex.Hint = fmt.Sprintf("WebDataset ends a key at the first dot: %s is the %q of the key %s; rename the members so that the key has no dot",
			fault.Name(path.Base(ex.Key)+"."+m.dotted[0]), fault.Name(m.dotted[0]), fault.Name(ex.Key))
	}
	return err
}

// sidecars are the last parts of extensions that hold captions and labels.
var sidecars = map[string]bool{"txt": true, "caption": true, "json": true, "cls": true}

// addJSON takes caption and label from a sample's .json where .txt and .cls
// did not give them.
func (ex *Example) addJSON(data []byte, l *labels, o Options) error {
	var fields map[string]json.RawMessage
	if !utf8.Valid(data) { // encoding/json would take it
		return errors.New(".json: not UTF-8; write it as UTF-8")
	}
	if err := json.Unmarshal(plainJSON(data), &fields); err != nil {
		return fmt.Errorf(".json: %w", err)
	}
	if raw, name := pick(fields, o.CaptionColumn, captionNames); raw != nil && ex.Captions == nil {
		texts, err := jsonTexts(raw)
		if err != nil {
			return fmt.Errorf(".json: %s: %w", fault.Name(name), err)
		}
		if ex.Captions, err = captionList(texts); err != nil {
			return fmt.Errorf(".json: %s: %w", fault.Name(name), err)
		}
	}
	if raw, name := pick(fields, o.LabelColumn, labelNames); raw != nil && ex.Label < 0 && l != nil {
		var v any
		dec := json.NewDecoder(strings.NewReader(string(raw)))
		dec.UseNumber()
		if err := dec.Decode(&v); err != nil {
			return fmt.Errorf(".json: %s: %w", fault.Name(name), err)
		}
		n, err := l.class(fmt.Sprint(v))
		if err != nil && o.LabelColumn != "" {
			return fmt.Errorf(".json: %s: %w", fault.Name(name), err)
		}
		if err == nil {
			ex.Label = n
		}
	}
	return nil
}

// pythonNumber is a number that Python's json writes and reads though JSON has none,
// or a string, in which it is none.
var pythonNumber = regexp.MustCompile(`"(?:[^"\\]|\\.)*"|-?\b(?:NaN|Infinity)\b`)

// plainJSON has null in place of such numbers, which tables of web pictures have where
// a score is missing, and no mark before it.
func plainJSON(data []byte) []byte {
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	if !bytes.Contains(data, []byte("NaN")) && !bytes.Contains(data, []byte("Infinity")) {
		return data
	}
	return pythonNumber.ReplaceAllFunc(data, func(m []byte) []byte {
		if m[0] == '"' {
			return m
		}
		return []byte("null")
	})
}

func pick(fields map[string]json.RawMessage, want string, usual []string) (json.RawMessage, string) {
	if want != "" {
		return fields[want], want
	}
	for _, name := range usual {
		if raw, ok := fields[name]; ok && string(raw) != "null" {
			return raw, name
		}
	}
	return nil, ""
}

func jsonTexts(raw json.RawMessage) ([]string, error) {
	var one string
	if json.Unmarshal(raw, &one) == nil {
		return []string{one}, nil
	}
	var many []string
	if json.Unmarshal(raw, &many) == nil {
		return many, nil
	}
	return nil, errors.New("want a string or a list of strings")
}
