// Package hub turns the name of a model into a file: it fetches what the name stands
// for into the cache of the Hugging Face hub, in huggingface_hub's own layout (each
// reads the other's files), and verifies every byte.
//
// A file is accepted if its SHA-256, or for a small one its git hash, is the one that
// the hub states or the table of published weights has. If neither has one, it is
// refused. The user's token is sent to the hub's host and no other.
package hub

import (
	"cmp"
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/idle"
	"github.com/evatool/evatool/internal/runlog"
)

// Options say where files come from and go to. The zero value follows the
// environment.
type Options struct {
	Cache   string // folder; "": HF_HUB_CACHE, or else huggingface_hub's default
	Offline bool   // use the cache only; HF_HUB_OFFLINE does the same
	ToRun   bool   // refuse weights that evatool cannot run before fetching them
	Texts   bool   // also fetch the tokenizer of weights that have it in another repository
	Log     *slog.Logger
}

// Display starts the display of a download.
type Display func(label string, total int64, unit string) *runlog.Progress

type displayKey struct{}

// Show makes downloads under the returned context appear on a display; without it
// they are log lines.
func Show(ctx context.Context, d Display) context.Context {
	return context.WithValue(ctx, displayKey{}, d)
}

// client is the hub and its cache according to the options and the environment.
type client struct {
	Options
	endpoint *url.URL
	token    string
	display  Display
	http     *http.Client
}

// idleLimit is how long a connection may be idle. Tests shorten it.
var idleLimit = 60 * time.Second

// Offline reports whether the options or the environment allow only the cache.
func Offline(o Options) bool {
	return o.Offline || isTrue("HF_HUB_OFFLINE") || isTrue("TRANSFORMERS_OFFLINE")
}

func newClient(ctx context.Context, o Options) (*client, error) {
	c := &client{Options: o, token: token()}
	if c.Log == nil {
		c.Log = runlog.Discard()
	}
	var ok bool
	if c.display, ok = ctx.Value(displayKey{}).(Display); !ok {
		c.display = func(label string, total int64, unit string) *runlog.Progress {
			return runlog.NewProgress(runlog.NewScreen(runlog.LogWriter(c.Log)), label, total, unit)
		}
	}
	c.Offline = Offline(o)
	if c.Cache == "" {
		var err error
		if c.Cache, err = cacheFolder(); err != nil {
			return nil, err
		}
	}
	address := strings.TrimRight(cmp.Or(os.Getenv("HF_ENDPOINT"), "https://huggingface.co"), "/")
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fault.Usagef("HF_ENDPOINT=%q: want https://HOST", fault.Name(address[strings.LastIndexByte(address, '@')+1:]))
	}
	c.endpoint = u
	t := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout: 30 * time.Second,
		ForceAttemptHTTP2:   true,
	}
	idle.Limit(t, idleLimit)
	c.http = &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return c, nil
}

// cacheFolder is the folder that huggingface_hub uses.
func cacheFolder() (string, error) {
	for _, name := range []string{"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"} {
		if v := os.Getenv(name); v != "" {
			return expand(v), nil
		}
	}
	home, err := hfHome()
	return filepath.Join(home, "hub"), err
}

func hfHome() (string, error) {
	if v := os.Getenv("HF_HOME"); v != "" {
		return expand(v), nil
	}
	if v := os.Getenv("XDG_CACHE_HOME"); v != "" {
		return filepath.Join(expand(v), "huggingface"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fault.Envf("no cache for models: %w; set HF_HOME", err)
	}
	return filepath.Join(home, ".cache", "huggingface"), nil
}

// variable matches $NAME and ${NAME}.
var variable = regexp.MustCompile(`\$(\w+|\{[^}]*\})`)

// expand replaces ~ and $NAME, as huggingface_hub does: a variable that is not set
// stays as it is.
func expand(path string) string {
	if rest, ok := strings.CutPrefix(path, "~"); ok && (rest == "" || rest[0] == '/') {
		if home, err := os.UserHomeDir(); err == nil {
			path = home + rest
		}
	}
	return variable.ReplaceAllStringFunc(path, func(s string) string {
		if v, ok := os.LookupEnv(strings.Trim(s, "${}")); ok {
			return v
		}
		return s
	})
}

// token is the user's token, found where huggingface_hub looks for it.
func token() string {
	if isTrue("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
		return ""
	}
	for _, name := range []string{"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"} {
		if v := clean(os.Getenv(name)); v != "" {
			return v
		}
	}
	path := expand(os.Getenv("HF_TOKEN_PATH"))
	if path == "" {
		home, err := hfHome()
		if err != nil {
			return ""
		}
		path = filepath.Join(home, "token")
	}
	b, err := fault.ReadFile(path, "a token of the Hugging Face hub", 1<<16)
	if err != nil {
		return "" // most users have none, and none is needed for what is public
	}
	return clean(string(b))
}

func clean(token string) string {
	return strings.TrimSpace(strings.NewReplacer("\r", "", "\n", "").Replace(token))
}

func isTrue(variable string) bool {
	return slices.Contains([]string{"1", "ON", "YES", "TRUE"}, strings.ToUpper(os.Getenv(variable)))
}
