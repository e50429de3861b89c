package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/published"
)

// Found is the file that a name stands for.
type Found struct {
	Path    string             // of the weights, or of the index of their shards
	Files   []string           // all files of the model, including Path; none if the name is a path
	Repo    string             // on the hub, or empty
	Commit  string             // of Repo
	Weights *published.Weights // nil if they are not in the table
}

// Find returns the file of a model: name itself if that is an existing path, or else
// what the name stands for, fetched if need be. If it is neither, the error is that
// of a missing file.
func Find(ctx context.Context, name string, o Options) (Found, error) {
	if _, err := os.Lstat(name); name == "" || err == nil || !errors.Is(err, fs.ErrNotExist) {
		return Found{Path: name}, nil
	}
	t, err := parse(name)
	if err != nil {
		return Found{}, err
	}
	if t == nil {
		if looksLikePath(name) {
			return Found{Path: name}, nil
		}
		return Found{}, fault.Because(fault.Input, fs.ErrNotExist, "%s: no such file, and not the name of a model%s; evatool models lists the names", fault.Name(name), didYouMean(name))
	}
	if t.weights != nil && o.ToRun {
		if state, why := StateOf(*t.weights); state == Refused {
			return Found{}, fault.Inputf("%s: %s; evatool models lists what works", fault.Name(name), why)
		}
	}
	c, err := newClient(ctx, o)
	if err != nil {
		return Found{}, err
	}
	var f Found
	if t.elsewhere {
		f.Path, err = c.elsewhere(ctx, t.name, t.weights)
		f.Files = []string{f.Path}
	} else {
		f, err = c.fromHub(ctx, t)
	}
	// OpenCLIP's older weights have an address besides their repository.
	if w := t.weights; w != nil && !t.elsewhere && w.SHA256 != "" && (errors.Is(err, errNoFile) || fault.Code(err) == int(fault.Input) && isAnswer(err)) {
		c.Log.Warn("not on the hub: fetching it from its other address", "name", name, "url", w.URL, "because", fault.Line(err))
		f = Found{}
		f.Path, err = c.elsewhere(ctx, t.name, w)
		f.Files = []string{f.Path}
	}
	f.Weights = t.weights
	if err != nil {
		if !strings.Contains(err.Error(), name) {
			err = fmt.Errorf("%s: %w", fault.Name(name), err)
		}
		return Found{}, err
	}
	if o.Texts {
		return f, f.addTokenizer(ctx, o)
	}
	return f, nil
}

// FindTokenizer returns the tokenizer.json of a configuration's tokenizer, and the
// files beside it.
func FindTokenizer(ctx context.Context, name string, o Options) (Found, error) {
	o.Texts = false
	return Find(ctx, hubPrefix+arch.TokenizerRepository(name)+"/"+tokenizerFile, o)
}

const tokenizerFile = "tokenizer.json"

// addTokenizer fetches the tokenizer that the table of weights names, if the
// weights' own repository has none.
func (f *Found) addTokenizer(ctx context.Context, o Options) error {
	w := f.Weights
	if w == nil { // hf:OWNER/NAME may be in the table, too
		all := published.AllWeights()
		if i := slices.IndexFunc(all, func(w published.Weights) bool { return f.Repo != "" && w.Repo == f.Repo }); i >= 0 {
			w = &all[i]
		}
	}
	if w == nil || w.Tokenizer == "" || slices.ContainsFunc(f.Files, func(p string) bool { return filepath.Base(p) == tokenizerFile }) {
		return nil
	}
	t, err := FindTokenizer(ctx, w.Tokenizer, o)
	if err != nil {
		return fmt.Errorf("the tokenizer of %s: %w", w.Name(), err)
	}
	f.Files = append(f.Files, t.Files...)
	return nil
}

func isAnswer(err error) bool {
	var a *answer
	return errors.As(err, &a)
}

// IsName reports whether name is not an existing path but the name of a model, which
// Find would fetch. It contacts no server.
func IsName(name string) (bool, error) {
	if _, err := os.Lstat(name); name == "" || err == nil {
		return false, nil
	}
	t, err := parse(name)
	return t != nil, err
}

// looksLikePath reports whether a name is meant to be a path.
func looksLikePath(name string) bool {
	return slices.Contains(weightEndings, path.Ext(name)) || strings.HasSuffix(name, ".json") ||
		filepath.IsAbs(name) || strings.HasPrefix(name, ".") || strings.Count(filepath.ToSlash(name), "/") > 1 || strings.HasSuffix(name, "/")
}

// Cache returns a function that looks up weights in the cache: their path and size in
// bytes, empty and 0 if they are not there. Their content is not checked.
func Cache(o Options) func(e Entry) (at string, size int64) {
	c, err := newClient(context.Background(), o)
	if err != nil { // no cache, or invalid settings
		return func(Entry) (string, int64) { return "", 0 }
	}
	return c.cached
}

func (c *client) cached(e Entry) (at string, size int64) {
	at, _ = c.elsewhereCached(&e.Weights)
	if at == "" && !strings.HasPrefix(e.Name, openAIPrefix) {
		file, commit, err := c.cachedChoice(&target{ref: ref{repo: e.Weights.Repo, revision: mainRevision}, files: e.Weights.Files})
		if err != nil {
			return "", 0
		}
		at = c.pointer(e.Weights.Repo, commit, file)
	}
	files := []string{at}
	if strings.HasSuffix(at, ".index.json") {
		var err error
		if files, err = shardsOf(at, filepath.Dir(at)); err != nil {
			return "", 0
		}
	}
	for _, f := range files {
		st, err := os.Stat(f)
		if err != nil {
			return "", 0
		}
		size += st.Size()
	}
	return at, size
}

// fromHub takes a model from the hub, or from the cache alone if the options say so
// or the hub is out of reach.
func (c *client) fromHub(ctx context.Context, t *target) (Found, error) {
	file, commit, missing := c.cachedChoice(t)
	if c.Offline {
		if missing != nil {
			return Found{}, missing
		}
		return c.fromCache(ctx, t, file, commit)
	}
	tries := attempts
	if missing == nil {
		tries = 1
	}
	f, err := c.online(ctx, t, tries)
	if err == nil || ctx.Err() != nil || missing != nil || fault.Code(err) != int(fault.Environment) {
		return f, err
	}
	f, broken := c.fromCache(ctx, t, file, commit)
	if broken != nil {
		return f, err
	}
	c.Log.Warn("using the cache's files, which may not be the newest", "name", t.name, "commit", commit, "because", fault.Line(err))
	return f, nil
}

// cachedChoice returns the file in the cache that a name stands for.
func (c *client) cachedChoice(t *target) (file, commit string, err error) {
	if commit = c.cachedCommit(t.ref); commit != "" {
		if names := c.cachedFiles(t.repo, commit); len(names) > 0 {
			if file, err = t.choose(names); err == nil {
				return file, commit, nil
			}
		}
	}
	return "", "", fault.Envf("%s: not in the cache (%s), and fetching is off (Options.Offline, HF_HUB_OFFLINE); run evatool fetch while online, or copy the folder %s from another machine's cache", t.label(), fault.Name(c.Cache), filepath.Base(c.folder(t.repo)))
}

// label is the target's name in messages.
func (t *target) label() string {
	if t.name != "" {
		return fault.Name(t.name)
	}
	return t.file("")
}

// fromCache takes a model from the cache, if all of it is there and intact.
func (c *client) fromCache(ctx context.Context, t *target, file, commit string) (Found, error) {
	unknown := slices.DeleteFunc(t.before(file), func(name string) bool {
		_, err := os.Stat(c.absent(t.repo, commit, name))
		return err == nil
	})
	if len(unknown) > 0 {
		c.Log.Warn("the cache does not say whether the repository has a file that would be chosen before this one; run evatool fetch while online, or name the file",
			"name", t.name, "chosen", t.file(file), "before it", strings.Join(unknown, " "))
	}
	there := c.cachedFiles(t.repo, commit)
	return c.gather(t, file, commit, there, func(name string) (string, error) {
		at := c.pointer(t.repo, commit, name)
		if _, err := os.Stat(at); err != nil {
			return "", fault.Envf("%s: %s is not in the cache (%s); run evatool fetch while online", t.label(), fault.Name(name), fault.Name(c.Cache))
		}
		if err := c.whole(ctx, t, at); ctx.Err() != nil { // it was not read to its end
			return "", ctx.Err()
		} else if err != nil {
			return "", fault.As(fault.Input, fmt.Errorf("%s: the file in the cache cannot be verified: %w; run evatool fetch while online to replace it", fault.Name(at), err))
		}
		return at, nil
	})
}

// whole returns nil if a file of a snapshot has the hash of its blob. Where the links
// were followed by what copied the cache, that is one of the blobs of the file's size;
// a file that no blob speaks for is taken as it is.
func (c *client) whole(ctx context.Context, t *target, at string) error {
	if to := blobOf(at); to != "" {
		return c.intact(ctx, at, to)
	}
	hashes := c.blobsLike(t.repo, at)
	if len(hashes) == 0 {
		c.Log.Warn("a file of the cache is neither a link nor a copy of a blob, so its hash is not known", "file", at)
	}
	var err error
	for _, hash := range hashes {
		if err = c.intact(ctx, at, hash); err == nil || ctx.Err() != nil {
			return err
		}
	}
	return err
}

// online takes a model from the hub, using files that the cache already has.
func (c *client) online(ctx context.Context, t *target, tries int) (Found, error) {
	names, commit, err := c.list(ctx, t.ref, tries)
	if errors.Is(err, errNoList) {
		return c.probe(ctx, t, tries)
	}
	if err != nil {
		return Found{}, err
	}
	file, err := t.choose(names)
	if err != nil {
		return Found{}, err
	}
	for _, name := range t.before(file) { // for the same choice without the list
		c.noteAbsent(t.repo, commit, name)
	}
	return c.fetch(ctx, t, file, commit, names, tries)
}

// before are the usual names that would have been chosen instead of the file, had the
// repository had them; none for a file that was given.
func (t *target) before(file string) (list []string) {
	if slices.Contains(t.files, file) {
		return nil
	}
	for _, u := range usual {
		if name := path.Join(strings.Join(t.files, ""), u); name != file {
			list = append(list, name)
			continue
		}
		break
	}
	return list
}

// fetch takes a file and those that belong to it. names are the commit's files.
func (c *client) fetch(ctx context.Context, t *target, file, commit string, names []string, tries int) (Found, error) {
	r := t.ref
	r.commit = commit
	f, err := c.gather(t, file, commit, names, func(name string) (string, error) {
		at, _, err := c.get(ctx, r, name, tries)
		return at, err
	})
	if err == nil {
		if err := c.remember(t.ref, commit); err != nil {
			c.Log.Debug("the cache was not updated", "because", fault.Line(err))
		}
	}
	return f, err
}

// gather fetches a file, the shards that it names, and the files beside it that
// describe it. Those come first, so that weights in the cache always have them.
func (c *client) gather(t *target, file, commit string, names []string, take func(string) (string, error)) (f Found, err error) {
	f = Found{Repo: t.repo, Commit: commit}
	for _, name := range besides(file, names) {
		at, err := take(name)
		if errors.Is(err, errNoFile) {
			continue
		}
		if err != nil {
			return f, err
		}
		f.Files = append(f.Files, at)
	}
	if f.Path, err = take(file); err != nil {
		return f, err
	}
	f.Files = append(f.Files, f.Path)
	if !strings.HasSuffix(file, ".index.json") {
		return f, nil
	}
	shards, err := shardsOf(f.Path, path.Dir(file))
	if err != nil {
		return f, err
	}
	for _, name := range shards {
		at, err := take(name)
		if err != nil {
			return f, err
		}
		f.Files = append(f.Files, at)
	}
	return f, nil
}

// beside are the files that describe the weights in the same folder.
var beside = []string{
	"open_clip_config.json", "config.json", "preprocessor_config.json", "processor_config.json",
	"tokenizer_config.json", "tokenizer.json", "special_tokens_map.json", "vocab.json", "merges.txt",
	"vocab.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model",
}

// besides are those of beside that the repository has, or all of them if names is
// nil because its files are unknown.
func besides(file string, names []string) (list []string) {
	for _, b := range beside {
		if name := path.Join(path.Dir(file), b); names == nil || slices.Contains(names, name) {
			list = append(list, name)
		}
	}
	return list
}

// shardsOf lists the files that an index names.
func shardsOf(index, dir string) (list []string, err error) {
	b, err := fault.ReadFile(index, "an index of shards", 64<<20)
	if err != nil {
		return nil, err
	}
	var o struct {
		Map map[string]string `json:"weight_map"`
	}
	if err := json.Unmarshal(b, &o); err != nil {
		return nil, fault.Inputf("%s: not an index of shards: %w", fault.Name(index), err)
	}
	for _, name := range o.Map {
		if !local(name) {
			return nil, fault.Inputf("%s: names the shard %s, which is not a file beside it", fault.Name(index), fault.Name(name))
		}
		if name = path.Join(dir, name); !slices.Contains(list, name) {
			list = append(list, name)
		}
	}
	slices.Sort(list)
	return list, nil
}

// errNoList reports that the hub's API does not list the repository: a mirror may
// serve files only.
var errNoList = errors.New("there is no list of files")

// list requests the files of a revision and its commit.
func (c *client) list(ctx context.Context, r ref, tries int) (names []string, commit string, err error) {
	at := fmt.Sprintf("%s/api/models/%s/revision/%s", c.endpoint, r.repo, url.PathEscape(r.revision))
	resp, err := c.request(ctx, http.MethodGet, at, nil, tries, nil)
	var a *answer
	if errors.As(err, &a) && a.code == "" && !passing(err) {
		return nil, "", errNoList
	}
	if err != nil {
		return nil, "", c.explain(r, "", err)
	}
	defer resp.Body.Close()
	var o struct {
		SHA      string `json:"sha"`
		Siblings []struct {
			Name string `json:"rfilename"`
		} `json:"siblings"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 64<<20)).Decode(&o); err != nil || !isSHA1(o.SHA) {
		if ctx.Err() != nil {
			return nil, "", ctx.Err()
		}
		return nil, "", errNoList
	}
	if isSHA1(r.revision) && o.SHA != r.revision {
		return nil, "", fault.Envf("%s: %s answers with commit %s instead of %s; check HF_ENDPOINT", r.file(""), c.endpoint.Host, o.SHA, r.revision)
	}
	names = []string{}
	for _, s := range o.Siblings {
		if local(s.Name) {
			names = append(names, s.Name)
		}
	}
	return names, o.SHA, nil
}

// probe requests the files that are meant, or else the usual ones, one by one.
func (c *client) probe(ctx context.Context, t *target, tries int) (f Found, err error) {
	files := t.files
	if len(files) == 0 {
		files = usual
	}
	for _, file := range files {
		_, commit, e := c.get(ctx, t.ref, file, tries)
		if e == nil {
			return c.fetch(ctx, t, file, commit, nil, tries)
		}
		if !errors.Is(e, errNoFile) {
			return Found{}, e
		}
		if err == nil {
			err = e
		}
	}
	if len(files) > 1 {
		err = fault.Because(fault.Input, err, "%s: %s answers 404: no such repository or revision, or it has none of %s; check the name, or name the file (hf:%s/FILE)", t.label(), c.endpoint.Host, strings.Join(files, ", "), t.repo)
	}
	return Found{}, err
}

// usual are the usual names of a repository's weights, best first: OpenCLIP's before
// transformers', which timm uses for the image tower alone; safetensors before
// PyTorch's files.
var usual = []string{
	"open_clip_model.safetensors", "open_clip_model.safetensors.index.json", "open_clip_pytorch_model.bin", "open_clip_pytorch_model.bin.index.json",
	"model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json",
}

var weightEndings = []string{".safetensors", ".bin", ".pt", ".pth", ".tar"}

// noModel matches names of other files that trainings leave, and of shards.
var noModel = regexp.MustCompile(`(?i)optim|scheduler|training_args|rng_state|scaler|-\d+-of-\d+\.`)

// choose returns the one of a repository's files that is meant.
func (t *target) choose(names []string) (string, error) {
	dir := "."
	if len(t.files) > 0 {
		for _, f := range t.files {
			if slices.Contains(names, f) {
				return f, nil
			}
		}
		if len(t.files) > 1 {
			return "", fault.Because(fault.Input, errNoFile, "%s: %s has none of %s", t.label(), t.file(""), strings.Join(t.files, ", "))
		}
		dir = t.files[0]
	}
	var others []string
	inside := false
	for _, n := range names {
		in := dir == "." || strings.HasPrefix(n, dir+"/")
		inside = inside || in
		if in && slices.Contains(weightEndings, path.Ext(n)) && !noModel.MatchString(path.Base(n)) {
			others = append(others, n)
		}
	}
	if dir != "." && !inside {
		return "", fault.Because(fault.Input, errNoFile, "%s: %v; %s", t.file(t.files[0]), errNoFile, has(t, names))
	}
	for _, u := range usual {
		if n := path.Join(dir, u); slices.Contains(names, n) {
			return n, nil
		}
	}
	slices.Sort(others)
	switch len(others) {
	case 0:
		return "", fault.Inputf("%s: no weights in the repository; it has %s", t.label(), orNothing(listed(names)))
	case 1:
		return others[0], nil
	}
	for i, n := range others {
		others[i] = t.file(n)
	}
	return "", fault.Usagef("%s: several files match; give one: %s", t.label(), listed(others))
}

// has says, for a message, which weights the repository has.
func has(t *target, names []string) string {
	var list []string
	for _, n := range names {
		if slices.Contains(weightEndings, path.Ext(n)) || strings.HasSuffix(n, ".index.json") {
			list = append(list, fault.Name(n))
		}
	}
	return "it has " + orNothing(listed(list))
}

func orNothing(s string) string {
	if s == "" {
		return "nothing of the kind"
	}
	return s
}

// elsewhere fetches weights from an address outside the hub if their hash is public.
func (c *client) elsewhere(ctx context.Context, name string, w *published.Weights) (string, error) {
	at, sum := c.elsewhereCached(w)
	var broken error
	if at != "" {
		if broken = c.intact(ctx, at, sum); broken == nil {
			return at, nil
		}
	}
	if ctx.Err() != nil { // it was not read to its end
		return "", ctx.Err()
	}
	host, file := hostOf(w.URL), path.Base(w.URL)
	what := fmt.Sprintf("%s (%s)", fault.Name(name), w.URL)
	switch {
	case c.Offline && broken != nil:
		return "", fault.As(fault.Input, fmt.Errorf("%s: the file in the cache cannot be verified: %w; run evatool fetch while online to replace it", fault.Name(at), broken))
	case c.Offline:
		return "", fault.Envf("%s: not in the cache (%s), and fetching is off (Options.Offline, HF_HUB_OFFLINE); run evatool fetch while online", what, fault.Name(c.Cache))
	case w.SHA256 == "":
		return "", fault.Inputf("%s: no hash of this file is public, so it cannot be verified and is not fetched; download it yourself and give its path", what)
	}
	repo := w.CacheRepo()
	r := ref{repo: repo, revision: mainRevision}
	if err := c.mkdir(filepath.Dir(c.blob(repo, w.SHA256))); err != nil {
		return "", err
	}
	c.tag()
	unlock, err := c.lock(ctx, repo, w.SHA256)
	if err != nil {
		return "", err
	}
	defer unlock()
	if at, sum := c.elsewhereCached(w); at != "" && c.intact(ctx, at, sum) == nil { // another process has fetched it meanwhile
		return at, nil
	}
	explain := func(err error) error {
		if errors.Is(err, context.Canceled) {
			return err
		}
		if a := (*answer)(nil); errors.As(err, &a) {
			return fault.Because(fault.Environment, err, "%s: %v; try again later, or download the file yourself and give its path", what, err)
		}
		return fault.Envf("%s: cannot reach %s: %w; check the network and the proxy (HTTPS_PROXY)", what, host, cause(err))
	}
	for n := 1; ; n++ {
		d := download{client: c, what: what, label: file, at: w.URL, part: c.blob(repo, w.SHA256) + ".incomplete", size: -1, explain: explain}
		sum, err := d.run(ctx, w.SHA256)
		var corrupt *corruptError
		if n == 1 && (errors.As(err, &corrupt) || errors.Is(err, errChanged)) {
			c.Log.Warn("the download starts over", "file", what, "because", fault.Line(err))
			continue
		}
		if errors.As(err, &corrupt) {
			return "", fault.Inputf("%s: %w: the file is damaged at its source or on the way (a proxy) and is rejected; try another network", what, err)
		}
		if err != nil {
			return "", fault.As(fault.Environment, err)
		}
		commit := sum[:40]
		blob, pointer := c.blob(repo, sum), c.pointer(repo, commit, file)
		if err := c.mkdir(filepath.Dir(pointer)); err != nil {
			return "", err
		}
		if err := os.Rename(d.part, blob); err != nil {
			return "", fault.Envf("%s: %w", fault.Name(blob), err)
		}
		if err := link(blob, pointer); err != nil {
			return "", fault.Envf("%s: %w", fault.Name(pointer), err)
		}
		return pointer, c.remember(r, commit)
	}
}

// elsewhereCached returns the cache's file of weights from an address outside the
// hub, and the name of its blob, which begins with the hash in the table; empty if
// there is none.
func (c *client) elsewhereCached(w *published.Weights) (at, sum string) {
	repo := w.CacheRepo()
	if repo == "" || w.SHA256 == "" {
		return "", ""
	}
	commit := c.cachedCommit(ref{repo: repo, revision: mainRevision})
	if commit == "" {
		return "", ""
	}
	at = c.pointer(repo, commit, path.Base(w.URL))
	blobs := []string{blobOf(at)}
	if blobs[0] == "" {
		blobs = c.blobsLike(repo, at)
	}
	i := slices.IndexFunc(blobs, func(b string) bool { return strings.HasPrefix(b, w.SHA256) })
	if _, err := os.Stat(at); err != nil || i < 0 {
		return "", ""
	}
	return at, blobs[i]
}
