package eval

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/dataset"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/img"
	"github.com/evatool/evatool/internal/tensorfile"
)

// sample is what is known of one image; its pixels are written elsewhere.
type sample struct {
	Key      string
	Label    int // class id, -1 when there is none
	Captions []string
	Meta     []int // see dataset.Example
	// Questions are those of a set that asks to choose.
	Questions []question
	Hint      string // why there may be no label or caption
}

// because is the hint as the end of a message.
func (s sample) because() string {
	if s.Hint == "" {
		return ""
	}
	return "; " + s.Hint
}

// source is a set of images as the model sees them.
type source interface {
	Len() int
	// Load writes image i [3,S,S] into dst. An image that does not decode is a
	// badImage; the sample is filled in then too. Many goroutines may call it.
	Load(i int, dst []float32) (sample, error)
	Fingerprint() string
	Describe() string
	// Classes are folder or class names as the data spells them, or nil.
	Classes() []string
	// Picture returns image i as it lies in the data, for reports; nil when
	// there is none.
	Picture(i int) []byte
	Close() error
}

// badImage is an image that does not decode: it may be skipped.
type badImage struct{ err error }

func (b *badImage) Error() string { return b.err.Error() }

func isBad(err error) bool {
	var b *badImage
	return errors.As(err, &b)
}

func isTensors(src string) bool { return strings.HasSuffix(strings.ToLower(src), ".safetensors") }

// openSource opens SRC: a .safetensors with images, or any dataset.
func openSource(ctx context.Context, src string, o dataset.Options, p arch.Preprocess) (source, error) {
	if isTensors(src) {
		s, err := openTensorSource(src, p.Size, !o.Unlabelled)
		if err != nil {
			return nil, err
		}
		t := s.(*tensorSource)
		if err := t.number(ctx, src, o); err != nil {
			t.Close()
			return nil, err
		}
		return t, nil
	}
	ds, err := dataset.Open(ctx, src, o)
	if err != nil {
		return nil, err
	}
	if ds.Len() == 0 {
		ds.Close()
		return nil, fault.Inputf("%s: no images; give a folder with one sub-folder per class, tars, or a list", src)
	}
	return newPictures(ds, p), nil
}

// pictures decodes and preprocesses a dataset's images.
type pictures struct {
	dataset.Dataset
	transform
}

// identityOf is the fingerprint of data, with the sizes of pictures that it only
// names: other pictures of the same names are other data.
func identityOf(ctx context.Context, data source) string {
	if p, ok := data.(*pictures); ok {
		if d, ok := p.Dataset.(dataset.Sized); ok {
			if sizes := d.Sizes(ctx); len(sizes) > 0 {
				return contentKey(data.Fingerprint(), fmt.Sprint(sizes))
			}
		}
	}
	return data.Fingerprint()
}

// sampleOf is a hash of the bytes of some pictures from all over the data: sets
// whose names, sizes and labels are the same may still differ.
func sampleOf(data source) string {
	p, ok := data.(*pictures)
	if !ok {
		return ""
	}
	const few = 16
	var parts []string
	n := data.Len()
	for i := range min(n, few) {
		ex, err := p.Read(i * n / min(n, few))
		if err != nil {
			ex.Image = nil // it is skipped, or the run ends, when it is its turn
		}
		parts = append(parts, string(ex.Image))
	}
	return contentKey(parts...)
}

func (p *pictures) Load(i int, dst []float32) (sample, error) {
	ex, err := p.Read(i)
	if err != nil {
		return sample{}, err
	}
	s := sample{Key: ex.Key, Label: ex.Label, Captions: ex.Captions, Meta: ex.Meta, Hint: ex.Hint}
	if c, ok := p.Dataset.(*choices); ok {
		s.Questions = c.Questions(i)
	}
	if err := p.pixels(dst, ex.Image); err != nil {
		return s, &badImage{err}
	}
	return s, nil
}

func (p *pictures) Picture(i int) []byte {
	ex, err := p.Read(i)
	if err != nil {
		return nil
	}
	return ex.Image
}

// transform turns a picture's file into what the model sees.
type transform struct {
	pre  img.Preprocess
	crop cropFunc
}

// cropFunc decodes an image to the square that the model sees.
type cropFunc func(im *img.Picture, p img.Preprocess) (*img.RGB, error)

func newTransform(p arch.Preprocess) transform { return transform{p.Steps(), (*img.Picture).Crop} }

// pixels writes the picture in file, such as a JPEG, into dst [3,S,S].
func (t transform) pixels(dst []float32, file []byte) error {
	im, err := img.Parse(file)
	if err != nil {
		return err
	}
	c, err := t.crop(im, t.pre)
	if err != nil {
		return err
	}
	img.ToCHW(dst, c, t.pre.Mean, t.pre.Std)
	return nil
}

// newPictures shows a dataset as the model wants it.
func newPictures(ds dataset.Dataset, p arch.Preprocess) *pictures {
	return &pictures{ds, newTransform(p)}
}

// openFiles makes a source of image files, without labels.
func openFiles(paths []string, p arch.Preprocess) (source, error) {
	files, err := pictureFiles(paths)
	if err != nil {
		return nil, err
	}
	return newPictures(fileSet(files), p), nil
}

// fileSet is a dataset of plain files.
type fileSet []string

func (f fileSet) Len() int            { return len(f) }
func (f fileSet) Classes() []string   { return nil }
func (f fileSet) Fingerprint() string { return contentKey(f...) }
func (f fileSet) Close() error        { return nil }
func (f fileSet) Describe() string    { return "files" }

func (f fileSet) Read(i int) (dataset.Example, error) {
	b, err := fault.ReadFile(f[i], "an image", 1<<30)
	if err != nil {
		return dataset.Example{}, err
	}
	return dataset.Example{Index: i, Key: f[i], Path: f[i], Image: b, Label: -1}, nil
}

// tensorSource is images [n,3,S,S] that are already normalised, with labels [n].
type tensorSource struct {
	f      *tensorfile.File
	info   tensorfile.Info
	file   *os.File // the bytes of images lie here
	offset int64
	labels []int
	meta   []int // [n,columns] of "metadata", or nil
	print  string

	classes []string // what classnames.txt beside the file calls the labels, or nil
}

func openTensorSource(path string, size int, needLabels bool) (source, error) {
	if err := fault.RegularFile(path, "a .safetensors with images and labels"); err != nil {
		return nil, err
	}
	f, err := tensorfile.OpenFile(path)
	if err != nil {
		return nil, err
	}
	t := &tensorSource{f: f}
	if err := t.open(path, size, needLabels); err != nil {
		f.Close()
		return nil, err
	}
	return t, nil
}

func (t *tensorSource) open(path string, size int, needLabels bool) error {
	images, ok := findTensor(t.f, "images")
	if !ok {
		return fault.Inputf("%s: no tensor \"images\"; want images [n,3,%d,%d] F32 and labels [n]", path, size, size)
	}
	if err := checkImages(path, images, size); err != nil {
		return err
	}
	t.info = images
	if t.file, t.offset, ok = t.f.Extent("images"); !ok {
		return fault.Inputf("%s: tensor \"images\" is not stored in one piece; write the file again", path)
	}
	n := int(images.Shape[0])
	t.labels = make([]int, n)
	if labels, ok := findTensor(t.f, "labels"); ok {
		ids, err := tensorfile.Int64s(t.f, labels.Name)
		if err != nil {
			return fault.As(fault.Input, fmt.Errorf("%s: %w", path, err))
		}
		if len(labels.Shape) != 1 || len(ids) != n {
			return fault.Inputf("%s: labels has shape %v for %d images; want [%d]", path, labels.Shape, n, n)
		}
		for i, id := range ids {
			t.labels[i] = int(id)
		}
	} else if needLabels {
		return fault.Inputf("%s: has no tensor \"labels\" [n] beside \"images\"", path)
	} else {
		for i := range t.labels {
			t.labels[i] = -1
		}
	}
	if meta, ok := findTensor(t.f, "metadata"); ok {
		ids, err := tensorfile.Int64s(t.f, meta.Name)
		if err != nil {
			return fault.As(fault.Input, fmt.Errorf("%s: %w", path, err))
		}
		if len(meta.Shape) != 2 || meta.Shape[0] != int64(n) {
			return fault.Inputf("%s: metadata has shape %v for %d images; want [%d,columns]", path, meta.Shape, n, n)
		}
		for _, id := range ids {
			t.meta = append(t.meta, int(id))
		}
	}
	return t.hash()
}

// number maps the labels by the class names that lie beside the file.
func (t *tensorSource) number(ctx context.Context, path string, o dataset.Options) error {
	to, classes, err := dataset.Numbers(ctx, path, o)
	if err != nil || to == nil {
		return err
	}
	t.classes = classes
	for i, n := range t.labels {
		if n < 0 {
			continue
		}
		if t.labels[i], err = to(n); err != nil {
			return fault.Inputf("%s: labels[%d]: %w", fault.Name(path), i, err)
		}
	}
	t.print = contentKey(t.print, fmt.Sprint(t.labels))
	return nil
}

// hash fingerprints the content: tensors have no names that tell them apart.
func (t *tensorSource) hash() error {
	h := sha256.New()
	fmt.Fprintln(h, t.info.DType, t.info.Shape, t.labels)
	if t.meta != nil {
		fmt.Fprintln(h, t.meta)
	}
	r, err := t.f.Open("images")
	if err != nil {
		return err
	}
	defer r.Close()
	if _, err := io.Copy(h, r); err != nil {
		return err
	}
	t.print = hex.EncodeToString(h.Sum(nil))
	return nil
}

// checkImages says whether images are [n,3,size,size] F32.
func checkImages(path string, t tensorfile.Info, size int) error {
	if t.DType != tensorfile.F32 || len(t.Shape) != 4 || t.Shape[1] != 3 {
		return fault.Inputf("%s: images is %s %v; want F32 [n,3,%d,%d], normalised", path, t.DType, t.Shape, size, size)
	}
	if t.Shape[0] == 0 {
		return fault.Inputf("%s: images is empty; want at least one image", path)
	}
	if t.Shape[2] != int64(size) || t.Shape[3] != int64(size) {
		return fault.Inputf("%s: images are %dx%d but the model takes %dx%d; preprocess them for this model, or convert the model to this image size", path, t.Shape[3], t.Shape[2], size, size)
	}
	return nil
}

func findTensor(src tensorfile.Source, name string) (tensorfile.Info, bool) {
	all := src.Tensors()
	i := slices.IndexFunc(all, func(t tensorfile.Info) bool { return t.Name == name })
	if i < 0 {
		return tensorfile.Info{}, false
	}
	return all[i], true
}

func (t *tensorSource) Len() int             { return len(t.labels) }
func (t *tensorSource) Fingerprint() string  { return t.print }
func (t *tensorSource) Describe() string     { return "tensors" }
func (t *tensorSource) Classes() []string    { return t.classes }
func (t *tensorSource) Picture(i int) []byte { return nil }
func (t *tensorSource) Close() error         { return t.f.Close() }

func (t *tensorSource) Load(i int, dst []float32) (sample, error) {
	columns := len(t.meta) / max(1, len(t.labels))
	s := sample{Key: fmt.Sprintf("images[%d]", i), Label: t.labels[i], Meta: t.meta[i*columns : (i+1)*columns]}
	b := make([]byte, 4*len(dst))
	if _, err := t.file.ReadAt(b, t.offset+int64(i)*int64(len(b))); err != nil {
		return s, fault.As(fault.Input, fmt.Errorf("%s: %w", s.Key, err))
	}
	tensorfile.FloatDecoder(tensorfile.F32)(dst, b)
	return s, nil
}
