package eval

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/evatool/evatool/internal/atomicfile"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/tensorfile"
)

// FeatureMerge says what MergeFeatures has put together.
type FeatureMerge struct {
	Out    string `json:"out"`
	Sets   int    `json:"sets"`
	Files  int    `json:"files"`
	Images int    `json:"images"` // that decode
}

// IsFeatures says whether one of the folders holds features of a probe, and none
// a result.
func IsFeatures(dirs ...string) bool {
	some := false
	for _, dir := range dirs {
		if _, err := os.Stat(filepath.Join(dir, resultFile)); err == nil {
			return false
		}
		for _, path := range featureFiles(dir) {
			f, err := tensorfile.OpenFile(path)
			if err != nil {
				continue
			}
			some = some || f.Metadata()[featuresKey] != ""
			f.Close()
			break
		}
	}
	return some
}

func featureFiles(dir string) []string {
	entries, _ := os.ReadDir(dir)
	var paths []string
	for _, e := range entries {
		if filepath.Ext(e.Name()) == ".safetensors" && !atomicfile.IsTemporary(e.Name()) {
			paths = append(paths, filepath.Join(dir, e.Name()))
		}
	}
	return paths
}

// MergeFeatures puts the features that the parts of a probe have computed
// (ProbeOptions.Features of each) into one folder, from which Probe continues.
// Files of a set that are repeated, missing or damaged are refused.
func MergeFeatures(dirs []string, o MergeOptions) (_ *FeatureMerge, err error) {
	defer fault.Public(context.Background(), &err)
	if o.Expect != "" {
		return nil, expectOfSet()
	}
	if err := apart(dirs, o.Out); err != nil {
		return nil, err
	}
	res := &FeatureMerge{Out: o.Out}
	from := map[string]string{} // a file's name → where it lies
	files := map[string]int{}   // a set's key → how many it has
	for _, dir := range dirs {
		if _, err := os.ReadDir(dir); err != nil {
			return nil, fault.File(dir, "a folder of features (Options.Features of a part)", err)
		}
		for _, path := range featureFiles(dir) {
			key, at, images, err := readStored(path)
			if err != nil {
				return nil, err
			}
			name := storedName(key, at.i)
			if other, twice := from[name]; twice {
				return nil, fault.Inputf("%s: is also in %s; give each part once", fault.Name(path), fault.Name(filepath.Dir(other)))
			}
			from[name] = path
			files[key] = at.n
			res.Images += images
		}
	}
	for _, key := range slices.Sorted(maps.Keys(files)) {
		for i := range files[key] {
			if _, ok := from[storedName(key, i)]; !ok {
				return nil, fault.Inputf("%s: is in no part (file %d of the %d of its set); give all parts of one run", storedName(key, i), i, files[key])
			}
		}
	}
	if len(from) == 0 {
		return nil, fault.Inputf("%s: no features in it; give a folder of features (Options.Features of a part)", fault.Name(dirs[0]))
	}
	res.Sets, res.Files = len(files), len(from)
	if o.Out == "" {
		return res, nil
	}
	if err := os.MkdirAll(o.Out, 0o755); err != nil {
		return nil, fault.File(o.Out, "a folder that can be written", err)
	}
	for _, name := range slices.Sorted(maps.Keys(from)) {
		b, err := readFile(from[name], "features")
		if err != nil {
			return nil, err
		}
		if err := atomicfile.WriteFile(filepath.Join(o.Out, name), b); err != nil {
			return nil, err
		}
	}
	return res, nil
}

// readStored reads a file of features and checks that it is what was written.
func readStored(path string) (key string, at storedPlace, images int, err error) {
	f, err := tensorfile.OpenFile(path)
	if err != nil {
		return "", at, 0, err
	}
	defer f.Close()
	t, ok := findTensor(f, "features")
	key = f.Metadata()[featuresKey]
	_, err = fmt.Sscanf(f.Metadata()[featuresPart], "%d/%d", &at.i, &at.n)
	if key == "" || !ok || len(t.Shape) != 2 || err != nil || at.i < 0 || at.i >= at.n || filepath.Base(path) != storedName(key, at.i) {
		return "", at, 0, fault.Inputf("%s: not a file of features that a probe wrote", fault.Name(path))
	}
	s := &featureSet{dim: int(t.Shape[1])}
	err = s.load(path, key)
	return key, at, len(s.labels), err
}
