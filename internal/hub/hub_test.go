package hub

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/hub/hubtest"
	"github.com/evatool/evatool/internal/published"
)

const (
	repo   = "some/model"
	commit = hubtest.Commit
	later  = "2222222222222222222222222222222222222222"
)

func init() { retryPause = time.Millisecond }

// noise is the content of a file, different for each seed.
func noise(seed byte, n int) []byte {
	b := make([]byte, n)
	x := uint32(seed) + 1
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return b
}

func modelFiles() map[string][]byte {
	return map[string][]byte{
		"open_clip_model.safetensors": noise(1, 3<<20), "open_clip_pytorch_model.bin": noise(2, 1<<20), "model.safetensors": noise(3, 1<<10),
		"open_clip_config.json": []byte(`{"a":1}`), "README.md": []byte("hello"), "tokenizer.json": []byte("{}"),
	}
}

func find(t *testing.T, name string, o Options) Found {
	t.Helper()
	f, err := Find(context.Background(), name, o)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// failing checks an error: its status, and words of its one line.
func failing(t *testing.T, name string, o Options, status fault.Kind, words ...string) {
	t.Helper()
	f, err := Find(context.Background(), name, o)
	if err == nil {
		t.Fatalf("%s: no error, %+v", name, f)
	}
	if fault.Code(err) != int(status) {
		t.Errorf("%s: status %d, want %d: %v", name, fault.Code(err), status, err)
	}
	line := err.Error()
	for _, w := range append(words, "") {
		if !strings.Contains(line, w) {
			t.Errorf("no %q in %q", w, line)
		}
	}
	if strings.ContainsAny(line, "\n\r") || strings.Contains(line, hubtest.Token) {
		t.Errorf("not one line, or with the token: %q", line)
	}
}

// The layout is huggingface_hub's: blobs by hash, relative links, the commit of
// a branch, and the files that describe the weights.
func TestLayout(t *testing.T) {
	h := hubtest.New(t, repo, modelFiles())
	cache := filepath.Join(os.Getenv("HOME"), ".cache", "huggingface", "hub")
	f := find(t, "hf:"+repo, Options{})
	root := filepath.Join(cache, "models--some--model")
	if want := filepath.Join(root, "snapshots", commit, "open_clip_model.safetensors"); f.Path != want {
		t.Errorf("%s, want %s", f.Path, want)
	}
	b, err := os.ReadFile(f.Path)
	if err != nil || !bytes.Equal(b, h.Files["open_clip_model.safetensors"]) {
		t.Error("other bytes", err)
	}
	to, err := os.Readlink(f.Path)
	if want := "../../blobs/" + hubtest.ETag("a.bin", b); err != nil || to != want {
		t.Errorf("links to %s, %v; want %s", to, err, want)
	}
	if b, err := os.ReadFile(filepath.Join(root, "refs", "main")); err != nil || string(b) != commit {
		t.Errorf("refs/main %q, %v", b, err)
	}
	var have []string
	for _, p := range f.Files {
		have = append(have, filepath.Base(p))
	}
	slices.Sort(have)
	if want := []string{"open_clip_config.json", "open_clip_model.safetensors", "tokenizer.json"}; !slices.Equal(have, want) {
		t.Errorf("files %v, want %v", have, want)
	}
	blobs, _ := filepath.Glob(filepath.Join(root, "blobs", "*"))
	if len(blobs) != 3 || slices.ContainsFunc(blobs, func(p string) bool { return strings.Contains(p, "incomplete") }) {
		t.Errorf("blobs %v", blobs)
	}
	if _, err := os.Stat(filepath.Join(cache, ".locks", "models--some--model", filepath.Base(to)+".lock")); err != nil {
		t.Error(err)
	}
	// The second time one request is enough; offline there is none.
	h.Asked = nil
	find(t, "hf:"+repo, Options{})
	if len(h.Asked) != 1 {
		t.Errorf("asked %v", h.Asked)
	}
	for _, o := range []Options{{Offline: true}, {}} {
		if !o.Offline {
			t.Setenv("HF_HUB_OFFLINE", "1")
		}
		h.Asked = nil
		if g := find(t, "hf:"+repo, o); g.Path != f.Path || len(h.Asked) != 0 {
			t.Errorf("offline: %s, asked %v", g.Path, h.Asked)
		}
		failing(t, "hf:"+repo+"/open_clip_pytorch_model.bin", o, fault.Environment, "not in the cache", "fetch")
		failing(t, "hf:other/model", o, fault.Environment, "not in the cache")
	}
}

// If a server has files but no list of them, the usual names are tried, and files that
// a commit lacks are recorded as huggingface_hub does.
func TestWithoutList(t *testing.T) {
	files := modelFiles()
	delete(files, "open_clip_model.safetensors")
	h := hubtest.New(t, repo, files)
	h.NoList = true
	f := find(t, "hf:"+repo, Options{})
	if filepath.Base(f.Path) != "open_clip_pytorch_model.bin" {
		t.Error(f.Path)
	}
	root := filepath.Dir(filepath.Dir(filepath.Dir(f.Path)))
	if _, err := os.Stat(filepath.Join(root, ".no_exist", commit, "open_clip_model.safetensors")); err != nil {
		t.Error(err)
	}
	if len(f.Files) != 3 {
		t.Errorf("files %v", f.Files)
	}
}

func TestChoice(t *testing.T) {
	shards := `{"metadata":{},"weight_map":{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"}}`
	for _, c := range []struct {
		files, name, want string // or words of the error
		status            fault.Kind
	}{
		{"open_clip_pytorch_model.bin model.safetensors config.json", "hf:some/model", "open_clip_pytorch_model.bin", 0},
		{"model.safetensors pytorch_model.bin config.json", "hf:some/model", "model.safetensors", 0},
		{"pytorch_model.bin flax_model.msgpack", "hf:some/model", "pytorch_model.bin", 0},
		{"model.safetensors.index.json model-00001-of-00002.safetensors model-00002-of-00002.safetensors", "hf:some/model", "model.safetensors.index.json", 0},
		{"EVA.pt optimizer.pt README.md", "hf:some/model", "EVA.pt", 0},
		{"sub/model.safetensors model.safetensors", "hf:some/model/sub", "sub/model.safetensors", 0},
		{"sub/x.pt model.safetensors", "hf:some/model@main/sub/x.pt", "sub/x.pt", 0},
		{"sub/x.pt model.safetensors", "hf:some/model@" + commit + "/sub/x.pt", "sub/x.pt", 0},
		{"A.pt B.pt", "hf:some/model", "hf:some/model/A.pt, hf:some/model/B.pt", fault.Usage},
		{"README.md", "hf:some/model", "no weights", fault.Input},
		{"A.pt", "hf:some/model/B.pt", "A.pt", fault.Input},
		{"A.pt", "hf:some/model@v2", "no revision v2", fault.Input},
		{"A.pt", "hf:some/model@" + later, "no revision", fault.Input},
		{"A.pt", "hf:some/other", "no such repository", fault.Input},
		{"A.pt", "hf:other", "OWNER/NAME", fault.Usage},
		{"A.pt", "hf:some/model/../../x", "not the name of a file", fault.Usage},
		{"A.pt", "hf:some/model@..%2F..%2Fx", "not a revision", fault.Usage},
	} {
		files := map[string][]byte{}
		for i, n := range strings.Fields(c.files) {
			files[n] = noise(byte(i), 100)
			if strings.HasSuffix(n, "index.json") {
				files[n] = []byte(shards)
			}
		}
		hubtest.New(t, repo, files)
		if c.status != 0 {
			failing(t, c.name, Options{}, c.status, c.want)
			continue
		}
		f := find(t, c.name, Options{})
		if !strings.HasSuffix(f.Path, "/snapshots/"+commit+"/"+c.want) {
			t.Errorf("%s of %s: %s, want %s", c.name, c.files, f.Path, c.want)
		}
		if strings.Contains(c.files, "index") && len(f.Files) != 3 {
			t.Errorf("shards: %v", f.Files)
		}
	}
}

// A broken download continues where it was, in the same run and in the next.
func TestContinue(t *testing.T) {
	h := hubtest.New(t, repo, modelFiles())
	h.NoList = true
	cut := true
	h.HandleCDN = func(w http.ResponseWriter, r *http.Request) bool {
		b := h.Files[strings.TrimPrefix(r.URL.Path, "/")]
		from := int64(0)
		fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from)
		if !cut {
			return false
		}
		w.Header().Set("Content-Length", fmt.Sprint(int64(len(b))-from))
		if from > 0 {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(b)-1, len(b)))
			w.WriteHeader(http.StatusPartialContent)
		}
		if from < 2<<20 {
			w.Write(b[from : from+1<<20])
		}
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	failing(t, "hf:"+repo+"/open_clip_model.safetensors", Options{}, fault.Environment, "byte 2097152 of 3145728", "continues from there")
	if n := h.Count("cdn"); n != 2+attempts-1 {
		t.Errorf("%d requests", n)
	}
	cut, h.Asked = false, nil
	f := find(t, "hf:"+repo+"/open_clip_model.safetensors", Options{})
	if h.Count("cdn GET bytes=2097152-") != 1 || h.Count("cdn") != 1 {
		t.Errorf("asked %v", h.Asked)
	}
	if b, _ := os.ReadFile(f.Path); !bytes.Equal(b, h.Files["open_clip_model.safetensors"]) {
		t.Error("other bytes")
	}
}

// A server that does not send parts sends the whole file; a part of another file, or
// one that is too long, is discarded.
func TestIncomplete(t *testing.T) {
	h := hubtest.New(t, repo, modelFiles())
	b := h.Files["open_clip_model.safetensors"]
	for name, part := range map[string][]byte{"a beginning": b[:1000], "another file's": noise(9, 1000), "too long": noise(9, len(b)+1), "all of it": b} {
		for _, ranges := range []bool{true, false} {
			t.Setenv("HF_HOME", t.TempDir())
			h.HandleCDN = func(w http.ResponseWriter, r *http.Request) bool {
				if ranges {
					return false
				}
				w.Write(b)
				return true
			}
			dir := filepath.Join(os.Getenv("HF_HOME"), "hub", "models--some--model", "blobs")
			os.MkdirAll(dir, 0o755)
			os.WriteFile(filepath.Join(dir, hubtest.ETag("x.bin", b)+".incomplete"), part, 0o644)
			f := find(t, "hf:"+repo, Options{})
			if got, _ := os.ReadFile(f.Path); !bytes.Equal(got, b) {
				t.Errorf("%s, parts %v: other bytes", name, ranges)
			}
			if left, _ := filepath.Glob(dir + "/*.incomplete"); len(left) > 0 {
				t.Errorf("%s: left %v", name, left)
			}
		}
	}
}

// A page that comes in place of the file, as a proxy's for logging in does, is not
// taken for it, and what has arrived before is kept.
func TestPage(t *testing.T) {
	h := hubtest.New(t, repo, modelFiles())
	b := h.Files["open_clip_model.safetensors"]
	h.HandleCDN = func(w http.ResponseWriter, r *http.Request) bool {
		fmt.Fprint(w, "<html>Who are you?</html>")
		return true
	}
	for _, part := range [][]byte{nil, b[:1000]} {
		t.Setenv("HF_HOME", t.TempDir())
		at := filepath.Join(os.Getenv("HF_HOME"), "hub", "models--some--model", "blobs", hubtest.ETag("x.bin", b)+".incomplete")
		os.MkdirAll(filepath.Dir(at), 0o755)
		os.WriteFile(at, part, 0o644)
		h.Asked = nil
		failing(t, "hf:"+repo, Options{}, fault.Environment, "sends 25 bytes instead of the file's 3145728", "proxy")
		if got, err := os.ReadFile(at); !bytes.Equal(got, part) {
			t.Errorf("%d bytes are kept of %d, %v", len(got), len(part), err)
		}
		if n := h.Count("cdn"); n != 1 {
			t.Errorf("%d requests", n)
		}
	}
}

// On a file system without links the file lies in the snapshot itself. It is verified
// there by the hash that the hub states, not fetched again.
func TestWithoutLinks(t *testing.T) {
	h := hubtest.New(t, repo, modelFiles())
	f := find(t, "hf:"+repo, Options{})
	blob, err := filepath.EvalSymlinks(f.Path)
	if err == nil {
		err = os.Rename(blob, f.Path)
	}
	if err != nil {
		t.Fatal(err)
	}
	h.Asked = nil
	if g := find(t, "hf:"+repo, Options{}); g.Path != f.Path || h.Count("cdn") != 0 {
		t.Errorf("%s, asked %v", g.Path, h.Asked)
	}
	b := h.Files["open_clip_model.safetensors"]
	os.WriteFile(f.Path, noise(8, len(b)), 0o644)
	find(t, "hf:"+repo, Options{})
	if got, _ := os.ReadFile(f.Path); !bytes.Equal(got, b) {
		t.Error("a broken file was not replaced")
	}
}

// An interruption while a file of the cache is being verified says nothing about the
// file, which stays.
func TestInterruptedVerification(t *testing.T) {
	h := hubtest.New(t, repo, modelFiles())
	f := find(t, "hf:"+repo, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c, err := newClient(t.Context(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Base(f.Path)
	m := meta{commit: commit, etag: blobOf(f.Path), size: 3 << 20, url: h.URL}
	if _, err := c.take(ctx, ref{repo: repo, revision: mainRevision}, name, m); err != context.Canceled {
		t.Errorf("online: %v", err)
	}
	if _, err := Find(ctx, "hf:"+repo, Options{Offline: true}); !errors.Is(err, context.Canceled) || strings.Contains(err.Error(), "cannot be verified") {
		t.Errorf("offline: %v", err)
	}
	b := h.Files[name]
	sum := hubtest.ETag(name, b)
	w := &published.Weights{Architecture: "ViT-B-32", Tag: "openai", URL: "https://models.example/clip/" + sum + "/ViT-B-32.pt", SHA256: sum}
	at := c.pointer(w.CacheRepo(), sum[:40], "ViT-B-32.pt")
	for path, text := range map[string][]byte{c.blob(w.CacheRepo(), sum): b, filepath.Join(c.folder(w.CacheRepo()), "refs", "main"): []byte(sum[:40])} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, text, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o755), link(c.blob(w.CacheRepo(), sum), at)); err != nil {
		t.Fatal(err)
	}
	for _, c.Offline = range []bool{false, true} {
		if _, err := c.elsewhere(ctx, "openai:ViT-B-32", w); !errors.Is(err, context.Canceled) || strings.Contains(err.Error(), "cannot be verified") {
			t.Errorf("elsewhere: %v", err)
		}
		if got, err := c.elsewhere(t.Context(), "openai:ViT-B-32", w); err != nil || got != at {
			t.Errorf("elsewhere, afterwards: %s, %v", got, err)
		}
	}
	h.Asked = nil
	if g := find(t, "hf:"+repo, Options{Offline: true}); g.Path != f.Path {
		t.Errorf("afterwards: %+v", g)
	}
}

// A cache that was copied with its links followed works offline; a file is still
// verified by the blob that it is a copy of.
func TestCopiedCache(t *testing.T) {
	h := hubtest.New(t, repo, modelFiles())
	f := find(t, "hf:"+repo, Options{})
	for _, at := range f.Files {
		b, err := os.ReadFile(at)
		if err == nil {
			err = os.Remove(at)
		}
		if err == nil {
			err = os.WriteFile(at, b, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	h.Asked = nil
	if g := find(t, "hf:"+repo, Options{Offline: true}); g.Path != f.Path || len(g.Files) != len(f.Files) || len(h.Asked) != 0 {
		t.Errorf("%+v, asked %v", g, h.Asked)
	}
	os.WriteFile(f.Path, noise(8, 3<<20), 0o644)
	failing(t, "hf:"+repo, Options{Offline: true}, fault.Input, "cannot be verified", "its hash is")
}

// Offline the choice is that of the repository's list, if the cache has been told; else
// there is a warning that names what may be missing.
func TestChoiceOffline(t *testing.T) {
	files := modelFiles()
	delete(files, "open_clip_model.safetensors")
	hubtest.New(t, repo, files)
	for name, warns := range map[string]bool{"hf:" + repo: false, "hf:" + repo + "/model.safetensors": true} {
		cache := t.TempDir()
		find(t, name, Options{Cache: cache})
		var log strings.Builder
		f := find(t, "hf:"+repo, Options{Cache: cache, Offline: true, Log: slog.New(slog.NewTextHandler(&log, nil))})
		if got := strings.Contains(log.String(), "open_clip_pytorch_model.bin"); got != warns || warns != strings.HasSuffix(f.Path, "/model.safetensors") {
			t.Errorf("%s: %s, log %q", name, f.Path, log.String())
		}
		log.Reset()
		find(t, name, Options{Cache: cache, Offline: true, Log: slog.New(slog.NewTextHandler(&log, nil))})
		if log.Len() > 0 {
			t.Errorf("%s: %s", name, log.String())
		}
	}
}

// A mirror that has another commit than the one asked for is not believed.
func TestOtherCommit(t *testing.T) {
	h := hubtest.New(t, repo, modelFiles())
	h.Commit = later
	h.Handle = func(w http.ResponseWriter, r *http.Request) bool {
		r.URL.Path = strings.Replace(r.URL.Path, commit, "main", 1)
		return false
	}
	for _, h.NoList = range []bool{false, true} {
		for _, file := range []string{"", "/model.safetensors"} {
			failing(t, "hf:"+repo+"@"+commit+file, Options{}, fault.Environment, "answers with commit "+later+" instead of "+commit)
		}
	}
	find(t, "hf:"+repo+"@"+later, Options{})
}

// A file that differs from what the hub states is rejected and removed.
func TestCorrupt(t *testing.T) {
	h := hubtest.New(t, repo, modelFiles())
	times := 0
	h.HandleCDN = func(w http.ResponseWriter, r *http.Request) bool {
		times++
		b := slices.Clone(h.Files[strings.TrimPrefix(r.URL.Path, "/")])
		b[len(b)/2] ^= 1
		w.Write(b)
		return true
	}
	failing(t, "hf:"+repo, Options{}, fault.Input, "hash", "is rejected")
	if times != 2 {
		t.Errorf("%d tries", times)
	}
	left, _ := filepath.Glob(filepath.Join(os.Getenv("HOME"), ".cache/huggingface/hub/models--some--model/blobs/*"))
	for _, p := range left {
		if st, _ := os.Stat(p); st.Size() > 1000 {
			t.Errorf("left %s", p)
		}
	}
	if _, err := os.Lstat(filepath.Join(os.Getenv("HOME"), ".cache/huggingface/hub/models--some--model/snapshots", commit, "open_clip_model.safetensors")); err == nil {
		t.Error("the snapshot has it")
	}
	// So is a small file, by git's hash, and one in the cache.
	h.HandleCDN = nil
	h.Handle = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, "open_clip_config.json") {
			return false
		}
		w.Write([]byte(`{"a":2}`))
		return true
	}
	failing(t, "hf:"+repo, Options{Cache: t.TempDir()}, fault.Input, "hash")
	h.Handle = nil
	f := find(t, "hf:"+repo, Options{})
	blob, _ := filepath.EvalSymlinks(f.Path)
	os.WriteFile(blob, noise(7, 3<<20), 0o644)
	failing(t, "hf:"+repo, Options{Offline: true}, fault.Input, "fetch")
	find(t, "hf:"+repo, Options{})
	if b, _ := os.ReadFile(blob); !bytes.Equal(b, h.Files["open_clip_model.safetensors"]) {
		t.Error("a broken file of the cache was not replaced")
	}
}

// A file that changes between two requests is fetched again, at its new commit.
func TestChanges(t *testing.T) {
	for _, when := range []string{"after HEAD", "while it comes"} {
		h := hubtest.New(t, repo, modelFiles())
		h.NoList = true
		changed := false
		change := func() {
			if !changed {
				changed, h.Commit = true, later
				h.Files["open_clip_model.safetensors"] = noise(5, 2<<20)
			}
		}
		h.Handle = func(w http.ResponseWriter, r *http.Request) bool {
			if when == "after HEAD" && r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "open_clip_model.safetensors") {
				change()
			}
			return false
		}
		h.HandleCDN = func(w http.ResponseWriter, r *http.Request) bool {
			if when != "while it comes" || changed {
				return false
			}
			w.Header().Set("Content-Length", fmt.Sprint(3<<20))
			w.Write(h.Files["open_clip_model.safetensors"][:1<<20])
			w.(http.Flusher).Flush()
			change()
			panic(http.ErrAbortHandler)
		}
		f := find(t, "hf:"+repo, Options{})
		b, err := os.ReadFile(f.Path)
		if err != nil || !bytes.Equal(b, h.Files["open_clip_model.safetensors"]) || f.Commit != later || !strings.Contains(f.Path, later) {
			t.Errorf("%s: %s, %v", when, f.Path, err)
		}
	}
	// For one that keeps changing, it gives up.
	h := hubtest.New(t, repo, modelFiles())
	h.NoList = true
	seed := byte(10)
	h.Handle = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, ".safetensors") {
			seed++
			h.Files["open_clip_model.safetensors"] = noise(seed, 1<<20)
		}
		return false
	}
	failing(t, "hf:"+repo, Options{}, fault.Environment, "changed", "@COMMIT")
}

// Each answer of a server in trouble, or that refuses, is one line that says
// what to do.
func TestAnswers(t *testing.T) {
	type header map[string]string
	for name, c := range map[string]struct {
		status  int
		header  header
		times   int // 0: for ever
		want    fault.Kind
		words   []string
		noToken bool
	}{
		"gated":            {403, header{"X-Error-Code": "GatedRepo"}, 0, fault.Environment, []string{"gated", "accept", "HF_TOKEN"}, false},
		"gated, no token":  {401, header{"X-Error-Code": "GatedRepo"}, 0, fault.Environment, []string{"gated", "accept", "set HF_TOKEN"}, true},
		"unauthorised":     {401, nil, 0, fault.Environment, []string{"401", "the token that was sent"}, false},
		"no token":         {401, nil, 0, fault.Environment, []string{"401", "set HF_TOKEN"}, true},
		"forbidden":        {403, header{"X-Error-Message": "no\u202e way"}, 0, fault.Environment, []string{"403", `no\u202e way`}, false},
		"missing, 401":     {401, header{"X-Error-Code": "RepoNotFound"}, 0, fault.Input, []string{"no such repository"}, true},
		"missing":          {404, nil, 0, fault.Input, []string{"404", "name"}, false},
		"too many":         {429, header{"Retry-After": "3600"}, 0, fault.Environment, []string{"429", "1h0m0s"}, false},
		"too many, once":   {429, header{"Retry-After": "0"}, 2, 0, nil, false},
		"busy":             {503, nil, 0, fault.Environment, []string{"503", "try again later"}, false},
		"busy, for a time": {503, nil, 3, 0, nil, false},
		"teapot":           {418, nil, 0, fault.Environment, []string{"418"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			h := hubtest.New(t, repo, modelFiles())
			if c.noToken {
				t.Setenv("HF_TOKEN", "")
			}
			n := 0
			h.Handle = func(w http.ResponseWriter, r *http.Request) bool {
				if n++; c.times > 0 && n > c.times {
					return false
				}
				for k, v := range c.header {
					w.Header().Set(k, v)
				}
				w.WriteHeader(c.status)
				return true
			}
			if c.want == 0 {
				find(t, "hf:"+repo, Options{})
				return
			}
			failing(t, "hf:"+repo, Options{}, c.want, c.words...)
			if n > 2*attempts {
				t.Errorf("%d requests", n)
			}
			// With the model in the cache, a hub in trouble does not matter.
			n, h.Handle = 0, nil
			find(t, "hf:"+repo, Options{})
			h.Handle = func(w http.ResponseWriter, r *http.Request) bool {
				n++
				w.WriteHeader(503)
				return true
			}
			var log bytes.Buffer
			find(t, "hf:"+repo, Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
			if n != 1 || !strings.Contains(log.String(), "cache") {
				t.Errorf("%d requests, %s", n, log.String())
			}
		})
	}
	// No hub at all.
	h := hubtest.New(t, repo, nil)
	h.Close()
	failing(t, "hf:"+repo, Options{}, fault.Environment, "cannot reach", "HTTPS_PROXY")
	t.Setenv("HF_ENDPOINT", "huggingface.co")
	failing(t, "hf:"+repo, Options{}, fault.Usage, "HF_ENDPOINT")
}
