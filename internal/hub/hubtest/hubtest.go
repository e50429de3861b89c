// Package hubtest is a Hugging Face hub on loopback, for tests.
package hubtest

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Hub is a hub on loopback: small files come from it, large ones from a CDN
// under another host name.
type Hub struct {
	*httptest.Server
	CDN  *httptest.Server
	Repo string

	Mu     sync.Mutex // held while a request is answered
	Commit string     // of main
	Files  map[string][]byte
	Others map[string]map[string][]byte // small files of other repositories, by their names; same commit
	NoList bool                         // no API
	Asked  []string                     // requests: METHOD PATH, cdn METHOD RANGE
	// Handle and HandleCDN may answer instead, and report whether they did.
	Handle, HandleCDN func(w http.ResponseWriter, r *http.Request) bool

	t *testing.T
}

// Token is what the hub wants from a user who has one.
const Token = "hf_secret"

// Commit is the first one of main.
const Commit = "1111111111111111111111111111111111111111"

// New starts a hub with one repository and points the environment of the test to
// it.
func New(t *testing.T, repo string, files map[string][]byte) *Hub {
	h := &Hub{t: t, Repo: repo, Commit: Commit, Files: files}
	h.Server = httptest.NewServer(http.HandlerFunc(h.serve))
	h.CDN = httptest.NewServer(http.HandlerFunc(h.serveCDN))
	t.Cleanup(h.Close)
	t.Cleanup(h.CDN.Close)
	for _, v := range []string{"HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN_PATH", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_DISABLE_IMPLICIT_TOKEN"} {
		t.Setenv(v, "")
	}
	t.Setenv("HOME", t.TempDir())
	t.Setenv("HF_ENDPOINT", h.URL)
	t.Setenv("HF_TOKEN", Token)
	return h
}

// Large reports whether a file lies on the CDN and has a SHA-256.
func Large(name string) bool {
	return slices.Contains([]string{".safetensors", ".bin", ".pt", ".pth", ".tar"}, path.Ext(name))
}

// ETag is the hash that the hub states of a file.
func ETag(name string, b []byte) string {
	if Large(name) {
		sum := sha256.Sum256(b)
		return hex.EncodeToString(sum[:])
	}
	sum := sha1.Sum(append(fmt.Appendf(nil, "blob %d\x00", len(b)), b...))
	return hex.EncodeToString(sum[:])
}

func (h *Hub) serve(w http.ResponseWriter, r *http.Request) {
	h.Mu.Lock()
	defer h.Mu.Unlock()
	h.Asked = append(h.Asked, r.Method+" "+r.URL.Path)
	if got := r.Header.Get("Authorization"); got != "Bearer "+Token && os.Getenv("HF_TOKEN") != "" {
		h.t.Errorf("%s %s: Authorization %q", r.Method, r.URL, got)
	}
	if h.Handle != nil && h.Handle(w, r) {
		return
	}
	fail := func(status int, code string) {
		w.Header().Set("X-Error-Code", code)
		w.WriteHeader(status)
	}
	at := strings.TrimPrefix(r.URL.Path, "/")
	repo, files := h.Repo, h.Files
	for name, has := range h.Others {
		if strings.HasPrefix(strings.TrimPrefix(at, "api/models/"), name+"/") {
			repo, files = name, has
		}
	}
	if strings.HasPrefix(at, "api/") {
		if h.NoList {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		revision, ok := strings.CutPrefix(at, "api/models/"+repo+"/revision/")
		switch {
		case !ok:
			fail(http.StatusNotFound, "RepoNotFound")
		case revision != "main" && revision != h.Commit:
			fail(http.StatusNotFound, "RevisionNotFound")
		default:
			type sibling struct {
				Name string `json:"rfilename"`
			}
			var list []sibling
			for name := range files {
				list = append(list, sibling{name})
			}
			json.NewEncoder(w).Encode(map[string]any{"sha": h.Commit, "siblings": list})
		}
		return
	}
	rest, ok := strings.CutPrefix(at, repo+"/resolve/")
	revision, name, _ := strings.Cut(rest, "/")
	w.Header().Set("X-Repo-Commit", h.Commit)
	switch b, there := files[name]; {
	case !ok:
		w.Header().Del("X-Repo-Commit")
		fail(http.StatusNotFound, "RepoNotFound")
	case revision != "main" && revision != h.Commit:
		fail(http.StatusNotFound, "RevisionNotFound")
	case !there:
		fail(http.StatusNotFound, "EntryNotFound")
	case Large(name):
		w.Header().Set("X-Linked-Etag", `"`+ETag(name, b)+`"`)
		w.Header().Set("X-Linked-Size", fmt.Sprint(len(b)))
		w.Header().Set("Location", strings.Replace(h.CDN.URL, "127.0.0.1", "localhost", 1)+"/"+name)
		w.WriteHeader(http.StatusFound)
	default:
		w.Header().Set("ETag", `"`+ETag(name, b)+`"`)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
	}
}

func (h *Hub) serveCDN(w http.ResponseWriter, r *http.Request) {
	h.Mu.Lock()
	defer h.Mu.Unlock()
	h.Asked = append(h.Asked, "cdn "+r.Method+" "+r.Header.Get("Range"))
	for _, name := range []string{"Authorization", "Cookie"} {
		if v := r.Header.Get(name); v != "" {
			h.t.Errorf("the CDN got %s %q", name, v)
		}
	}
	if h.HandleCDN != nil && h.HandleCDN(w, r) {
		return
	}
	w.Header().Set("ETag", `"of-the-cdn"`)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(h.Files[strings.TrimPrefix(r.URL.Path, "/")]))
}

// Count is the number of requests with part in them.
func (h *Hub) Count(part string) (n int) {
	h.Mu.Lock()
	defer h.Mu.Unlock()
	for _, a := range h.Asked {
		if strings.Contains(a, part) {
			n++
		}
	}
	return n
}
