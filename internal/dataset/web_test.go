package dataset

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/evatool/evatool/internal/dataset/datasettest"
	"github.com/evatool/evatool/internal/fault"
)

// startWeb serves the files of a bucket without accounts.
func startWeb(t *testing.T, s *datasettest.Bucket) (address string) {
	srv := httptest.NewServer(s.Web())
	t.Cleanup(srv.Close)
	return srv.URL
}

// TestStreamsOverNetworks: what a disk gives comes the same, in the same order,
// over S3, Google's storage and the web, from servers that are busy, slow, and
// break connections.
func TestStreamsOverNetworks(t *testing.T) {
	shorter(t, time.Minute, time.Millisecond)
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	s := datasettest.StartBucket(t)
	m := newMade(30000, 300, 100, 0, 50, 290) // several parts a tar
	for i := range m.tars {
		name := fmt.Sprintf("%05d.tar", i)
		data, err := m.tar(name)
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(s.Dir, "set", name), string(data))
	}
	const lanes = 2
	all := func(src string) (out [][32]byte) {
		t.Helper()
		p, err := OpenPlan(t.Context(), src+"/set/{00000..00004}.tar", Options{})
		if err != nil {
			t.Fatal(err)
		}
		if want := []int64{300, 100, 0, 50, 290}; !slices.Equal(p.counted(), want) {
			t.Fatalf("%s: %v samples, want %v", src, p.counted(), want)
		}
		for lane := range lanes {
			l := p.Lane(5, lane, lanes)
			r := p.Read(t.Context(), l, 0, LaneOptions{})
			defer r.Close()
			for range l.Len() {
				s, err := r.Next(t.Context())
				if err != nil || s.Err != nil {
					t.Fatal(src, err, s)
				}
				out = append(out, sha256.Sum256(fmt.Append(s.Example.Image, s.Example.Key, s.Example.Captions)))
			}
		}
		return out
	}
	want := all(s.Dir)
	web := startWeb(t, s)
	for _, faults := range []bool{false, true} {
		for _, src := range []string{s3Scheme + "data", web, gsScheme + "data"} {
			if s.Faults.Store(0); faults {
				s.Trouble()
			}
			start := time.Now()
			if got := all(src); !slices.Equal(got, want) {
				t.Errorf("%s, faults %v: other samples, or in another order", src, faults)
			}
			if t.Logf("%s: %s, %d faults", src, time.Since(start).Round(time.Millisecond), max(0, s.Faults.Load()-1)); faults && s.Faults.Load() < 20 {
				t.Errorf("%s: only %d requests went wrong", src, s.Faults.Load())
			}
		}
	}
}

// TestChangedInTheMiddle: the parts of a tar are those of one file, whatever
// says that it is another one.
func TestChangedInTheMiddle(t *testing.T) {
	shorter(t, time.Minute, time.Millisecond)
	s := datasettest.StartBucket(t)
	file := filepath.Join(s.Dir, "x.tar")
	web := startWeb(t, s)
	for name, src := range map[string]string{"disk": file, "S3": "s3://data/x.tar", "web": web + "/x.tar", "web without ETag": web + "/x.tar"} {
		t.Run(name, func(t *testing.T) {
			s.Untagged.Store(name == "web without ETag")
			defer s.Untagged.Store(false)
			write(t, file, strings.Repeat("a", partSize+1))
			st, err := storageFor(t.Context(), src)
			if err != nil {
				t.Fatal(err)
			}
			reads := make(chan struct{}, maxReads)
			whole, err := openStream(t.Context(), st, src, 0, reads)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(whole); err != nil || len(got) != partSize+1 {
				t.Errorf("unchanged: %d bytes, %v", len(got), err)
			}
			half, err := openStream(t.Context(), st, src, partSize, reads)
			if err != nil {
				t.Fatal(err)
			}
			write(t, file, strings.Repeat("b", partSize+1))
			if err := os.Chtimes(file, time.Time{}, time.Now().Add(-time.Hour)); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(half); err == nil || !strings.Contains(err.Error(), "x.tar: changed while it was being read") || fault.Code(err) != 3 {
				t.Errorf("changed: %q, %v", got, err)
			}
		})
	}
}

// TestRemoteWalk: many tars of a web server are counted only when that is asked
// for, and the bytes are logged.
func TestRemoteWalk(t *testing.T) {
	shorter(t, time.Minute, time.Millisecond)
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	data := mustTar(t, newMade(0, 2))
	var bytes, stats atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, ".tar") || strings.Contains(r.URL.Path, "{") {
			http.NotFound(w, r)
			return
		}
		if stats.Add(1); r.Header.Get("Range") != "bytes=0-0" {
			bytes.Add(int64(len(data)))
		}
		http.ServeContent(w, r, "", time.Unix(1, 0), strings.NewReader(string(data)))
	}))
	defer srv.Close()
	var log strings.Builder
	o := Options{Log: slog.New(slog.NewTextHandler(&log, nil))}
	few := srv.URL + "/{0000..0999}.tar"
	p, err := OpenPlan(t.Context(), few, o)
	if err != nil || p.Len() != 2000 || bytes.Load() != 1000*int64(len(data)) {
		t.Fatalf("a thousand: %v, %d bytes, %d samples", err, bytes.Load(), p.Len())
	}
	if want := fmt.Sprintf(`tars=1000 about="%.4g GB"`, float64(1000*len(data))/1e9); !strings.Contains(log.String(), want) {
		t.Errorf("the log says %s; want %s", log.String(), want)
	}
	bytes.Store(0)
	stats.Store(0)
	_, err = OpenPlan(t.Context(), srv.URL+"/more/{0000..1000}.tar", o)
	want := fmt.Sprintf("counting them reads through about %.4g GB; put a sizes.json", float64(1001*len(data))/1e9)
	if err == nil || !errors.Is(err, ErrUncounted) || !strings.Contains(err.Error(), "these 1001 tars") || !strings.Contains(err.Error(), want) || fault.Code(err) != 3 || bytes.Load() > 0 || stats.Load() > maxReads {
		t.Errorf("more: %v after %d requests and %d bytes; want %s", err, stats.Load(), bytes.Load(), want)
	}
	o.CountHeaders = true
	if p, err = OpenPlan(t.Context(), srv.URL+"/more/{0000..1000}.tar", o); err != nil || p.Len() != 2002 {
		t.Error(err)
	}
	bytes.Store(0)
	if p, err = OpenPlan(t.Context(), srv.URL+"/more/{0000..1000}.tar", Options{}); err != nil || p.Len() != 2002 || bytes.Load() > 0 {
		t.Errorf("kept: %v, %d bytes read again", err, bytes.Load())
	}
}

// TestWebAnswers: what a server may answer, and what it means.
func TestWebAnswers(t *testing.T) {
	shorter(t, 200*time.Millisecond, time.Millisecond)
	const file = "0123456789"
	ranged := func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(file))
	}
	status := func(n int, head ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			for i := 0; i < len(head); i += 2 {
				w.Header().Set(head[i], head[i+1])
			}
			w.WriteHeader(n)
			fmt.Fprint(w, file[:1])
		}
	}
	var n atomic.Int32 // of the request
	first := func(k int32, bad http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if n.Add(1) <= k {
				bad(w, r)
				return
			}
			ranged(w, r)
		}
	}
	tag := func(w http.ResponseWriter, r *http.Request) { // another file at every request, and only a part of what is asked for
		w.Header().Set("ETag", fmt.Sprintf(`"%d"`, n.Add(1)))
		if match := r.Header.Get("If-Match"); match != "" {
			w.WriteHeader(http.StatusPreconditionFailed)
			return
		}
		w.Header().Set("Content-Range", "bytes 2-4/10")
		w.WriteHeader(http.StatusPartialContent)
		fmt.Fprint(w, "234")
	}
	for name, c := range map[string]struct {
		answer     http.HandlerFunc
		stat, read string // of the error; empty: the file
		code       fault.Kind
	}{
		"a range":              {answer: ranged},
		"busy":                 {answer: first(2, status(503))},
		"too many requests":    {answer: first(2, status(429))},
		"broken":               {answer: first(2, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })},
		"elsewhere":            {answer: first(1, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/there.tar?x=1", http.StatusFound) })},
		"in a circle":          {status(302, "Location", "/x.tar"), "no answer (stopped after 10 redirects)", "no answer (stopped after 10 redirects)", fault.Environment},
		"no ranges":            {status(200), "does not send parts of a file", "does not send parts of a file", fault.Input},
		"nothing":              {status(204), "answers 204 No Content", "answers 204 No Content", fault.Environment},
		"not there":            {status(404), "x.tar: file does not exist", "x.tar: file does not exist", fault.Input},
		"gone":                 {status(410), "x.tar: file does not exist", "x.tar: file does not exist", fault.Input},
		"who are you":          {status(401), "access denied (401)", "access denied (401)", fault.Environment},
		"not for you":          {status(403), "access denied (403)", "access denied (403)", fault.Environment},
		"always busy":          {status(503), "answers 503 Service Unavailable", "answers 503 Service Unavailable", fault.Environment},
		"a fault":              {status(500), "answers 500 Internal Server Error", "answers 500 Internal Server Error", fault.Environment},
		"not a status":         {status(599), "answers 599", "answers 599", fault.Environment},
		"too far":              {status(416, "Content-Range", "bytes */5"), "ends before offset 1", "ends before offset 9", fault.Input},
		"another range":        {status(206, "Content-Range", "bytes 7-9/10"), `sent "bytes 7-9/10" instead of 1 bytes from offset 0`, `sent "bytes 7-9/10" instead of 7 bytes from offset 2`, fault.Input},
		"no range said":        {status(206), `sent "" instead of 1 bytes`, `sent "" instead of 7 bytes`, fault.Input},
		"a size that is none":  {status(206, "Content-Range", "bytes 0-0/*"), `instead of 1 bytes`, `instead of 7 bytes`, fault.Input},
		"a size below nothing": {status(206, "Content-Range", "bytes 0-0/-3"), `instead of 1 bytes`, `instead of 7 bytes`, fault.Input},
		"a huge head":          {status(206, "Content-Range", "bytes 0-0/"+strings.Repeat("9", 400)), `instead of 1 bytes`, `instead of 7 bytes`, fault.Input},
		"escapes":              {status(206, "Content-Range", "bytes \x1b[2J/7"), "no answer", "no answer", fault.Environment},
		"a short body": {answer: first(1, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Range", "bytes 2-8/10")
			w.Header().Set("Content-Length", "7")
			w.WriteHeader(206)
			fmt.Fprint(w, file[2:3])
		})},
		"other files": {tag, `sent "bytes 2-4/10"`, "changed while it was being read", fault.Input},
		"silence":     {func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, "no data for 200ms", "no data for 200ms", fault.Environment},
		"silence after a while": {func(w http.ResponseWriter, r *http.Request) {
			from := 0
			fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from)
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-8/10", from))
			w.Header().Set("Content-Length", fmt.Sprint(9-from))
			w.WriteHeader(206)
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}, "", "no data for 200ms at offset 2", fault.Environment},
	} {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewServer(http.HandlerFunc(c.answer))
			defer srv.Close()
			st, err := openWeb()
			if err != nil {
				t.Fatal(err)
			}
			address := strings.Replace(srv.URL, "//", "//me:secret@", 1) + "/x.tar?key=secret"
			check := func(what string, err error, want string) {
				t.Helper()
				switch {
				case err == nil && want == "":
				case err == nil || want == "" || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "/x.tar"):
					t.Errorf("%s: %v; want %q", what, err, want)
				case strings.Contains(err.Error(), "secret") || strings.ContainsAny(err.Error(), "\n\x1b"):
					t.Errorf("%s shows too much: %q", what, err)
				default:
					if code := fault.Code(explain(address, "a tar", err)); code != int(c.code) {
						t.Errorf("%s: %v has status %d", what, err, code)
					}
				}
			}
			if n.Store(0); name != "a short body" {
				size, _, err := st.stat(t.Context(), address)
				if check("stat", err, c.stat); err == nil && size != int64(len(file)) {
					t.Errorf("stat: %d bytes", size)
				}
			}
			n.Store(0)
			data, err := st.read(t.Context(), address, 2, 7)
			if check("read", err, c.read); err == nil && string(data) != file[2:9] {
				t.Errorf("read: %q", data)
			}
		})
	}
	t.Run("empty", func(t *testing.T) {
		srv := httptest.NewServer(status(416, "Content-Range", "bytes */0"))
		defer srv.Close()
		st, err := openWeb()
		if err != nil {
			t.Fatal(err)
		}
		if size, _, err := st.stat(t.Context(), srv.URL+"/x.tar"); size != 0 || err != nil {
			t.Error(size, err)
		}
	})
}
