package tensorfile

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/evatool/evatool/internal/fault"
)

// maxIndex bounds the size of an index file; real ones have about 100 KB.
const maxIndex = 32 << 20

// OpenSharded opens the safetensors shards that an index names
// (model.safetensors.index.json) as one source.
func OpenSharded(indexPath string) (Source, error) {
	return OpenShards(indexPath, func(path string) (Source, error) { return OpenFile(path) })
}

// OpenShards opens the shards of an index file with open, which decides on their
// format. The index and the shards must name the same tensors. Shards are in the
// order of their names, tensors in file order.
func OpenShards(indexPath string, open func(path string) (Source, error)) (_ Source, err error) {
	weightMap, err := readIndex(indexPath)
	if err != nil {
		return nil, err
	}
	files := slices.Compact(slices.Sorted(maps.Values(weightMap)))
	dir := filepath.Dir(indexPath)
	var missing []string
	for _, f := range files {
		if _, err := os.Stat(filepath.Join(dir, f)); os.IsNotExist(err) {
			missing = append(missing, f)
		}
	}
	if len(missing) > 0 {
		return nil, fault.Inputf("%s: %d of %d shards are missing: %s; download them into the same folder", indexPath, len(missing), len(files), strings.Join(missing, ", "))
	}
	s := &sharded{name: indexPath, of: make(map[string]Source, len(weightMap))}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	for _, f := range files {
		src, err := open(filepath.Join(dir, f))
		if err != nil {
			return nil, err
		}
		s.parts = append(s.parts, src)
		for _, t := range src.Tensors() {
			switch where, ok := weightMap[t.Name]; {
			case !ok:
				return nil, fault.Inputf("%s: tensor %q of %s is not in the index; the files do not belong together", indexPath, t.Name, f)
			case where != f:
				return nil, fault.Inputf("%s: tensor %q is in %s, but the index says %s; the files do not belong together", indexPath, t.Name, f, where)
			}
			s.tensors = append(s.tensors, t)
			s.of[t.Name] = src
		}
	}
	for _, name := range slices.Sorted(maps.Keys(weightMap)) {
		if s.of[name] == nil {
			return nil, fault.Inputf("%s: tensor %q is not in %s; the files do not belong together", indexPath, name, weightMap[name])
		}
	}
	return s, nil
}

// readIndex reads the weight_map of an index file: tensor name to file name.
func readIndex(path string) (map[string]string, error) {
	const want = "a shard index (model.safetensors.index.json)"
	if err := fault.RegularFile(path, want); err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fault.File(path, want, err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxIndex+1))
	if err != nil {
		return nil, fault.File(path, want, err)
	}
	if len(raw) > maxIndex {
		return nil, fault.Inputf("%s: a shard index of more than %d bytes; give the right file", path, maxIndex)
	}
	weightMap, err := decodeIndex(raw)
	if err != nil {
		return nil, fault.Inputf("%s: not a valid shard index: %w; download it again", path, err)
	}
	return weightMap, nil
}

func decodeIndex(raw []byte) (map[string]string, error) {
	d := newObjectDecoder(raw)
	var weightMap map[string]string
	err := d.object(func(key string) error {
		if key != "weight_map" {
			var skip json.RawMessage // "metadata": total_size and the like
			return d.dec.Decode(&skip)
		}
		weightMap = map[string]string{}
		return d.object(func(name string) error {
			file, err := d.str()
			if err != nil {
				return err
			}
			if file != filepath.Base(file) || file == "." || !filepath.IsLocal(file) || strings.Contains(file, `\`) {
				return fmt.Errorf("tensor %.200q: shard %.200q is not a plain file name", name, file)
			}
			weightMap[name] = file
			return nil
		})
	})
	switch {
	case err != nil:
		return nil, err
	case len(weightMap) == 0:
		return nil, fmt.Errorf("no weight_map")
	}
	return weightMap, nil
}

// sharded is several sources as one.
type sharded struct {
	name    string
	parts   []Source
	tensors []Info
	of      map[string]Source
}

func (s *sharded) Tensors() []Info             { return s.tensors }
func (s *sharded) Metadata() map[string]string { return s.parts[0].Metadata() }

func (s *sharded) Open(name string) (io.ReadCloser, error) {
	src := s.of[name]
	if src == nil {
		return nil, fault.Inputf("%s: no tensor %q; `evatool inspect` lists them", s.name, name)
	}
	return src.Open(name)
}

func (s *sharded) Extent(name string) (*os.File, int64, bool) {
	src := s.of[name]
	if src == nil {
		return nil, 0, false
	}
	return src.Extent(name)
}

func (s *sharded) Close() error {
	var first error
	for _, p := range s.parts {
		if err := p.Close(); err != nil && first == nil {
			first = err
		}
	}
	return first
}
