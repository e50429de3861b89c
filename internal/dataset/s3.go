package dataset

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/evatool/evatool/internal/fault"
)

// bucketStore is S3-compatible storage. Names are s3://bucket/key.
type bucketStore struct{ client *minio.Client }

const s3Scheme = "s3://"

// endpointVariables say where the storage is, as the AWS tools have them; the
// first one set counts.
var endpointVariables = []string{"AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "S3_ENDPOINT"}

var regionVariables = []string{"AWS_REGION", "AWS_DEFAULT_REGION"}

func firstSet(names []string, otherwise string) string {
	for _, name := range names {
		if v := os.Getenv(name); v != "" {
			return v
		}
	}
	return otherwise
}

// openS3 connects to the storage that the environment names: endpoint, region,
// and credentials from AWS_* or MINIO_* variables, ~/.aws/credentials,
// ~/.mc/config.json or the machine's role; without any, anonymously.
func openS3(context.Context) (storage, error) {
	endpoint := firstSet(endpointVariables, "https://s3.amazonaws.com")
	if !strings.Contains(endpoint, "://") {
		endpoint = "https://" + endpoint
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fault.Usagef("%s=%q: want http://host:port or https://host", endpointVariables[0], endpoint)
	}
	chain := []credentials.Provider{
		&credentials.EnvAWS{},
		&credentials.EnvMinio{},
		&credentials.FileAWSCredentials{},
		&credentials.FileMinioClient{},
		&credentials.IAM{Client: &http.Client{Timeout: 2 * time.Second}},
	}
	if u.Hostname() != "s3.amazonaws.com" {
		chain = chain[:len(chain)-1] // a machine's role is AWS's own
	}
	client, err := minio.New(u.Host, &minio.Options{
		Creds:  credentials.NewChainCredentials(chain),
		Secure: u.Scheme == "https",
		Region: firstSet(regionVariables, ""),
	})
	if err != nil {
		return nil, fault.Usagef("%s: %w", endpoint, err)
	}
	return bucketStore{client}, nil
}

func splitS3(name string) (bucket, key string) {
	bucket, key, _ = strings.Cut(strings.TrimPrefix(name, s3Scheme), "/")
	return bucket, key
}

func (bucketStore) join(dir, name string) string {
	if strings.HasPrefix(name, s3Scheme) {
		return name
	}
	return s3Scheme + path.Join(strings.TrimPrefix(dir, s3Scheme), name)
}

// window: a request costs as much time as some megabytes.
func (bucketStore) window() int64 { return 4 << 20 }

func (bucketStore) dir(name string) string {
	return s3Scheme + path.Dir(strings.TrimPrefix(name, s3Scheme))
}

func (s bucketStore) stat(ctx context.Context, name string) (int64, bool, error) {
	bucket, key := splitS3(name)
	if key != "" && !strings.HasSuffix(key, "/") {
		info, err := s.client.StatObject(ctx, bucket, key, minio.StatObjectOptions{})
		if err == nil {
			return info.Size, false, nil
		}
		// The answer to HEAD has no body: that to the list below says why a
		// request is bad.
		bad := minio.ToErrorResponse(err).StatusCode == http.StatusBadRequest
		if err = s3Error(name, err); !bad && !errors.Is(err, fs.ErrNotExist) {
			return 0, false, err
		}
	}
	// Any object below makes it a folder.
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	o, found := <-s.client.ListObjects(ctx, bucket, minio.ListObjectsOptions{Prefix: prefixOf(key), MaxKeys: 1})
	switch {
	case found && o.Err != nil:
		return 0, false, s3Error(name, o.Err)
	case found:
		return 0, true, nil
	}
	return 0, false, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
}

func prefixOf(key string) string {
	if key = strings.TrimSuffix(key, "/"); key != "" {
		key += "/"
	}
	return key
}

func (s bucketStore) list(ctx context.Context, dir string) ([]file, error) {
	bucket, key := splitS3(dir)
	prefix := prefixOf(key)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var out []file
	for o := range s.client.ListObjects(ctx, bucket, minio.ListObjectsOptions{Prefix: prefix, Recursive: true}) {
		if o.Err != nil {
			return nil, s3Error(dir, o.Err)
		}
		if !strings.HasSuffix(o.Key, "/") {
			out = append(out, file{name: strings.TrimPrefix(o.Key, prefix), path: s3Scheme + bucket + "/" + o.Key, size: o.Size})
		}
	}
	return out, nil
}

func (s bucketStore) glob(ctx context.Context, pattern string) ([]string, error) {
	files, err := s.list(ctx, s.dir(pattern))
	if err != nil {
		return nil, err
	}
	var out []string
	for _, f := range files {
		if ok, err := path.Match(path.Base(pattern), f.name); err != nil {
			return nil, err
		} else if ok {
			out = append(out, f.path)
		}
	}
	return out, nil
}

func (s bucketStore) read(ctx context.Context, name string, off, n int64) ([]byte, error) {
	buf := make([]byte, n)
	if n == 0 {
		return buf, nil
	}
	bucket, key := splitS3(name)
	o := minio.GetObjectOptions{}
	if err := o.SetRange(off, off+n-1); err != nil {
		return nil, err
	}
	var err error
	for range readAttempts {
		if err = s.readOnce(ctx, bucket, key, o, buf); err == nil {
			return buf, nil
		}
		var cut *cutError
		if !errors.As(err, &cut) || ctx.Err() != nil {
			break
		}
	}
	return nil, s3Error(name, err)
}

// readAttempts is how often a body that breaks off is asked for; requests that
// fail are repeated by the client itself.
const readAttempts = 3

// cutError is a body that ended early.
type cutError struct{ err error }

func (e *cutError) Error() string { return "the connection broke: " + e.err.Error() }

// readOnce sends one request.
func (s bucketStore) readOnce(ctx context.Context, bucket, key string, o minio.GetObjectOptions, buf []byte) error {
	body, _, _, err := minio.Core{Client: s.client}.GetObject(ctx, bucket, key, o)
	if err != nil {
		return err
	}
	defer body.Close()
	if _, err := io.ReadFull(body, buf); err != nil {
		return &cutError{err}
	}
	return nil
}

// s3Error says what a storage's answer means for the user.
func s3Error(name string, err error) error {
	r := minio.ToErrorResponse(err)
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case r.Code == "NoSuchBucket":
		return fault.Inputf("%s: no such bucket", name)
	case strings.HasPrefix(err.Error(), "Bucket name "): // checked before a request
		return fault.Inputf("%s: %w; want s3://BUCKET/KEY", name, err)
	case r.Code == "AuthorizationHeaderMalformed" || r.Code == "PermanentRedirect":
		return fault.Envf("%s: the bucket is not in the region %q (%s); set AWS_REGION", name, firstSet(regionVariables, "us-east-1"), r.Code)
	case r.Code == "InvalidAccessKeyId" || r.Code == "SignatureDoesNotMatch":
		return fault.Envf("%s: access denied (%s); AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ~/.aws/credentials, are wrong", name, r.Code)
	case r.Code == "NoSuchKey":
		return fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	case r.StatusCode == http.StatusForbidden || r.StatusCode == http.StatusUnauthorized:
		return fault.Envf("%s: access denied (%s); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ~/.aws/credentials", name, r.Code)
	case r.Code == "InvalidRange" || r.StatusCode == http.StatusRequestedRangeNotSatisfiable:
		return fault.Inputf("%s: shorter than when it was indexed; it has changed since the run started", name)
	}
	return fault.Envf("%s: storage at %s: %w", name, firstSet(endpointVariables, "s3.amazonaws.com"), err)
}
