package hub

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/hub/hubtest"
	"github.com/evatool/evatool/internal/published"
)

// Every listed name stands for its weights, by repository or address.
func TestNames(t *testing.T) {
	seen := map[string]bool{}
	for _, e := range Entries() {
		got, err := parse(e.Name)
		if err != nil || got == nil || got.weights.Name() != e.Weights.Name() || got.weights.Own() != e.Weights.Own() || seen[e.Name] {
			t.Errorf("%s: %+v, %v", e.Name, got, err)
			continue
		}
		seen[e.Name] = true
		if strings.HasPrefix(e.Name, openAIPrefix) != got.elsewhere || !got.elsewhere && got.repo != e.Weights.Repo {
			t.Errorf("%s: %+v", e.Name, got)
		}
		if got.elsewhere && len(got.weights.SHA256) != 64 {
			t.Errorf("%s: SHA-256 %q", e.Name, got.weights.SHA256)
		}
	}
	if len(seen) != 196+10+9 {
		t.Errorf("%d names, want %d", len(seen), 196+10+9)
	}
	for name, want := range map[string]string{
		"EVA02-CLIP-B-16":                     "QuanSun/EVA-CLIP EVA02_CLIP_B_psz16_s8B.pt",
		"EVA02-B-16":                          "QuanSun/EVA-CLIP EVA02_CLIP_B_psz16_s8B.pt",
		"EVA02-CLIP-bigE-14-plus":             "QuanSun/EVA-CLIP EVA02_CLIP_E_psz14_plus_s9B.pt",
		"EVA02-B-16/merged2b_s8b_b131k":       "timm/eva02_base_patch16_clip_224.merged2b_s8b_b131k open_clip_model.safetensors",
		"EVA02-CLIP-B-16/merged2b_s8b_b131k":  "QuanSun/EVA-CLIP EVA02_CLIP_B_psz16_s8B.pt",
		"ViT-B-32/laion2b_s34b_b79k":          "laion/CLIP-ViT-B-32-laion2B-s34B-b79K open_clip_model.safetensors",
		"openclip-ViT-B-32/laion2b_s34b_b79k": "laion/CLIP-ViT-B-32-laion2B-s34B-b79K open_clip_model.safetensors",
		"ViT-B-32/openai":                     "timm/vit_base_patch32_clip_224.openai open_clip_model.safetensors",
		"ViT-bigG-14/laion2b_s39b_b160k":      "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k open_clip_model.safetensors",
		"ViTamin-S/datacomp1b":                "jienengchen/ViTamin-S pytorch_model.bin",
		"ViT-B-16-SigLIP":                     "timm/ViT-B-16-SigLIP open_clip_model.safetensors",
		"ViT-B-16-plus-240/laion400m_e32":     "timm/vit_base_patch16_plus_clip_240.laion400m_e32 open_clip_model.safetensors",
		"openai:ViT-B-32":                     "ViT-B-32.pt", "openai:ViT-B/32": "ViT-B-32.pt", "openai:ViT-L-14-336px": "ViT-L-14-336px.pt", "openai:ViT-L-14-336": "ViT-L-14-336px.pt",
		"openai:ViT-L/14@336px": "ViT-L-14-336px.pt", "openai:RN50x4": "RN50x4.pt", "openai-ViT-B-32": "ViT-B-32.pt", "openai-RN50": "RN50.pt", "ViT-B/32": "ViT-B-32.pt",
	} {
		got, err := parse(name)
		if err != nil || got == nil {
			t.Errorf("%s: %+v, %v", name, got, err)
			continue
		}
		is := got.repo + " " + strings.Join(got.files[:min(1, len(got.files))], "")
		if got.elsewhere {
			is = filepath.Base(got.weights.URL)
		}
		if is != want {
			t.Errorf("%s: %s, want %s", name, is, want)
		}
	}
}

func TestUnknownNames(t *testing.T) {
	hubtest.New(t, repo, nil)
	for name, want := range map[string]struct {
		status fault.Kind
		words  string
	}{
		"EVA02-CLIP-B-17":            {fault.Input, "did you mean EVA02-CLIP-B-16?"},
		"ViT-B-32/laion2b_s34b_b79":  {fault.Input, "did you mean ViT-B-32/laion2b_s34b_b79k?"},
		"zzzzzzzzzzzzzzzzzzzzzzzzz":  {fault.Input, "evatool models"},
		"openai:ViT-B-33":            {fault.Usage, "did you mean openai:ViT-B-32?"},
		"openai:":                    {fault.Usage, "known: openai:RN50 "},
		"ViT-B-32":                   {fault.Usage, "ViT-B-32/laion2b_s34b_b79k"},
		"ViT-B-32-quickgelu":         {fault.Usage, "ViT-B-32-quickgelu/openai"},
		"convnext_base_w":            {fault.Usage, "convnext_base_w/laion2b_s13b_b82k_augreg"},
		"EVA01-CLIP-B-16":            {fault.Usage, "no published weights"},
		"hf:":                        {fault.Usage, "OWNER/NAME"},
		"hf:https://huggingface.co/": {fault.Usage, "OWNER/NAME"},
	} {
		failing(t, name, Options{}, want.status, want.words)
	}
	if _, err := Find(t.Context(), "EVA02-CLIP-B-17", Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	// A path stays a path, and one that exists wins.
	t.Chdir(t.TempDir())
	for _, path := range []string{"no.pt", "a/b/c", "./EVA02-CLIP-B-16", "/EVA02-CLIP-B-16", "x/model.safetensors", ""} {
		if f := find(t, path, Options{}); f.Path != path || f.Repo != "" {
			t.Errorf("%s: %+v", path, f)
		}
	}
	os.Mkdir("EVA02-CLIP-B-16", 0o755)
	os.WriteFile("openai:ViT-B-32", nil, 0o644)
	for _, path := range []string{"EVA02-CLIP-B-16", "openai:ViT-B-32"} {
		if f := find(t, path, Options{}); f.Path != path {
			t.Errorf("%s: %+v", path, f)
		}
	}
}

// The cache tells which weights each file holds.
func TestNamesFromCache(t *testing.T) {
	c := &client{Options: Options{Cache: "/c"}}
	for _, e := range Entries() {
		at := c.pointer(e.Weights.Repo, commit, e.Weights.Files[0])
		if strings.HasPrefix(e.Name, openAIPrefix) {
			at = c.pointer(e.Weights.CacheRepo(), commit, filepath.Base(e.Weights.URL))
		}
		list := published.ByName(at)
		if !slices.ContainsFunc(list, func(w published.Weights) bool { return w.Name() == e.Weights.Name() }) {
			t.Errorf("%s: %v", at, list)
		}
		for _, w := range list {
			if w.QuickGELU != e.Weights.QuickGELU || w.Preprocess != e.Weights.Preprocess {
				t.Errorf("%s: %s and %s differ", at, w.Name(), e.Weights.Name())
			}
		}
	}
}

// All published weights have an architecture here; others would be refused.
func TestStates(t *testing.T) {
	for _, e := range Entries() {
		if s, why := StateOf(e.Weights); s != Works || why != "" {
			t.Errorf("%s: %s (%s)", e.Name, s, why)
		}
	}
	if s, why := StateOf(published.Weights{Architecture: "ViT-Z-1"}); s != Refused || !strings.Contains(why, "ViT-Z-1") {
		t.Errorf("%s (%s)", s, why)
	}
}

// The token is found where huggingface_hub finds it.
func TestToken(t *testing.T) {
	hubtest.New(t, repo, nil)
	dir := t.TempDir()
	file := filepath.Join(dir, "mine")
	os.WriteFile(file, []byte("  of-a-file\n"), 0o600)
	os.MkdirAll(filepath.Join(dir, "huggingface"), 0o755)
	os.WriteFile(filepath.Join(dir, "huggingface", "token"), []byte("of-the-cache"), 0o600)
	if got := token(); got != hubtest.Token {
		t.Error(got)
	}
	t.Setenv("HF_TOKEN", "")
	if got := token(); got != "" {
		t.Error(got)
	}
	t.Setenv("XDG_CACHE_HOME", dir)
	if got := token(); got != "of-the-cache" {
		t.Error(got)
	}
	t.Setenv("HF_TOKEN_PATH", file)
	if got := token(); got != "of-a-file" {
		t.Error(got)
	}
	t.Setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
	if got := token(); got != "" {
		t.Error(got)
	}
	for _, c := range []struct{ name, value, want string }{
		{"XDG_CACHE_HOME", dir, dir + "/huggingface/hub"}, {"HF_HOME", dir + "/home", dir + "/home/hub"}, {"HF_HUB_CACHE", "$HF_HOME/../here", dir + "/home/../here"},
		{"HF_HUB_CACHE", "/a$none/${HF_HOME}/${none}/$1$", "/a$none/" + dir + "/home/${none}/$1$"},
	} {
		t.Setenv(c.name, c.value)
		if got, err := cacheFolder(); got != c.want || err != nil {
			t.Errorf("%s: %s, %v; want %s", c.name, got, err, c.want)
		}
	}
}

// to sends every request to one server, whatever its host.
type to struct{ host string }

func (t to) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.URL.Scheme, r.URL.Host = "http", t.host
	return http.DefaultTransport.RoundTrip(r)
}

// Weights that are not on the hub are verified by the table's hash, even if that is
// only eight digits, and refused without one.
func TestElsewhere(t *testing.T) {
	hubtest.New(t, repo, nil)
	body := noise(1, 1<<20)
	sum := hubtest.ETag("x.pt", body)
	var mu sync.Mutex
	asked, status := 0, 200
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		asked++
		if r.Header.Get("Authorization") != "" {
			t.Error("the token was sent")
		}
		if status != 200 {
			w.WriteHeader(status)
			return
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body))
	}))
	defer s.Close()
	u, _ := url.Parse(s.URL)
	for _, hash := range []string{sum, sum[:8]} {
		c, err := newClient(t.Context(), Options{Cache: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		c.http.Transport = to{u.Host}
		w := &published.Weights{Architecture: "ViT-B-32", Tag: "openai", URL: "https://models.example/clip/" + hash + "/ViT-B-32.pt", SHA256: hash}
		at, err := c.elsewhere(t.Context(), "openai:ViT-B-32", w)
		want := filepath.Join(c.Cache, "models--models.example--ViT-B-32", "snapshots", sum[:40], "ViT-B-32.pt")
		if err != nil || at != want {
			t.Fatalf("%s, %v; want %s", at, err, want)
		}
		if blobOf(at) != sum {
			t.Errorf("blob %s", blobOf(at))
		}
		// Several that want it at once fetch it once.
		c.Cache, asked = t.TempDir(), 0
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				if _, err := c.elsewhere(t.Context(), "openai:ViT-B-32", w); err != nil {
					t.Error(err)
				}
			})
		}
		if all.Wait(); asked != 1 {
			t.Errorf("fetched %d times", asked)
		}
		at = filepath.Join(c.Cache, "models--models.example--ViT-B-32", "snapshots", sum[:40], "ViT-B-32.pt")
		asked, c.Offline = 0, true
		if again, err := c.elsewhere(t.Context(), "openai:ViT-B-32", w); err != nil || again != at || asked != 0 {
			t.Errorf("offline: %s, %v, %d requests", again, err, asked)
		}
		c.Offline = false
		other := *w
		other.SHA256, other.URL = strings.Repeat("0", len(hash)), "https://models.example/RN50.pt"
		if _, err := c.elsewhere(t.Context(), "openai:RN50", &other); fault.Code(err) != int(fault.Input) || !strings.Contains(err.Error(), "is rejected") {
			t.Error(err)
		}
		other.SHA256 = ""
		if _, err := c.elsewhere(t.Context(), "x", &other); fault.Code(err) != int(fault.Input) || !strings.Contains(err.Error(), "no hash") {
			t.Error(err)
		}
		c.Offline, other.URL = true, "https://models.example/RN101.pt"
		if _, err := c.elsewhere(t.Context(), "x", &other); fault.Code(err) != int(fault.Environment) {
			t.Error(err)
		}
		c.Offline, other.SHA256, status = false, hash, 404
		if _, err := c.elsewhere(t.Context(), "x", &other); fault.Code(err) != int(fault.Environment) || !strings.Contains(err.Error(), "404") {
			t.Error(err)
		}
		status = 200
	}
}

// Two processes that want the same file at once fetch it once.
func TestLock(t *testing.T) {
	h := hubtest.New(t, repo, modelFiles())
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if _, err := Find(context.Background(), "hf:"+repo, Options{}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := h.Count("cdn"); n != 1 {
		t.Errorf("fetched %d times", n)
	}
}

// An interruption ends a download at once.
func TestStop(t *testing.T) {
	h := hubtest.New(t, repo, modelFiles())
	ctx, cancel := context.WithCancel(context.Background())
	h.HandleCDN = func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Content-Length", "3145728")
		w.Write(make([]byte, 1<<20))
		w.(http.Flusher).Flush()
		cancel()
		<-r.Context().Done()
		return true
	}
	if _, err := Find(ctx, "hf:"+repo, Options{}); fault.Code(err) != int(fault.Interrupted) {
		t.Error(err)
	}
}

// A connection that stalls is given up, and the request sent again.
func TestIdle(t *testing.T) {
	defer func(d time.Duration) { idleLimit = d }(idleLimit)
	idleLimit = 50 * time.Millisecond
	h := hubtest.New(t, repo, modelFiles())
	n := 0
	h.HandleCDN = func(w http.ResponseWriter, r *http.Request) bool {
		if n++; n > 1 {
			return false
		}
		w.Header().Set("Content-Length", "3145728")
		w.Write(h.Files["open_clip_model.safetensors"][:1000])
		w.(http.Flusher).Flush()
		h.Mu.Unlock()
		<-r.Context().Done()
		h.Mu.Lock()
		return true
	}
	find(t, "hf:"+repo, Options{})
	if n != 2 {
		t.Errorf("%d requests", n)
	}
}
