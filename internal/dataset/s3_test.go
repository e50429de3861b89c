package dataset

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/evatool/evatool/internal/dataset/datasettest"
	"github.com/evatool/evatool/internal/fault"
)

func TestConformanceS3(t *testing.T) {
	s := datasettest.StartBucket(t)
	for i, l := range layouts {
		t.Run(l.name, func(t *testing.T) {
			dir := filepath.Join(s.Dir, fmt.Sprint(i), "deep")
			src := l.write(t, dir)
			conform(t, strings.ReplaceAll(src, s.Dir, s3Scheme+"data"), l.options, l.labels, l.captions)
		})
	}
}

// shorter makes waiting short for the test.
func shorter(t *testing.T, idle, pause time.Duration) {
	t.Helper()
	oldIdle, oldPause, oldUnit := idleLimit, retryPause, minio.DefaultRetryUnit
	idleLimit, retryPause, minio.DefaultRetryUnit = idle, pause, pause
	t.Cleanup(func() { idleLimit, retryPause, minio.DefaultRetryUnit = oldIdle, oldPause, oldUnit })
}

// A storage that stops in the middle, or never answers, is given up after a
// while: a read goes on where it stopped, then the error says object, offset
// and time.
func TestStalledStorage(t *testing.T) {
	shorter(t, 250*time.Millisecond, time.Millisecond)
	s := datasettest.StartBucket(t)
	body := strings.Repeat("0123456789", 1000)
	write(t, filepath.Join(s.Dir, "a.jpg"), body)
	open := func() (storage, error) { return openBuckets(s3Scheme) }
	st, err := open()
	if err != nil {
		t.Fatal(err)
	}
	read := func() ([]byte, error) { return st.read(t.Context(), "s3://data/a.jpg", 10, 9000) }

	s.Stall.Store(3) // 4500 bytes, 2250 more, 1125 more, then the rest
	s.Gets.Store(0)
	if got, err := read(); err != nil || string(got) != body[10:9010] || s.Gets.Load() != 4 {
		t.Errorf("after three stalls: %d bytes in %d requests, %v", len(got), s.Gets.Load(), err)
	}
	s.Drip.Store(1) // slow is not still
	s.Gets.Store(0)
	if got, err := read(); err != nil || string(got) != body[10:9010] || s.Gets.Load() != 1 {
		t.Errorf("a slow body: %d bytes in %d requests, %v", len(got), s.Gets.Load(), err)
	}
	s.Stall.Store(1 << 20)
	start := time.Now()
	_, err = read()
	if err == nil || !strings.Contains(err.Error(), "s3://data/a.jpg: storage at http://127.0.0.1") || !strings.Contains(err.Error(), "no data for 250ms at offset 90") || !strings.Contains(err.Error(), ", after ") || fault.Code(err) != int(fault.Environment) || !fault.FromEnvironment(err) {
		t.Errorf("endless stalls: %v, status %d", err, fault.Code(err))
	}
	if took := time.Since(start); took > 15*time.Second {
		t.Errorf("endless stalls were given up after %s", took)
	}
	s.Stall.Store(0)
	for what, do := range map[string]func() error{
		"read": func() error { _, err := read(); return err },
		"stat": func() error { _, _, err := st.stat(t.Context(), "s3://data/a.jpg"); return err },
		"list": func() error { _, err := st.list(t.Context(), "s3://data"); return err },
	} {
		s.Mute.Store(requestAttempts - 1)
		if err := do(); err != nil {
			t.Errorf("%s after unanswered requests: %v", what, err)
		}
		s.Mute.Store(1 << 20)
		start := time.Now()
		err := do()
		if err == nil || !strings.Contains(err.Error(), "no answer to 3 requests, 250ms each") || fault.Code(err) != int(fault.Environment) || !fault.FromEnvironment(err) {
			t.Errorf("%s without an answer: %v", what, err)
		}
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("%s without an answer was given up after %s", what, took)
		}
		s.Mute.Store(0)
		s.Busy.Store(requestAttempts + 1)
		if err := do(); err != nil {
			t.Errorf("%s of a busy storage: %v", what, err)
		}
		s.Busy.Store(0)
	}
	// An object that is another one in the middle of a read.
	s.Stall.Store(1)
	s.Tags.Store(2)
	if _, err := read(); err == nil || !strings.Contains(err.Error(), "changed while it was being read") {
		t.Errorf("changed in the middle: %v", err)
	}
	// An interrupt does not wait.
	s.Stall.Store(1 << 20)
	shorter(t, time.Minute, time.Minute)
	if st, err = open(); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer stop()
	start = time.Now()
	if _, err := st.read(ctx, "s3://data/a.jpg", 0, 9000); err == nil || time.Since(start) > 10*time.Second {
		t.Errorf("interrupted: %v after %s", err, time.Since(start))
	}
}

// A storage that sends the whole object where a part was asked for is refused,
// not taken at its word, except where the part begins the object.
func TestWholeObjects(t *testing.T) {
	s := datasettest.StartBucket(t)
	s.Whole.Store(true)
	write(t, filepath.Join(s.Dir, "a.jpg"), "0123456789")
	st, err := openBuckets(s3Scheme)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := st.read(t.Context(), "s3://data/a.jpg", 0, 3); err != nil || string(b) != "012" {
		t.Errorf("the beginning: %q, %v", b, err)
	}
	if b, err := st.read(t.Context(), "s3://data/a.jpg", 5, 3); err == nil || fault.Code(err) != int(fault.Input) || !strings.Contains(err.Error(), `a.jpg: the storage sent "" instead of 3 bytes from offset 5`) {
		t.Errorf("a part: %q, %v", b, err)
	}
}

func TestS3Errors(t *testing.T) {
	shorter(t, time.Minute, time.Millisecond)
	s := datasettest.StartBucket(t)
	writeTar(t, filepath.Join(s.Dir, "x-0.tar"), []entry{{"a.jpg", "image"}})
	write(t, filepath.Join(s.Dir, "t.csv"), "path,label\nmissing.jpg,1\nx-0.tar,0\n")
	tests := []struct {
		src  string
		want string
		kind fault.Kind
	}{
		{"s3://data/none.tar", "no such file", fault.Input},
		{"s3://data/x-{0..1}.tar", "x-1.tar: no such file", fault.Input},
		{"s3://other/x.tar", "no such bucket", fault.Input},
		{"s3://data/y-*.tar", "no file matches", fault.Input},
		{"s3://Bad_Bucket!/x.tar", "Bucket name contains invalid characters; want s3://BUCKET/KEY", fault.Input},
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
	s.Cut.Store(2) // two broken connections are got over
	if ex, err := d.Read(1); err != nil || len(ex.Image) == 0 {
		t.Errorf("after broken connections: %v", err)
	}
	s.Cut.Store(100)
	if _, err := d.Read(1); err == nil || !strings.Contains(err.Error(), "connection broke") || fault.Code(err) != int(fault.Environment) {
		t.Errorf("broken connection: %v, status %d", err, fault.Code(err))
	}
	s.Cut.Store(0)
	t.Setenv("AWS_ACCESS_KEY_ID", "stranger")
	if _, err := Open(context.Background(), "s3://data/x-0.tar", Options{}); err == nil || fault.Code(err) != int(fault.Environment) || !strings.Contains(err.Error(), "access denied") {
		t.Errorf("stranger: %v", err)
	}
	// HEAD says only that a request is bad or that nothing is there; the list says why.
	for code, want := range map[string]string{
		"AuthorizationHeaderMalformed": `not in the region "us-east-1"`,
		"InvalidAccessKeyId":           "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ~/.aws/credentials, are wrong",
		"XAdminUserNotFound":           "storage at http://",
	} {
		s.Refusal.Store(&code)
		if _, err := Open(context.Background(), "s3://data/x-0.tar", Options{}); err == nil || fault.Code(err) != int(fault.Environment) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", code, err)
		}
	}
	t.Setenv("AWS_ENDPOINT_URL_S3", "no host")
	if _, err := Open(context.Background(), "s3://data/x-0.tar", Options{}); fault.Code(err) != int(fault.Usage) {
		t.Errorf("bad endpoint: %v", err)
	}
}
