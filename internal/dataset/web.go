package dataset

import (
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

// webStore is files on web servers that send parts of them. Names are their
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

// webError is an answer other than the one asked for.
type webError struct {
	status int
	text   string
}

func (e *webError) Error() string { return e.text }

// errEmpty is a file without bytes, of which there are no parts.
var errEmpty = errors.New("is empty")

// get asks for some bytes of a file. The body is that part of it, and size that
// of the whole file.
func (s webStore) get(ctx context.Context, name string, off, n int64, etag string) (res *http.Response, size int64, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, name, nil)
	if err != nil {
		return nil, 0, fault.Usagef("%s: not a web address", fault.Name(name))
	}
	req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", off, off+n-1))
	req.Header.Set("User-Agent", "evatool")
	if strings.HasPrefix(etag, `"`) {
		req.Header.Set("If-Match", etag)
	}
	res, err = s.client.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, 0, ctx.Err()
		}
		var asked *url.Error // says the address again, with its secrets
		if errors.As(err, &asked) {
			err = asked.Err
		}
		return nil, 0, &cutError{err: err, unanswered: true}
	}
	body := res.Body // res is nil where an error is returned
	defer func() {
		if err != nil {
			body.Close()
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
			return nil, 0, fault.Inputf("%s: the server sent %s instead of %d bytes from offset %d; copy the files to a server that sends ranges", shown, fault.Name(strconv.Quote(res.Header.Get("Content-Range"))), n, off)
		}
		return res, size, nil
	case http.StatusOK:
		return nil, 0, fault.Inputf("%s: the server does not send parts of a file (no answer to Range); copy the files to one that does, or to a disk", shown)
	case http.StatusRequestedRangeNotSatisfiable:
		if sizeErr == nil && size == 0 {
			return nil, 0, errEmpty
		}
		return nil, 0, fault.Inputf("%s: ends before offset %d; it has changed since the run started", shown, off+n)
	case http.StatusNotFound, http.StatusGone:
		return nil, 0, fmt.Errorf("%s: %w", shown, fs.ErrNotExist)
	case http.StatusUnauthorized, http.StatusForbidden:
		return nil, 0, fault.Because(fault.Environment, fs.ErrPermission, "%s: access denied (%d)", shown, res.StatusCode)
	case http.StatusPreconditionFailed:
		return nil, 0, fault.Inputf("%s: has changed while it was read; start again", shown)
	}
	return nil, 0, fault.Because(fault.Environment, &webError{res.StatusCode, http.StatusText(res.StatusCode)}, "%s: the server answers %d %s", shown, res.StatusCode, http.StatusText(res.StatusCode))
}

// stat asks for the first byte: the answer has the size, and shows that the
// server sends parts.
func (s webStore) stat(ctx context.Context, name string) (size int64, dir bool, err error) {
	err = patiently(ctx, func() error {
		var res *http.Response
		res, size, err = s.get(ctx, name, 0, 1, "")
		var cut *cutError
		switch {
		case err == nil:
			res.Body.Close()
		case errors.Is(err, errEmpty):
			err = nil
		case errors.As(err, &cut):
			err = fault.Envf("%s: %w", address(name), cut)
		}
		return err
	})
	return size, false, err
}

func (s webStore) read(ctx context.Context, name string, off, n int64) ([]byte, error) {
	return readPatiently(ctx, address(name), off, n, func(off int64, buf []byte, etag string) (int64, string, error) {
		res, _, err := s.get(ctx, name, off, int64(len(buf)), etag)
		if err != nil {
			return 0, etag, err
		}
		defer res.Body.Close()
		got, err := io.ReadFull(res.Body, buf)
		if err != nil && ctx.Err() != nil {
			return int64(got), etag, ctx.Err()
		}
		if err != nil {
			err = &cutError{err: err}
		}
		return int64(got), res.Header.Get("ETag"), err
	})
}
