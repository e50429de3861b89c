package dataset

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

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

func TestS3Errors(t *testing.T) {
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
