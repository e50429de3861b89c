package dataset

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strings"

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
	labels   *labels
	classes  []string
	o        Options
	identity string
}

// indexers bounds how many tars are indexed at the same time.
const indexers = 8

// openTars indexes WebDataset tars, the published ILSVRC tar, or a tar of
// class folders, by what their entries are.
func openTars(ctx context.Context, st storage, tars []string, o Options, classes []string) (Dataset, error) {
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
			return f.duplicate(o.Kind)
		})
	}
	if err := g.Wait(); err != nil {
		if len(tars) > 1 && ctx.Err() == nil {
			return nil, fault.As(fault.Input, fmt.Errorf("%w (one of %d tars)", err, len(tars)))
		}
		return nil, err
	}
	d := &webDataset{ctx: ctx, st: st, tars: tars, labels: newLabels(o.ClassNames), classes: classes, o: o}
	if d.classes == nil {
		d.classes = o.ClassNames
	}
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
		return nil, fault.Inputf("%s: no %s layout: want only images in the tar; read it as webdataset", tars[0], o.Kind)
	}
	if len(d.samples) == 0 {
		return nil, fault.Inputf("%s: no samples: want entries KEY.jpg (or png, webp) with KEY.txt, KEY.json or KEY.cls beside them", tars[0])
	}
	h := newHash("webdataset")
	for _, name := range tars {
		h.text(path.Base(name))
	}
	for _, s := range d.samples {
		h.number(int64(s.tar), s.off, int64(s.size))
	}
	d.identity = h.sum()
	return d, nil
}

// inFolders says that there are images, all of them in folders.
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
		return ex, err
	}
	var meta []byte
	compound := false // a.seg.png is the image only when there is no a.jpg
	ex.Key, err = unpack(span, func(ext string, data []byte) error {
		switch {
		case isImage(ext):
			if plain := !strings.Contains(ext, "."); ex.Image == nil || compound && plain {
				ex.Image, compound = data, !plain
			}
		case ext == "txt" || ext == "caption":
			ex.Captions = captionsOf(string(data), d.o.CaptionLines)
		case ext == "json":
			meta = data
		case ext == "cls" || ext == "cls.txt":
			n, err := d.labels.of(string(data))
			ex.Label = n
			return err
		}
		return nil
	})
	ex.Path = name + "/" + ex.Key
	if err == nil && meta != nil {
		err = ex.addJSON(meta, d.labels, d.o)
	}
	if err != nil {
		return ex, fault.Inputf("%s: %s at offset %d: %w", name, ex.Key, s.off, err)
	}
	return ex, nil
}

// captionsOf is the text of a caption file.
func captionsOf(s string, lines bool) []string {
	var out []string
	if !lines {
		s = strings.ReplaceAll(s, "\n", " ")
	}
	for line := range strings.SplitSeq(s, "\n") {
		if line = strings.TrimSpace(line); line != "" {
			out = append(out, line)
		}
	}
	return out
}

// addJSON takes caption and label from a sample's .json where .txt and .cls
// did not say them.
func (ex *Example) addJSON(data []byte, l *labels, o Options) error {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(data, &fields); err != nil {
		return fmt.Errorf(".json: %w", err)
	}
	if raw, name := pick(fields, o.CaptionColumn, captionNames); raw != nil && (ex.Captions == nil || o.CaptionColumn != "") {
		texts, err := jsonTexts(raw)
		if err != nil {
			return fmt.Errorf(".json: %s: %w", name, err)
		}
		ex.Captions = nil
		for _, t := range texts {
			ex.Captions = append(ex.Captions, captionsOf(t, false)...)
		}
	}
	if raw, name := pick(fields, o.LabelColumn, labelNames); raw != nil && ex.Label < 0 {
		var v any
		dec := json.NewDecoder(strings.NewReader(string(raw)))
		dec.UseNumber()
		if err := dec.Decode(&v); err != nil {
			return fmt.Errorf(".json: %s: %w", name, err)
		}
		n, err := l.of(fmt.Sprint(v))
		if err != nil && o.LabelColumn != "" {
			return fmt.Errorf(".json: %s: %w", name, err)
		}
		if err == nil {
			ex.Label = n
		}
	}
	return nil
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
