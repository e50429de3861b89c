package dataset

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"

	"github.com/evatool/evatool/internal/fault"
)

// webStore is files on web servers that serve ranges. Names are their
// addresses.
type webStore struct{ client *http.Client }

func openWeb() (storage, error) {
	transport, err := impatient(true)
	if err != nil {
		return nil, fault.Envf("https: %w", err)
	}
	return webStore{&http.Client{Transport: transport}}, nil
}

// join keeps a query with the file that it belongs to.
func (webStore) join(dir, name string) string {
	if schemeOf(name) != "" {
		return name
	}
	scheme := schemeOf(dir)
	host, folder, _ := strings.Cut(strings.TrimPrefix(plainName(dir), scheme), "/")
	return scheme + host + path.Join("/", folder, name)
}

func (s webStore) dir(name string) string { return s.join(name, "..") }

func (webStore) window() int64 { return 4 << 20 }

func (webStore) list(_ context.Context, dir string) ([]file, error) {
	return nil, fault.Inputf("%s: a web server does not list a folder; name the files, such as x-{000..012}.tar", address(dir))
}

func (webStore) glob(_ context.Context, pattern string) ([]string, error) {
	return nil, fault.Inputf("%s: a web server does not list files; name them, such as x-{000..012}.tar", address(pattern))
}

// address is a name for messages, without what may be secret in it.
func address(name string) string {
	if u, err := url.Parse(plainName(name)); err == nil {
		name = u.Redacted()
	}
	return fault.Name(plainName(name))
}

// webError is an answer other than the expected one.
type webError struct {
	status int
	text   string
}

func (e *webError) Error() string { return e.text }

// errEmpty is a file without bytes, which has no ranges.
var errEmpty = errors.New("is empty")

// webPart is a part of a file as a server sends it.
type webPart struct {
	io.ReadCloser
	size  int64 // of the whole file
	stamp string
}

// get asks for some bytes of a file that has the stamp, any when it is empty.
func (s webStore) get(ctx context.Context, name string, off, n int64, stamp string) (_ *webPart, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, name, nil)
	if err != nil {
		return nil, fault.Usagef("%s: not a web address", fault.Name(name))
	}
	req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", off, off+n-1))
	req.Header.Set("User-Agent", "evatool")
	if strings.HasPrefix(stamp, `"`) {
		req.Header.Set("If-Match", stamp[:strings.LastIndexByte(stamp, '"')+1])
	}
	res, err := s.client.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		var asked *url.Error // repeats the address, with its secrets
		if errors.As(err, &asked) {
			err = asked.Err
		}
		return nil, &cutError{err: err, unanswered: true}
	}
	defer func() {
		if err != nil {
			res.Body.Close()
		}
	}()
	total := res.Header.Get("Content-Range")
	total = total[strings.LastIndexByte(total, '/')+1:]
	size, sizeErr := strconv.ParseInt(total, 10, 64)
	shown := address(name)
	switch res.StatusCode {
	case http.StatusPartialContent:
		first := int64(-1)
		if _, err := fmt.Sscanf(res.Header.Get("Content-Range"), "bytes %d-", &first); err != nil || first != off || sizeErr != nil || size < 0 {
			return nil, fault.Inputf("%s: the server sent %s instead of %d bytes from offset %d; copy the files to a server that supports ranges", shown, fault.Name(strconv.Quote(res.Header.Get("Content-Range"))), n, off)
		}
		now := webStamp(res.Header, size)
		if stamp != "" && now != stamp { // not every server honours the condition
			return nil, changed(shown)
		}
		return &webPart{res.Body, size, now}, nil
	case http.StatusOK:
		return nil, fault.Inputf("%s: the server does not send parts of a file (it ignores Range); copy the files to one that does, or to a disk", shown)
	case http.StatusRequestedRangeNotSatisfiable:
		if sizeErr == nil && size == 0 {
			return nil, errEmpty
		}
		return nil, fault.Inputf("%s: ends before offset %d; %w", shown, off+n, errChanged)
	case http.StatusNotFound, http.StatusGone:
		return nil, fmt.Errorf("%s: %w", shown, fs.ErrNotExist)
	case http.StatusUnauthorized, http.StatusForbidden:
		return nil, fault.Because(fault.Environment, fs.ErrPermission, "%s: access denied (%d)", shown, res.StatusCode)
	case http.StatusPreconditionFailed:
		return nil, changed(shown)
	}
	return nil, fault.Because(fault.Environment, &webError{res.StatusCode, http.StatusText(res.StatusCode)}, "%s: the server answers %d %s", shown, res.StatusCode, http.StatusText(res.StatusCode))
}

// webStamp changes when a file does: it is the server's ETag, or else the time
// of its last change, with its size.
func webStamp(h http.Header, size int64) string {
	return fmt.Sprintf("%s %d", cmp.Or(h.Get("ETag"), h.Get("Last-Modified")), size)
}

// stat asks for the first byte: the answer has the size, and shows whether the
// server sends parts.
func (s webStore) stat(ctx context.Context, name string) (size int64, dir bool, err error) {
	size, dir, _, err = s.stamped(ctx, name)
	return size, dir, err
}

func (s webStore) stamped(ctx context.Context, name string) (size int64, dir bool, stamp string, err error) {
	err = patiently(ctx, func() error {
		first, err := s.get(ctx, name, 0, 1, "")
		var cut *cutError
		switch {
		case err == nil:
			size, stamp = first.size, first.stamp
			first.Close()
		case errors.Is(err, errEmpty):
			err = nil
		case errors.As(err, &cut):
			err = fault.Envf("%s: %w", address(name), cut)
		}
		return err
	})
	return size, false, stamp, err
}

func (s webStore) read(ctx context.Context, name string, off, n int64) ([]byte, error) {
	return s.readOf(ctx, name, "", off, n)
}

func (s webStore) readOf(ctx context.Context, name, stamp string, off, n int64) ([]byte, error) {
	return readPatiently(ctx, address(name), stamp, off, n, func(off int64, buf []byte, stamp string) (int64, string, error) {
		p, err := s.get(ctx, name, off, int64(len(buf)), stamp)
		if err != nil {
			return 0, stamp, err
		}
		defer p.Close()
		got, err := io.ReadFull(p, buf)
		if err != nil && ctx.Err() != nil {
			return int64(got), p.stamp, ctx.Err()
		}
		if err != nil {
			err = &cutError{err: err}
		}
		return int64(got), p.stamp, err
	})
}
