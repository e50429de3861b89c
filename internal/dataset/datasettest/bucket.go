// Package datasettest has storage for tests of data sets.
package datasettest

import (
	"encoding/xml"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Bucket speaks the part of S3 that reading needs, over a folder: the bucket
// "data" is Dir.
type Bucket struct {
	Dir     string
	Cut     atomic.Int32           // the next n bodies break off
	Stall   atomic.Int32           // the next n bodies stall after half of what was asked for
	Mute    atomic.Int32           // the next n requests get no answer
	Drip    atomic.Int32           // the next n bodies come in ten pieces, 40 ms apart
	Busy    atomic.Int32           // the next n requests are told to slow down
	Gets    atomic.Int32           // bodies sent
	Tags    atomic.Int32           // objects change after n bodies, when it is not 0
	Refusal atomic.Pointer[string] // code with which everything is refused, as a bad request or as not there
	Faults  atomic.Int32           // one more than requests that Trouble made go wrong; 0 ends it
	asked   sync.Map

	Untagged atomic.Bool // no ETag is sent, none is heeded
	Whole    atomic.Bool // objects are sent whole, whatever part is asked for
}

type listResult struct {
	XMLName     xml.Name `xml:"ListBucketResult"`
	Name        string
	Prefix      string
	KeyCount    int
	MaxKeys     int
	IsTruncated bool
	Token       string `xml:"NextContinuationToken,omitempty"`
	Contents    []object
}

type object struct {
	Key          string
	Size         int64
	ETag         string
	LastModified string
}

// ServeHTTP answers GET, HEAD and lists; the only key is "reader".
func (s *Bucket) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	fail := func(status int, code string) {
		w.WriteHeader(status)
		fmt.Fprintf(w, `<Error><Code>%s</Code><Message>%s</Message></Error>`, code, code)
	}
	if s.Faults.Load() > 0 {
		if _, again := s.asked.LoadOrStore(r.Method+r.URL.String()+r.Header.Get("Range"), true); !again {
			switch s.Faults.Add(1) % 4 {
			case 0:
				fail(http.StatusServiceUnavailable, "SlowDown")
				return
			case 1:
				panic(http.ErrAbortHandler) // no answer
			case 2:
				w = &cutter{w, 1000}
			case 3:
				w = &cutter{&dripper{w}, 20000}
			}
		}
	}
	if s.Mute.Add(-1) >= 0 {
		<-r.Context().Done()
		return
	}
	if s.Busy.Add(-1) >= 0 {
		fail(http.StatusServiceUnavailable, "SlowDown")
		return
	}
	if code := s.Refusal.Load(); code != nil {
		status := http.StatusBadRequest
		if strings.HasSuffix(*code, "NotFound") {
			status = http.StatusNotFound
		}
		fail(status, *code)
		return
	}
	if !strings.HasPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 Credential=reader/") {
		fail(http.StatusForbidden, "AccessDenied")
		return
	}
	bucket, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	query := r.URL.Query()
	switch {
	case query.Has("location"):
		fmt.Fprint(w, `<LocationConstraint></LocationConstraint>`)
	case bucket != "data":
		fail(http.StatusNotFound, "NoSuchBucket")
	case query.Get("list-type") == "2":
		s.list(w, query.Get("prefix"), query.Get("continuation-token"))
	default:
		file := filepath.Join(s.Dir, filepath.FromSlash(key))
		st, err := os.Stat(file)
		data, readErr := os.ReadFile(file)
		if err != nil || readErr != nil {
			fail(http.StatusNotFound, "NoSuchKey")
			return
		}
		tag := st.ModTime().UnixNano()
		if s.Tags.Load() > 0 && s.Tags.Add(-1) == 0 {
			tag++
		}
		if w.Header().Set("ETag", fmt.Sprintf(`"%x"`, tag)); s.Untagged.Load() {
			w.Header().Del("ETag")
			r.Header.Del("If-Match")
		}
		if s.Whole.Load() {
			r.Header.Del("Range")
		}
		w.Header().Set("Last-Modified", st.ModTime().UTC().Format(http.TimeFormat))
		if r.Method == http.MethodGet && s.Cut.Add(-1) >= 0 {
			w = &cutter{w, 1}
		} else if r.Method == http.MethodGet {
			s.Gets.Add(1)
			if s.Stall.Add(-1) >= 0 {
				w = &staller{ResponseWriter: w, stop: r.Context().Done()}
			} else if s.Drip.Add(-1) >= 0 {
				w = &dripper{w}
			}
		}
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(string(data)))
	}
}

// cutter breaks the connection after some bytes of a body.
type cutter struct {
	http.ResponseWriter
	left int
}

func (c *cutter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p[:min(len(p), c.left)])
	if c.left -= n; c.left == 0 && err == nil {
		c.Flush()
		panic(http.ErrAbortHandler)
	}
	return n, err
}

func (c *cutter) Flush() { c.ResponseWriter.(http.Flusher).Flush() }

// staller sends half of a body and then nothing.
type staller struct {
	http.ResponseWriter
	stop <-chan struct{}
}

func (s *staller) Write(p []byte) (int, error) {
	n, err := s.ResponseWriter.Write(p[:len(p)/2])
	s.ResponseWriter.(http.Flusher).Flush()
	<-s.stop
	return n, err
}

// dripper sends a body slowly.
type dripper struct{ http.ResponseWriter }

func (d *dripper) Flush() { d.ResponseWriter.(http.Flusher).Flush() }

func (d *dripper) Write(p []byte) (n int, err error) {
	for part := range slices.Chunk(p, len(p)/10+1) {
		time.Sleep(40 * time.Millisecond)
		m, err := d.ResponseWriter.Write(part)
		d.ResponseWriter.(http.Flusher).Flush()
		if n += m; err != nil {
			return n, err
		}
	}
	return n, nil
}

// list answers in pages of two, so that paging is seen to work.
func (s *Bucket) list(w http.ResponseWriter, prefix, after string) {
	res := listResult{Name: "data", Prefix: prefix, MaxKeys: 2}
	filepath.WalkDir(s.Dir, func(name string, d fs.DirEntry, err error) error {
		key, _ := filepath.Rel(s.Dir, name)
		key = filepath.ToSlash(key)
		if err != nil || d.IsDir() || !strings.HasPrefix(key, prefix) || key <= after {
			return err
		}
		if len(res.Contents) == res.MaxKeys {
			res.IsTruncated, res.Token = true, res.Contents[1].Key
			return fs.SkipAll
		}
		st, err := d.Info()
		res.Contents = append(res.Contents, object{key, st.Size(), `"0"`, "2006-01-02T15:04:05Z"})
		return err
	})
	res.KeyCount = len(res.Contents)
	out, err := xml.Marshal(res)
	if err != nil {
		panic(err)
	}
	w.Write(out)
}

// Trouble makes what is asked for the first time from now on go wrong: the
// server is busy, gives no answer, breaks off, is slow and breaks off.
func (s *Bucket) Trouble() {
	s.asked.Clear()
	s.Faults.Store(1)
}

// Web answers as a web server without lists and accounts does: the files of Dir
// by their names.
func (s *Bucket) Web() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.URL.Path, r.URL.RawQuery = "/data"+r.URL.Path, ""
		r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=reader/")
		s.ServeHTTP(w, r)
	})
}

// StartBucket starts a server for the test and points the environment at it.
func StartBucket(t *testing.T) *Bucket {
	t.Helper()
	s := &Bucket{Dir: t.TempDir()}
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	t.Setenv("AWS_ENDPOINT_URL_S3", srv.URL)
	t.Setenv("AWS_ACCESS_KEY_ID", "reader")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	return s
}
