package hub

import (
	"fmt"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/published"
	"github.com/evatool/evatool/internal/yamlfile"
)

// target is what a name stands for.
type target struct {
	name      string             // as the user gave it
	weights   *published.Weights // nil: not in the table
	ref                          // on the hub; repo is empty for a file elsewhere
	files     []string           // the first of these that exists is meant; empty: the repository's weights
	elsewhere bool               // at weights.URL
}

const (
	hubPrefix    = "hf:"
	openAIPrefix = "openai:"
)

// parse returns what a name stands for, or nil if it is not the name of a model.
func parse(name string) (*target, error) {
	if rest, ok := strings.CutPrefix(name, hubPrefix); ok {
		return parseHub(name, rest)
	}
	if rest, ok := strings.CutPrefix(name, openAIPrefix); ok {
		w := openAIs(rest)
		if w == nil {
			return nil, fault.Usagef("%s: not a model of OpenAI's%s; known: %s", fault.Name(name), didYouMean(name), strings.Join(openAINames(), " "))
		}
		return &target{name: name, weights: w, elsewhere: true}, nil
	}
	w, err := lookup(name)
	if w == nil || err != nil {
		return nil, err
	}
	if isOpenAIName(name) {
		return &target{name: name, weights: w, elsewhere: true}, nil
	}
	return &target{name: name, weights: w, ref: ref{repo: w.Repo, revision: mainRevision}, files: w.Files}, nil
}

// hubName matches OWNER/NAME[@REVISION][/FILE]; a / in a revision is written %2F,
// except in the hub's own refs/pr/N.
var hubName = regexp.MustCompile(`^([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(refs/pr/\d+|[^/@]+))?(?:/(.+))?$`)

func parseHub(name, rest string) (*target, error) {
	m := hubName.FindStringSubmatch(rest)
	if m == nil {
		return nil, fault.Usagef("%s: want hf:OWNER/NAME, hf:OWNER/NAME@REVISION or hf:OWNER/NAME/FILE", fault.Name(name))
	}
	t := &target{name: name, ref: ref{repo: m[1], revision: mainRevision}}
	if m[2] != "" {
		revision, err := url.PathUnescape(m[2])
		if err != nil || !local(revision) {
			return nil, fault.Usagef("%s: %s is not a revision; give a branch, a tag or a commit", fault.Name(name), fault.Name(m[2]))
		}
		t.revision = revision
	}
	if m[3] != "" {
		if !local(m[3]) {
			return nil, fault.Usagef("%s: %s is not the name of a file in a repository", fault.Name(name), fault.Name(m[3]))
		}
		t.files = []string{m[3]}
	}
	return t, nil
}

// openAIs returns OpenAI's weights by OpenAI's or OpenCLIP's name for them, or nil.
func openAIs(name string) *published.Weights {
	for _, w := range published.AllWeights() {
		if w.Tag != "openai" {
			continue
		}
		file := strings.TrimSuffix(path.Base(w.URL), path.Ext(w.URL))
		if name == w.Architecture || name == file || arch.Canonical(name) == arch.Canonical(openAIPlain+w.Architecture) {
			return &w
		}
	}
	return nil
}

const openAIPlain = "openai-"

// isOpenAIName reports whether an architecture has a name in OpenAI's style:
// openai-ViT-B-32, ViT-B/32.
func isOpenAIName(name string) bool {
	_, ok := arch.Named(name)
	return ok && (strings.HasPrefix(name, openAIPlain) || strings.Contains(name, "/"))
}

// lookup finds the weights of a short name: ARCHITECTURE/TAG, or an ARCHITECTURE with
// one set of weights. It returns nil if there are none.
func lookup(name string) (*published.Weights, error) {
	all := published.AllWeights()
	if i := slices.IndexFunc(all, func(w published.Weights) bool { return w.Name() == name && !w.Own() }); i >= 0 {
		return &all[i], nil
	}
	if isOpenAIName(name) {
		return openAIs(name), nil
	}
	var found []published.Weights
	_, isArchitecture := arch.Named(name)
	architecture, tag, _ := strings.Cut(name, "/")
	for _, w := range all {
		same := w.Architecture == architecture || arch.Canonical(w.Architecture) == arch.Canonical(architecture)
		if same && (w.Tag == tag || tag == "") {
			found = append(found, w)
		}
	}
	// EVA's names mean EVA's files; OpenCLIP has the same weights in repositories.
	if i := slices.IndexFunc(found, published.Weights.Own); i >= 0 {
		return &found[i], nil
	}
	switch repos := distinct(found); {
	case len(repos) == 1:
		return &found[0], nil
	case len(repos) > 1:
		return nil, fault.Usagef("%s: this architecture has several sets of weights; give one: %s", fault.Name(name), listed(repos))
	case isArchitecture:
		return nil, fault.Usagef("%s: this architecture has no published weights; give a file", fault.Name(name))
	}
	return nil, nil
}

// distinct lists the names of weights, each set once.
func distinct(list []published.Weights) (names []string) {
	seen := map[string]bool{}
	for _, w := range list {
		if key := w.Repo + w.Tag; !seen[key] {
			seen[key] = true
			names = append(names, w.Name())
		}
	}
	return names
}

// listed is a list for a message, cut to its first names if long.
func listed(names []string) string {
	const most = 12
	if more := len(names) - most; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), more)
	}
	return strings.Join(names, ", ")
}

// Entry is a name with the weights that it stands for.
type Entry struct {
	Name    string
	Weights published.Weights
}

// Entries lists the short names: EVA's own, OpenAI's, and all pairs of OpenCLIP.
func Entries() (list []Entry) {
	var pairs []Entry
	for _, w := range published.AllWeights() {
		if w.Own() {
			list = append(list, Entry{arch.Canonical(w.Architecture), w})
		} else {
			pairs = append(pairs, Entry{w.Name(), w})
		}
	}
	for _, name := range openAINames() {
		list = append(list, Entry{name, *openAIs(strings.TrimPrefix(name, openAIPrefix))})
	}
	return append(list, pairs...)
}

// Names are the names of Entries.
func Names() (names []string) {
	for _, e := range Entries() {
		names = append(names, e.Name)
	}
	return names
}

func openAINames() (names []string) {
	for _, w := range published.AllWeights() {
		if w.Tag == "openai" && !strings.HasSuffix(w.Architecture, "-quickgelu") {
			names = append(names, openAIPrefix+w.Architecture)
		}
	}
	return names
}

// didYouMean is a suggestion for a message, empty if no name is similar.
func didYouMean(name string) string {
	all := append(Names(), arch.Names()...)
	if near := yamlfile.Nearest(name, all); near != "" {
		return "; did you mean " + near + "?"
	}
	return ""
}

// State says whether evatool can run published weights.
type State string

// The states.
const (
	Works   State = "works"
	Refused State = "refused"
)

// StateOf returns the state of weights and, unless it is Works, the reason.
func StateOf(w published.Weights) (state State, why string) {
	if _, ok := arch.Named(w.Architecture); !ok {
		return Refused, "the architecture " + w.Architecture + " is not supported"
	}
	return Works, ""
}
