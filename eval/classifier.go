package eval

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/evatool/evatool/internal/checkpoint"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/tensorfile"
	"github.com/evatool/evatool/internal/usercache"
)

// classifier is one unit vector per class, class by class: [classes,dim].
type classifier struct {
	dim int
	w   []float32
}

// buildClassifier encodes the prompts of every class: each prompt is
// L2-normalised, the prompts of a class are averaged, the mean is normalised
// again. A name that occurs twice is encoded once, so its classes tie exactly.
// It continues from part, and saves to it when it is stopped.
func buildClassifier(ctx context.Context, enc encoder, tok checkpoint.Tokenizer, words prompts, batch int, m Meter, part partial) (_ *classifier, err error) {
	width := enc.Config().Text.ContextLength
	dim := enc.Config().EmbedDim

	first := map[string]int{} // name → its place in uniq
	var uniq []string
	var texts []string // of all classes
	var of []int       // the class of each
	for _, name := range words.names {
		if _, ok := first[name]; ok {
			continue
		}
		first[name] = len(uniq)
		for _, text := range words.texts(name) {
			if !utf8.ValidString(text) {
				return nil, fault.Inputf("class %q, prompt %.80q: not UTF-8; convert it first", name, text)
			}
			texts, of = append(texts, text), append(of, len(uniq))
		}
		uniq = append(uniq, name)
	}
	sums, counts := make([]float64, len(uniq)*dim), make([]int, len(uniq))
	total := len(texts)
	done := min(part.load(sums), total)
	for _, u := range of[:done] {
		counts[u]++
	}
	m.Add(int64(done))
	saved := time.Now()
	defer func() {
		if err != nil && part.path != "" && done > 0 && part.save(sums, done) == nil {
			err = keptError{fmt.Sprintf("the class vectors of %d of %d prompts are kept; run the same evaluation again to continue", done, total), err}
		}
	}()
	tokens := make([]int32, batch*width)
	for lo := done; lo < total; lo, done = lo+batch, min(lo+batch, total) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if part.path != "" && time.Since(saved) > partEvery {
			saved = time.Now()
			if err := part.save(sums, done); err != nil {
				return nil, err
			}
		}
		n := min(batch, total-lo)
		for i := range n {
			tok.Tokens(tokens[i*width:(i+1)*width], texts[lo+i], width)
		}
		f, err := enc.Texts(ctx, tokens[:n*width], n)
		if err != nil {
			return nil, err
		}
		for i := range n {
			u := of[lo+i]
			counts[u]++
			v := f[i*dim : (i+1)*dim]
			if !normalize(v) {
				return nil, fault.Inputf("class %q, prompt %q: the text tower's output is zero or not finite; check the weights", uniq[u], texts[lo+i])
			}
			for k, x := range v {
				sums[u*dim+k] += float64(x)
			}
		}
		m.Add(int64(n))
	}
	c := &classifier{dim: dim, w: make([]float32, len(words.names)*dim)}
	for i, name := range words.names {
		u := first[name]
		v := c.w[i*dim : (i+1)*dim]
		for k := range v {
			v[k] = float32(sums[u*dim+k] / float64(counts[u]))
		}
		if !normalize(v) {
			return nil, fault.Inputf("class %q: the vectors of its prompts cancel out; check the weights and the templates", name)
		}
	}
	return c, nil
}

// partEvery is how often the sums of prompts are saved, for a run that is killed.
const partEvery = 30 * time.Second

// keptError says why something stopped, and what is kept of it.
type keptError struct {
	what string
	err  error
}

func (e keptError) Error() string { return e.what + ": " + e.err.Error() }
func (e keptError) Unwrap() error { return e.err }

// partial is a file of class vectors that are not complete: the sums of the
// prompts so far, exactly. The zero value keeps nothing.
type partial struct {
	path, key string
}

const partDone = "evatool.prompts"

func (p partial) save(sums []float64, done int) error {
	data := tensorfile.EncodeFloat64s(sums)
	if err := os.MkdirAll(filepath.Dir(p.path), 0o755); err != nil {
		return err
	}
	return tensorfile.WriteFile(p.path, []tensorfile.Tensor{{
		Info: tensorfile.Info{Name: "sums", DType: tensorfile.F64, Shape: []int64{int64(len(sums))}}, Data: data,
	}}, map[string]string{"evatool.classifier": p.key, "evatool.digest": digest(data), partDone: strconv.Itoa(done)})
}

// load fills in the sums and returns how many prompts they cover; 0 where
// nothing fits.
func (p partial) load(sums []float64) int {
	if p.path == "" {
		return 0
	}
	f, err := tensorfile.OpenFile(p.path)
	if err != nil {
		return 0
	}
	defer f.Close()
	t, meta := f.Tensors(), f.Metadata()
	done, err := strconv.Atoi(meta[partDone])
	if err != nil || done < 0 || meta["evatool.classifier"] != p.key || len(t) != 1 || t[0].DType != tensorfile.F64 || len(t[0].Shape) != 1 || t[0].Shape[0] != int64(len(sums)) {
		return 0
	}
	data, err := tensorfile.ReadAll(f, t[0].Name)
	if err != nil || digest(data) != meta["evatool.digest"] {
		return 0
	}
	copy(sums, tensorfile.DecodeFloat64s(data))
	return done
}

// normalize divides v by its L2 norm. It returns false if the norm is zero or not finite.
func normalize(v []float32) bool {
	var s float64
	for _, x := range v {
		s += float64(x) * float64(x)
	}
	if s == 0 || math.IsNaN(s) || math.IsInf(s, 0) {
		return false
	}
	inv := 1 / math.Sqrt(s)
	for i := range v {
		v[i] = float32(float64(v[i]) * inv)
	}
	return true
}

// logits are 100 · feature · class: the constant 100, not the learned scale.
// The sum runs in float64 in a fixed order, so equal classes tie exactly and
// no batch size changes a rank.
func (c *classifier) logits(dst, feature []float32) {
	for i := range dst {
		dst[i] = float32(100 * dot(feature, c.w[i*c.dim:(i+1)*c.dim]))
	}
}

func dot(a, b []float32) float64 {
	b = b[:len(a)]
	var s0, s1, s2, s3 float64
	i := 0
	for ; i+4 <= len(a); i += 4 {
		s0 += float64(a[i]) * float64(b[i])
		s1 += float64(a[i+1]) * float64(b[i+1])
		s2 += float64(a[i+2]) * float64(b[i+2])
		s3 += float64(a[i+3]) * float64(b[i+3])
	}
	for ; i < len(a); i++ {
		s0 += float64(a[i]) * float64(b[i])
	}
	return s0 + s1 + s2 + s3
}

// contentKey hashes strings so that no two lists collide.
func contentKey(parts ...string) string {
	h := sha256.New()
	var n [8]byte
	for _, p := range parts {
		binary.LittleEndian.PutUint64(n[:], uint64(len(p)))
		h.Write(n[:])
		h.Write([]byte(p))
	}
	return hex.EncodeToString(h.Sum(nil))
}

// digest guards the values of a cached class matrix.
func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// save writes the class matrix as columns [dim,classes], the form in which
// image features multiply it.
func (c *classifier) save(path, key string) error {
	classes := len(c.w) / c.dim
	columns := make([]float32, len(c.w))
	for i := range classes {
		for k := range c.dim {
			columns[k*classes+i] = c.w[i*c.dim+k]
		}
	}
	data := tensorfile.EncodeFloat32s(columns)
	return tensorfile.WriteFile(path, []tensorfile.Tensor{{
		Info: tensorfile.Info{Name: "classifier", DType: tensorfile.F32, Shape: []int64{int64(c.dim), int64(classes)}},
		Data: data,
	}}, map[string]string{"evatool.classifier": key, "evatool.digest": digest(data)})
}

// loadClassifier reads what save wrote. It returns nil when there is nothing
// or when it does not fit: a cache may miss, but must not mislead.
func loadClassifier(path, key string, dim, classes int) (*classifier, error) {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	f, err := tensorfile.OpenFile(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if f.Metadata()["evatool.classifier"] != key || !isClassifier(f, dim, classes) {
		return nil, nil
	}
	return columnsOf(f, dim, classes)
}

func isClassifier(f *tensorfile.File, dim, classes int) bool {
	t := f.Tensors()
	return len(t) == 1 && t[0].Name == "classifier" && t[0].DType == tensorfile.F32 &&
		len(t[0].Shape) == 2 && t[0].Shape[0] == int64(dim) && t[0].Shape[1] == int64(classes)
}

// readClassifier reads a class matrix that was asked for by name.
func readClassifier(path string, dim, classes int) (*classifier, error) {
	f, err := tensorfile.OpenFile(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if !isClassifier(f, dim, classes) {
		return nil, fault.Inputf("%s: want a class matrix of %d values for %d classes, classifier [%d,%d] in F32, as Options.SaveClassifier writes it", fault.Name(path), dim, classes, dim, classes)
	}
	c, err := columnsOf(f, dim, classes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", fault.Name(path), err)
	}
	for _, v := range c.w {
		if v-v != 0 {
			return nil, fault.Inputf("%s: has values that are not finite; write it again with Options.SaveClassifier", fault.Name(path))
		}
	}
	return c, nil
}

// classifierHash is the hash of a class matrix's values.
func classifierHash(path string) (string, error) {
	if err := fault.RegularFile(path, "a class matrix that Options.SaveClassifier wrote"); err != nil {
		return "", err
	}
	f, err := tensorfile.OpenFile(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if _, ok := findTensor(f, "classifier"); !ok {
		return "", fault.Inputf("%s: no class matrix in it; want a file that Options.SaveClassifier wrote", fault.Name(path))
	}
	data, err := tensorfile.ReadAll(f, "classifier")
	if err != nil {
		return "", err
	}
	return digest(data), nil
}

// columnsOf are the vectors of a class matrix, which are its columns.
func columnsOf(f *tensorfile.File, dim, classes int) (*classifier, error) {
	data, err := tensorfile.ReadAll(f, "classifier")
	if err != nil {
		return nil, err
	}
	if want := f.Metadata()["evatool.digest"]; want != "" && digest(data) != want {
		return nil, fault.Inputf("its contents do not match its digest; write it again with Options.SaveClassifier")
	}
	columns := make([]float32, dim*classes)
	tensorfile.FloatDecoder(tensorfile.F32)(columns, data)
	c := &classifier{dim: dim, w: make([]float32, dim*classes)}
	for i := range classes {
		for k := range dim {
			c.w[i*dim+k] = columns[k*classes+i]
		}
	}
	return c, nil
}

// cacheFile is the path of the classifier with this key; "" is no cache.
func cacheFile(dir, key string) string {
	if dir == "off" {
		return ""
	}
	if dir == "" {
		folder, err := usercache.Classifiers.Folder()
		if err != nil {
			return ""
		}
		dir = folder
	}
	return filepath.Join(dir, key+".safetensors")
}

// cachedClassifier takes the class matrix from the cache or builds it. A cache
// that cannot be read or written costs time, never the run.
func cachedClassifier(path, key string, dim, classes int, log *slog.Logger, build func(partial) (*classifier, error)) (*classifier, error) {
	if path == "" {
		return build(partial{})
	}
	part := partial{strings.TrimSuffix(path, ".safetensors") + ".part.safetensors", key}
	c, err := loadClassifier(path, key, dim, classes)
	if c != nil {
		log.Info("class vectors taken from the cache", "file", path)
		return c, nil
	}
	if err != nil {
		log.Warn("cannot read the cached class vectors; building them again", "file", path, "error", err)
	}
	if c, err = build(part); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		log.Warn("class vectors not cached", "error", err)
	} else if err := c.save(path, key); err != nil {
		log.Warn("class vectors not cached", "error", err)
	} else {
		_ = os.Remove(part.path) // if there is one; a leftover does no harm
	}
	return c, nil
}
