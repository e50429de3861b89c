package published

import (
	_ "embed"
	"encoding/csv"
	"net/url"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

//go:embed weights.csv
var weights string

// Weights are published weights, with what a file of them alone does not say.
type Weights struct {
	Architecture string   // OpenCLIP's name
	Tag          string   // which weights of it; OpenCLIP's name too
	Repo         string   // owner/name on the Hugging Face hub
	Files        []string // in Repo, the preferred one first
	URL          string   // of a file outside Repo, or empty
	SHA256       string   // of the file at URL: whole, or its first eight digits, or empty
	QuickGELU    bool
	Preprocess   string // in the words of arch.Preprocess.With
	Tokenizer    string // on the hub; empty: CLIP's BPE
}

// Name is ARCHITECTURE/TAG.
func (w Weights) Name() string { return w.Architecture + "/" + w.Tag }

// AllWeights lists OpenCLIP's pretrained pairs and EVA-CLIP's own files.
var AllWeights = sync.OnceValue(func() []Weights {
	records, err := csv.NewReader(strings.NewReader(weights)).ReadAll()
	if err != nil {
		panic(err) // embedded, and read by a test
	}
	list := make([]Weights, 0, len(records)-1)
	for _, r := range records[1:] {
		list = append(list, Weights{Architecture: r[0], Tag: r[1], Repo: r[2], Files: strings.Fields(r[3]), URL: r[4], SHA256: r[5],
			QuickGELU: r[6] == "true", Preprocess: strings.ReplaceAll(r[7], " ", ","), Tokenizer: r[8]})
	}
	return list
})

// BySHA256 lists the weights with this hash of 64 hexadecimal digits, which may be
// published under several architectures.
func BySHA256(sum string) (list []Weights) {
	for _, w := range AllWeights() {
		if len(w.SHA256) >= 8 && strings.HasPrefix(sum, w.SHA256) {
			list = append(list, w)
		}
	}
	return list
}

// ByName lists the weights that a file claims to be by its name, its folder's, or
// that of its repository in the hub's cache; none if the names say nothing.
func ByName(at string) (list []Weights) {
	if abs, err := filepath.Abs(at); err == nil {
		at = abs
	}
	repo := cachedRepo(at)
	file, folder := stem(filepath.Base(at)), filepath.Base(filepath.Dir(at))
	for _, w := range AllWeights() {
		_, name, _ := strings.Cut(w.Repo, "/")
		switch {
		case repo != "":
			if repo == w.Repo && (len(w.Files) > 1 || slices.Contains(w.Files, filepath.Base(at))) || repo == w.CacheRepo() {
				list = append(list, w)
			}
		case strings.EqualFold(folder, name) && len(w.Files) > 1, strings.EqualFold(file, name) && len(w.Files) > 1,
			w.Own() && file == stem(w.Files[0]),
			w.URL != "" && w.Tag != "openai" && file == stem(w.URL[strings.LastIndexByte(w.URL, '/')+1:]):
			list = append(list, w)
		}
	}
	if len(list) > 0 || repo != "" {
		return list
	}
	return byTag(words(folder) + words(file))
}

// byTag finds tags as words of a name; of several the longest counts, with its
// architecture if that is there too. A short tag, such as dfn5b, counts only beside
// its architecture.
func byTag(name string) (list []Weights) {
	best := 0
	for _, w := range AllWeights() {
		tag, architecture := words(w.Tag), words(w.Architecture)
		beside := strings.Contains(name, architecture)
		if !strings.Contains(name, tag) || len(tag) < 12 && !beside {
			continue
		}
		n := len(tag)
		if beside {
			n += len(architecture)
		}
		if n > best {
			list, best = nil, n
		}
		if n == best {
			list = append(list, w)
		}
	}
	return list
}

// words is a name in lower case with a _ before it, after it, and for everything that
// separates its words.
func words(s string) string {
	return "_" + strings.Map(func(r rune) rune {
		if strings.ContainsRune("- .,+()[]", r) {
			return '_'
		}
		return r
	}, strings.ToLower(s)) + "_"
}

// stem is a file's name without the extensions of weights.
func stem(name string) string {
	for _, s := range []string{".index.json", ".safetensors", ".bin", ".pt", ".pth", ".tar"} {
		name = strings.TrimSuffix(name, s)
	}
	return name
}

// cachedRepo is the repository of a file in the hub's cache:
// models--OWNER--NAME/snapshots/REVISION/FILE.
func cachedRepo(at string) string {
	parts := strings.Split(filepath.ToSlash(at), "/")
	for i, p := range parts {
		if id, ok := strings.CutPrefix(p, "models--"); ok && i+1 < len(parts) && parts[i+1] == "snapshots" {
			return strings.Replace(id, "--", "/", 1)
		}
	}
	return ""
}

// Own reports whether these are the authors' own files, which OpenCLIP lists under the
// same name in another repository.
func (w Weights) Own() bool { return len(w.Files) == 1 && strings.HasPrefix(w.Files[0], "EVA") }

// Config is the architecture's name as in Figure.Config.
func (w Weights) Config() string {
	if _, eva := evaNames[w.Architecture]; w.Own() && !eva {
		return w.Architecture
	}
	return configName(w.Architecture, w.Tag)
}

// Top1 is the published zero-shot figure for ImageNet: the authors' own, or else
// OpenCLIP's.
func (w Weights) Top1() (Figure, bool) {
	config := w.Config()
	for _, f := range All() { // the authors' own come first
		if f.Benchmark == "imagenet" && f.Metric == "top1" && f.Weights == w.Tag && f.Config == config {
			return f, true
		}
	}
	return Figure{}, false
}

// CacheRepo is the repository name, HOST/FILE, under which the file at URL, which is
// not from the hub, lies in the hub's cache.
func (w Weights) CacheRepo() string {
	u, err := url.Parse(w.URL)
	if err != nil || u.Host == "" {
		return ""
	}
	return u.Host + "/" + stem(path.Base(u.Path))
}
