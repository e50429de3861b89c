package hub

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/gofrs/flock"

	"github.com/evatool/evatool/internal/digest"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/runlog"
)

// errChanged reports that the file being fetched is not the one the hub stated.
var errChanged = errors.New("the file changed while it was being fetched")

// corruptError reports a file that arrived whole but with the wrong hash.
type corruptError struct{ got, want string }

func (e *corruptError) Error() string {
	return fmt.Sprintf("its hash is %s, but %s was stated", e.got, e.want)
}

// get returns the path of a file of a repository in the cache, verified, and its
// commit. What the cache lacks or has only in part is fetched.
func (c *client) get(ctx context.Context, r ref, name string, tries int) (at, commit string, err error) {
	if !local(name) {
		return "", "", fault.Inputf("%s: not the name of a file in a repository", r.file(name))
	}
	if known := c.cachedCommit(r); known != "" && known == r.at() {
		if at = c.pointer(r.repo, known, name); c.intact(ctx, at, blobOf(at)) == nil {
			return at, known, nil
		}
		if _, err := os.Stat(c.absent(r.repo, known, name)); err == nil {
			return "", known, fault.Inputf("%s: %w", r.file(name), errNoFile)
		}
	}
	for n := 1; ; n++ {
		m, err := c.head(ctx, r, name, tries)
		var a *answer
		if errors.Is(err, errNoFile) && errors.As(err, &a) && a.commit != "" {
			c.noteAbsent(r.repo, a.commit, name)
		}
		if err != nil {
			return "", "", err
		}
		at, err = c.take(ctx, r, name, m)
		var corrupt *corruptError
		switch {
		case err == nil:
			return at, m.commit, nil
		case n == 3 && errors.Is(err, errChanged):
			return "", "", fault.Envf("%s: %w, three times; try again later, or name a commit (hf:%s@COMMIT)", r.file(name), err, r.repo)
		case n >= 2 && errors.As(err, &corrupt):
			return "", "", fault.Inputf("%s: %w: the file is damaged at its source or on the way (a proxy, a mirror) and is rejected; try another network or HF_ENDPOINT", r.file(name), err)
		case errors.Is(err, errChanged) || errors.As(err, &corrupt):
			c.Log.Warn("the download starts over", "file", r.file(name), "because", fault.Line(err))
		default:
			return "", "", err
		}
	}
}

// take puts a file into the cache; m is what the hub states of it.
func (c *client) take(ctx context.Context, r ref, name string, m meta) (string, error) {
	pointer := c.pointer(r.repo, m.commit, name)
	// Where there are no links, the file itself lies there.
	if to := blobOf(pointer); (to == m.etag || to == "") && c.intact(ctx, pointer, m.etag) == nil {
		if err := c.remember(r, m.commit); err != nil {
			c.Log.Debug("the cache was not updated", "because", fault.Line(err))
		}
		return pointer, nil
	}
	blob := c.blob(r.repo, m.etag)
	for _, dir := range []string{filepath.Dir(blob), filepath.Dir(pointer)} {
		if err := c.mkdir(dir); err != nil {
			return "", err
		}
	}
	c.tag()
	if err := c.remember(r, m.commit); err != nil {
		return "", err
	}
	unlock, err := c.lock(ctx, r.repo, m.etag)
	if err != nil {
		return "", err
	}
	defer unlock()
	if err := c.intact(ctx, blob, m.etag); err != nil {
		if ctx.Err() != nil { // it was not read to its end
			return "", ctx.Err()
		}
		os.Remove(blob) // damaged
		d := download{client: c, what: r.file(name), label: path.Base(name), at: m.url, part: blob + ".incomplete", size: m.size, etag: m.etag,
			explain: func(err error) error { return c.explain(r, name, err) }}
		if _, err := d.run(ctx, m.etag); err != nil {
			return "", err
		}
		if err := os.Rename(d.part, blob); err != nil {
			return "", fault.Envf("%s: %w", fault.Name(blob), err)
		}
	}
	if err := link(blob, pointer); err != nil {
		return "", fault.Envf("%s: %w", fault.Name(pointer), err)
	}
	return pointer, nil
}

// lock waits until no other process is writing the blob. huggingface_hub takes the
// same lock.
func (c *client) lock(ctx context.Context, repo, etag string) (unlock func(), err error) {
	at := filepath.Join(c.Cache, ".locks", filepath.Base(c.folder(repo)), etag+".lock")
	if err := c.mkdir(filepath.Dir(at)); err != nil {
		return nil, err
	}
	l := flock.New(at, flock.SetPermissions(0o664))
	ok, err := l.TryLock()
	if err == nil && !ok {
		c.Log.Info("waiting for another process that is fetching the same file", "lock", fault.Name(at))
		_, err = l.TryLockContext(ctx, 100*time.Millisecond)
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil { // a file system without locks; the hash reveals damage by two writers
		c.Log.Debug("no lock", "file", fault.Name(at), "because", fault.Line(err))
		return func() {}, nil
	}
	return func() { l.Unlock() }, nil
}

// intact returns nil if the file at path has the hash that etag states.
func (c *client) intact(ctx context.Context, path, etag string) error {
	var got string
	var err error
	switch {
	case isSHA256(etag):
		got, _, err = digest.File(ctx, path, "a file of the cache")
	case isSHA1(etag):
		got, err = gitHash(path)
	default:
		return fmt.Errorf("%s: its hash is not known", fault.Name(path))
	}
	if err != nil {
		return err
	}
	if got != etag {
		return &corruptError{got, etag}
	}
	return nil
}

// gitHash is git's hash of a file's content.
func gitHash(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fault.File(path, "a file of the cache", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return "", err
	}
	h := sha1.New()
	fmt.Fprintf(h, "blob %d\x00", st.Size())
	if _, err := io.Copy(h, f); err != nil {
		return "", fault.File(path, "a file of the cache", err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// download is a file being fetched to part, which a later run continues.
type download struct {
	*client
	what, label string
	at, part    string
	size        int64  // bytes; -1: not stated
	etag        string // as stated by the hub before; empty for another server
	explain     func(error) error

	f        *os.File
	have     int64 // bytes in f
	progress *runlog.Progress
}

// run fetches what is missing and returns the file's SHA-256 or git hash. If that
// does not begin with want, the file is removed.
func (d *download) run(ctx context.Context, want string) (sum string, err error) {
	if d.f, err = os.OpenFile(d.part, os.O_RDWR|os.O_CREATE, 0o666); err != nil {
		return "", fault.Envf("%s: %w; set HF_HUB_CACHE to a writable folder", fault.Name(d.part), err)
	}
	defer d.f.Close()
	if d.have, err = d.f.Seek(0, io.SeekEnd); err != nil {
		return "", fault.Envf("%s: %w", fault.Name(d.part), err)
	}
	if d.size >= 0 && d.have > d.size {
		if err := d.restart(); err != nil {
			return "", err
		}
	}
	defer func() {
		if d.progress != nil {
			d.progress.Done()
		}
	}()
	if err := d.fill(ctx); err != nil {
		return "", err
	}
	if err := d.f.Sync(); err != nil {
		return "", fault.Envf("%s: %w", fault.Name(d.part), err)
	}
	if isSHA1(want) {
		sum, err = gitHash(d.part)
	} else {
		sum, _, err = digest.File(ctx, d.part, "a download")
	}
	if err == nil && !strings.HasPrefix(sum, want) {
		os.Remove(d.part)
		err = &corruptError{sum, want}
	}
	return sum, err
}

// fill fetches the rest, continuing where the connection broke.
func (d *download) fill(ctx context.Context) error {
	pause := retryPause
	for n := 1; d.size < 0 || d.have < d.size; n++ {
		before := d.have
		end, err := d.pull(ctx)
		if end {
			return nil
		}
		var cut *cutError
		if !errors.As(err, &cut) {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if d.have > before {
			n, pause = 1, retryPause
		}
		if n == attempts {
			of := ""
			if d.size >= 0 {
				of = fmt.Sprintf(" of %d", d.size)
			}
			return fault.Envf("%s: the connection broke at byte %d%s, %d times in a row: %w; what has arrived is kept, and the same command continues from there", d.what, d.have, of, n, cut.err)
		}
		d.Log.Warn("the download continues after a break", "file", d.what, "at", d.have, "because", fault.Line(cut.err))
		if err := sleep(ctx, pause); err != nil {
			return err
		}
		pause *= 2
	}
	return nil
}

// cutError reports a body that ended early.
type cutError struct{ err error }

func (e *cutError) Error() string { return e.err.Error() }

// pull sends one request for the rest and writes what arrives. end reports whether
// the file is complete.
func (d *download) pull(ctx context.Context) (end bool, err error) {
	header := http.Header{}
	if d.have > 0 {
		header.Set("Range", fmt.Sprintf("bytes=%d-", d.have))
	}
	changed := false
	other := func(resp *http.Response) bool { // compares with what the hub now says of the file
		m := metaOf(resp)
		changed = changed || d.etag != "" && m.commit != "" && m.etag != d.etag
		return changed
	}
	resp, err := d.request(ctx, http.MethodGet, d.at, header, attempts, other)
	var a *answer
	if errors.As(err, &a) && a.status == http.StatusRequestedRangeNotSatisfiable {
		if d.size < 0 {
			return true, nil // it is complete; the hash will tell
		}
		return false, errors.Join(errChanged, d.restart())
	}
	if err != nil {
		return false, d.explain(err)
	}
	defer resp.Body.Close()
	if changed || other(resp) {
		return false, errChanged
	}
	if err := d.place(resp); err != nil {
		return false, err
	}
	if d.progress == nil {
		d.progress = d.display(d.label, max(0, d.size), "B")
		d.progress.Add(d.have)
	}
	body := io.Reader(resp.Body)
	if d.size >= 0 {
		body = io.LimitReader(body, d.size-d.have+1)
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{d}, struct{ io.Reader }{body}, make([]byte, 1<<20))
	var disk *writeError
	switch {
	case errors.As(err, &disk):
		return false, fault.Envf("%s: %w; free some space, or set HF_HUB_CACHE to another folder; what has arrived is kept", fault.Name(d.part), disk.err)
	case err != nil:
		return false, &cutError{err}
	case d.size >= 0 && d.have > d.size:
		return false, errors.Join(errChanged, d.restart())
	case d.size >= 0 && d.have < d.size:
		return false, &cutError{io.ErrUnexpectedEOF}
	}
	return true, nil
}

// place prepares for the body of an answer: the rest, or the file from its first
// byte if the server does not send parts.
func (d *download) place(resp *http.Response) error {
	if resp.StatusCode != http.StatusPartialContent {
		if resp.StatusCode != http.StatusOK {
			return fault.Envf("%s: %s answers %s; check HF_ENDPOINT and the proxy", d.what, resp.Request.URL.Host, fault.Name(resp.Status))
		}
		if d.size < 0 {
			d.size = resp.ContentLength
		} else if n := resp.ContentLength; n >= 0 && n != d.size { // what has arrived is kept
			return fault.Envf("%s: %s sends %d bytes instead of the file's %d, such as the page of a proxy; check HF_ENDPOINT, the proxy and the firewall", d.what, resp.Request.URL.Host, n, d.size)
		}
		if d.have > 0 {
			return d.restart()
		}
		return nil
	}
	from, total := contentRange(resp.Header.Get("Content-Range"))
	if from != d.have || d.size >= 0 && total >= 0 && total != d.size {
		return errors.Join(errChanged, d.restart())
	}
	if d.size < 0 {
		d.size = total
	}
	return nil
}

// contentRange reads "bytes 5-9/10"; -1 for what it does not say.
func contentRange(s string) (from, total int64) {
	span, all, _ := strings.Cut(strings.TrimPrefix(s, "bytes "), "/")
	first, _, _ := strings.Cut(span, "-")
	number := func(s string) int64 {
		if n, err := strconv.ParseInt(s, 10, 64); err == nil && n >= 0 {
			return n
		}
		return -1
	}
	return number(first), number(all)
}

// restart discards what has arrived.
func (d *download) restart() error {
	if d.progress != nil {
		d.progress.Add(-d.have)
	}
	d.have = 0
	err := d.f.Truncate(0)
	if err == nil {
		_, err = d.f.Seek(0, io.SeekStart)
	}
	return fault.As(fault.Environment, err)
}

// Write appends to the file.
func (d *download) Write(b []byte) (int, error) {
	n, err := d.f.Write(b)
	d.have += int64(n)
	d.progress.Add(int64(n))
	if err != nil {
		err = &writeError{err}
	}
	return n, err
}

// writeError is an error of the disk, not of the network.
type writeError struct{ err error }

func (e *writeError) Error() string { return e.err.Error() }
