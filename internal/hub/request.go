package hub

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/idle"
)

// meta is what the hub states of a file before it is fetched.
type meta struct {
	commit string // 40 hexadecimal digits, or empty
	etag   string // SHA-256 of the content, or for a small file its git hash
	size   int64  // bytes; -1: not stated
	url    string
}

const (
	attempts        = 5 // of a request, in a row, without a byte of progress
	connectAttempts = 3 // if there is no connection at all
	maxRedirects    = 10
	maxWait         = 2 * time.Minute // the longest wait that a server may ask for
)

// retryPause is the first pause between attempts, which doubles. Tests shorten it.
var retryPause = time.Second

// errNoFile reports that the repository and the revision exist but the file does
// not.
var errNoFile = errors.New("no such file in the repository")

// head requests what the hub states of a file. tries limits the attempts.
func (c *client) head(ctx context.Context, r ref, name string, tries int) (m meta, err error) {
	at := c.resolveURL(r, name)
	resp, err := c.request(ctx, http.MethodHead, at, nil, tries, func(resp *http.Response) bool { return metaOf(resp).commit != "" })
	if err != nil {
		return m, c.explain(r, name, err)
	}
	resp.Body.Close()
	m = metaOf(resp)
	if m.commit == "" {
		return m, fault.Envf("%s: the answer of %s lacks the hub's X-Repo-Commit header; check HF_ENDPOINT, the proxy and the firewall", r.file(name), c.endpoint.Host)
	}
	if at := r.at(); isSHA1(at) && m.commit != at {
		return m, fault.Envf("%s: %s answers with commit %s instead of %s; check HF_ENDPOINT", r.file(name), c.endpoint.Host, m.commit, at)
	}
	if !isSHA256(m.etag) && !isSHA1(m.etag) {
		return m, fault.Envf("%s: %s states no hash for it (ETag %q), so it cannot be verified and is not fetched; download it yourself and give its path", r.file(name), c.endpoint.Host, m.etag)
	}
	return m, nil
}

// metaOf reads the headers of an answer. An answer that only redirects does not state
// the target's size.
func metaOf(resp *http.Response) meta {
	m := meta{commit: resp.Header.Get("X-Repo-Commit"), size: -1, url: resp.Request.URL.String()}
	if !isSHA1(m.commit) {
		m.commit = ""
	}
	etag := resp.Header.Get("X-Linked-Etag")
	if etag == "" {
		etag = resp.Header.Get("ETag")
	}
	m.etag = strings.ToLower(strings.Trim(strings.TrimPrefix(etag, "W/"), `"`))
	size := resp.Header.Get("X-Linked-Size")
	if size == "" && !isRedirect(resp) {
		size = resp.Header.Get("Content-Length")
	}
	if n, err := strconv.ParseInt(size, 10, 64); err == nil && n >= 0 {
		m.size = n
	}
	return m
}

func isSHA256(s string) bool { return isHex(s, 64) }
func isSHA1(s string) bool   { return isHex(s, 40) }

func isHex(s string, n int) bool {
	return len(s) == n && strings.Trim(s, "0123456789abcdef") == ""
}

func isRedirect(resp *http.Response) bool {
	return slices.Contains([]int{301, 302, 303, 307, 308}, resp.StatusCode) && resp.Header.Get("Location") != ""
}

// resolveURL is the address of a file, as huggingface_hub writes it.
func (c *client) resolveURL(r ref, name string) string {
	parts := strings.Split(name, "/")
	for i := range parts {
		parts[i] = url.PathEscape(parts[i])
	}
	return fmt.Sprintf("%s/%s/resolve/%s/%s", c.endpoint, r.repo, url.PathEscape(r.at()), strings.Join(parts, "/"))
}

// request sends a request, retrying if that may help, and follows redirects until
// enough accepts an answer.
func (c *client) request(ctx context.Context, method, at string, header http.Header, tries int, enough func(*http.Response) bool) (*http.Response, error) {
	pause := retryPause
	for n := 1; ; n++ {
		resp, err := c.follow(ctx, method, at, header, enough)
		if err == nil && resp.StatusCode < 300 || err == nil && isRedirect(resp) {
			return resp, nil
		}
		var wait time.Duration
		if err == nil {
			said := answered(resp)
			wait, err = said.after, said
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if noConnection(err) {
			tries = min(tries, connectAttempts)
		}
		if n >= tries || !passing(err) || wait > maxWait {
			return nil, err
		}
		wait = max(wait, pause)
		pause *= 2
		c.Log.Warn("retrying a request", "to", fault.Name(hostOf(at)), "in", wait, "because", fault.Line(cause(err)))
		if err := sleep(ctx, wait); err != nil {
			return nil, err
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// follow sends one request and follows its redirects. The token is sent only to the
// hub's own scheme, host and port.
func (c *client) follow(ctx context.Context, method, at string, header http.Header, enough func(*http.Response) bool) (*http.Response, error) {
	for range maxRedirects {
		req, err := http.NewRequestWithContext(ctx, method, at, nil)
		if err != nil {
			return nil, err
		}
		for k, v := range header {
			req.Header[k] = v
		}
		req.Header.Set("Accept-Encoding", "identity") // so that size and bytes are those stated
		req.Header.Set("User-Agent", "evatool")
		if c.token != "" && req.URL.Scheme == c.endpoint.Scheme && req.URL.Host == c.endpoint.Host {
			req.Header.Set("Authorization", "Bearer "+c.token)
		}
		resp, err := c.http.Do(req)
		if err != nil {
			return nil, err
		}
		if !isRedirect(resp) || enough != nil && enough(resp) {
			return resp, nil
		}
		resp.Body.Close()
		to, err := resp.Location()
		if err != nil {
			return nil, err
		}
		if to.Scheme != "http" && to.Scheme != "https" {
			return nil, fmt.Errorf("a redirect to %q, which is not followed", fault.Name(to.String()))
		}
		at = to.String()
	}
	return nil, fmt.Errorf("more than %d redirects", maxRedirects)
}

// answer is a status other than success.
type answer struct {
	status  int
	code    string // the hub's error code
	message string
	host    string
	commit  string        // of the requested revision, or empty
	after   time.Duration // how long the server wants the client to wait
}

func answered(resp *http.Response) *answer {
	io.CopyN(io.Discard, resp.Body, 64<<10) // so that the connection can be reused
	resp.Body.Close()
	a := &answer{status: resp.StatusCode, code: resp.Header.Get("X-Error-Code"), message: resp.Header.Get("X-Error-Message"), host: resp.Request.URL.Host, commit: metaOf(resp).commit}
	after := resp.Header.Get("Retry-After")
	if s, err := strconv.Atoi(after); err == nil && s >= 0 {
		a.after = time.Duration(min(s, 1<<20)) * time.Second
	} else if t, err := http.ParseTime(after); err == nil {
		a.after = max(0, time.Until(t))
	} else if m := resets.FindStringSubmatch(resp.Header.Get("RateLimit")); a.status == http.StatusTooManyRequests && m != nil {
		s, _ := strconv.Atoi(m[1])
		a.after = time.Duration(min(s, 1<<20)) * time.Second
	}
	return a
}

// resets matches the seconds until a rate limit resets, as in "api";r=0;t=55.
var resets = regexp.MustCompile(`;\s*t=(\d+)`)

func (a *answer) Error() string {
	s := fmt.Sprintf("%s answers %d %s", a.host, a.status, http.StatusText(a.status))
	if a.message != "" {
		s += " (" + fault.Name(a.message) + ")"
	}
	return s
}

// passing reports whether an error may not recur: a busy server, a connection that
// broke or stalled.
func passing(err error) bool {
	var a *answer
	if errors.As(err, &a) {
		return slices.Contains([]int{408, 429, 500, 502, 503, 504}, a.status)
	}
	var u *url.Error
	var dns *net.DNSError
	var tls *tls.CertificateVerificationError
	if errors.As(err, &dns) && dns.IsNotFound || errors.As(err, &tls) {
		return false
	}
	return errors.As(err, &u) || idle.Stalled(err)
}

// noConnection reports whether there was no connection to the server or proxy.
func noConnection(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// cause is the error of a request without its address.
func cause(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// explain turns the hub's answer about a file into one line that says what it means
// and what to do.
func (c *client) explain(r ref, name string, err error) error {
	var a *answer
	what := r.file(name)
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case !errors.As(err, &a):
		return fault.Envf("%s: cannot reach %s: %w; check the network and the proxy (HTTPS_PROXY), or use the cache alone with Options.Offline", what, c.endpoint.Host, cause(err))
	}
	login := "set HF_TOKEN to a token of an account with access"
	if c.token != "" {
		login = "the token that was sent (HF_TOKEN, or the token file) has expired or belongs to an account without access"
	}
	page := fmt.Sprintf("%s/%s", c.endpoint, r.repo)
	switch {
	case a.code == "GatedRepo":
		return fault.Because(fault.Environment, err, "%s: gated: accept its terms at %s; %s", what, page, login)
	case a.code == "RepoNotFound":
		return fault.Because(fault.Input, err, "%s: %s has no such repository, or it is private; check the name; for a private one, %s", what, a.host, login)
	case a.code == "RevisionNotFound":
		return fault.Because(fault.Input, err, "%s: the repository has no revision %s; give a branch, a tag or a commit that %s lists", what, fault.Name(r.revision), page)
	case a.code == "EntryNotFound":
		return fault.Because(fault.Input, errors.Join(errNoFile, err), "%s: %v; %s/tree/%s lists its files", what, errNoFile, page, url.PathEscape(r.revision))
	case a.status == http.StatusNotFound:
		return fault.Because(fault.Input, errors.Join(errNoFile, err), "%s: %s answers 404: no such repository, revision or file; check the name", what, a.host)
	case a.status == http.StatusUnauthorized:
		return fault.Because(fault.Environment, err, "%s: %s answers 401: no such repository, or a private or gated one; check the name; for a private one, %s", what, a.host, login)
	case a.status == http.StatusForbidden:
		return fault.Because(fault.Environment, err, "%s: %v: accept its terms at %s if it is gated; %s", what, err, page, login)
	case a.status == http.StatusTooManyRequests:
		wait := ""
		if a.after > 0 {
			wait = fmt.Sprintf(" (retry after %s)", a.after.Round(time.Second))
		}
		more := ""
		if c.token == "" {
			more = ", or set HF_TOKEN, which raises the limit"
		}
		return fault.Because(fault.Environment, err, "%s: %s answers 429, too many requests%s; try again later%s", what, a.host, wait, more)
	case a.status >= 500:
		return fault.Because(fault.Environment, err, "%s: %v, a server error; try again later, or use the cache alone with Options.Offline", what, err)
	}
	return fault.Because(fault.Environment, err, "%s: %v; check HF_ENDPOINT and the proxy", what, err)
}

func hostOf(at string) string {
	u, err := url.Parse(at)
	if err != nil {
		return ""
	}
	return u.Host
}
