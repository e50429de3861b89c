package dataset

import (
	"context"
	"encoding/xml"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/evatool/evatool/internal/fault"
)

// bucketServer speaks the part of S3 that reading needs, over a folder: the
// bucket "data" is dir. cut makes the next n bodies break off.
type bucketServer struct {
	dir      string
	cut      atomic.Int32
	requests atomic.Int32
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

func (s *bucketServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.requests.Add(1)
	fail := func(status int, code string) {
		w.WriteHeader(status)
		fmt.Fprintf(w, `<Error><Code>%s</Code><Message>%s</Message></Error>`, code, code)
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
		data, err := os.ReadFile(filepath.Join(s.dir, filepath.FromSlash(key)))
		if err != nil {
			fail(http.StatusNotFound, "NoSuchKey")
			return
		}
		w.Header().Set("ETag", `"0"`)
		w.Header().Set("Last-Modified", "Mon, 02 Jan 2006 15:04:05 GMT")
		if r.Method == http.MethodGet && s.cut.Add(-1) >= 0 {
			w.Header().Set("Content-Length", "100000")
			w.WriteHeader(http.StatusPartialContent)
			w.Write(data[:1])
			return
		}
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(string(data)))
	}
}

// list answers in pages of two, so that paging is seen to work.
func (s *bucketServer) list(w http.ResponseWriter, prefix, after string) {
	res := listResult{Name: "data", Prefix: prefix, MaxKeys: 2}
	filepath.WalkDir(s.dir, func(name string, d fs.DirEntry, err error) error {
		key, _ := filepath.Rel(s.dir, name)
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

func startBucket(t *testing.T) *bucketServer {
	t.Helper()
	s := &bucketServer{dir: t.TempDir()}
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	t.Setenv("AWS_ENDPOINT_URL_S3", srv.URL)
	t.Setenv("AWS_ACCESS_KEY_ID", "reader")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	return s
}

func TestConformanceS3(t *testing.T) {
	s := startBucket(t)
	for i, l := range layouts {
		t.Run(l.name, func(t *testing.T) {
			dir := filepath.Join(s.dir, fmt.Sprint(i), "deep")
			src := l.write(t, dir)
			conform(t, strings.ReplaceAll(src, s.dir, s3Scheme+"data"), l.options, l.labels, l.captions)
		})
	}
}

func TestS3Errors(t *testing.T) {
	s := startBucket(t)
	writeTar(t, filepath.Join(s.dir, "x-0.tar"), []entry{{"a.jpg", "image"}})
	write(t, filepath.Join(s.dir, "t.csv"), "path,label\nmissing.jpg,1\nx-0.tar,0\n")
	tests := []struct {
		src  string
		want string
		kind fault.Kind
	}{
		{"s3://data/none.tar", "no such file", fault.Input},
		{"s3://data/x-{0..1}.tar", "x-1.tar: no such file", fault.Input},
		{"s3://other/x.tar", "no such bucket", fault.Input},
		{"s3://data/y-*.tar", "no file matches", fault.Input},
	}
	for _, tt := range tests {
		_, err := Open(context.Background(), tt.src, Options{})
		if err == nil || !strings.Contains(err.Error(), tt.want) || fault.Code(err) != int(tt.kind) {
			t.Errorf("Open(%s): %v, status %d; want %q, status %d", tt.src, err, fault.Code(err), tt.want, tt.kind)
		}
	}
	d, err := Open(context.Background(), "s3://data/t.csv", Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Read(0); err == nil || !strings.Contains(err.Error(), "missing.jpg: no such file") {
		t.Errorf("missing image: %v", err)
	}
	s.cut.Store(2) // two broken connections are got over
	if ex, err := d.Read(1); err != nil || len(ex.Image) == 0 {
		t.Errorf("after broken connections: %v", err)
	}
	s.cut.Store(100)
	if _, err := d.Read(1); err == nil || !strings.Contains(err.Error(), "connection broke") || fault.Code(err) != int(fault.Environment) {
		t.Errorf("broken connection: %v, status %d", err, fault.Code(err))
	}
	s.cut.Store(0)
	t.Setenv("AWS_ACCESS_KEY_ID", "stranger")
	if _, err := Open(context.Background(), "s3://data/x-0.tar", Options{}); err == nil || fault.Code(err) != int(fault.Environment) || !strings.Contains(err.Error(), "access denied") {
		t.Errorf("stranger: %v", err)
	}
	t.Setenv("AWS_ENDPOINT_URL_S3", "no host")
	if _, err := Open(context.Background(), "s3://data/x-0.tar", Options{}); fault.Code(err) != int(fault.Usage) {
		t.Errorf("bad endpoint: %v", err)
	}
}
