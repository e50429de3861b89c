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
	"strconv"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/idle"
)

// bucketStore is S3-compatible storage. Names are s3://bucket/key, or
// gs://bucket/key for Google's.
type bucketStore struct {
	client   *minio.Client
	scheme   string
	endpoint string // for messages
}

const (
	s3Scheme = "s3://"
	gsScheme = "gs://"
)

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

// gsEndpointVariables are those of gs://, which may lie beside s3:// in a
// recipe.
var gsEndpointVariables = append([]string{"GS_ENDPOINT_URL"}, endpointVariables...)

// openBuckets connects to the storage that the environment names: endpoint,
// region, and credentials from AWS_* or MINIO_* variables, ~/.aws/credentials,
// ~/.mc/config.json or the machine's role; without any, anonymously. Google's
// takes the same requests with its HMAC keys.
func openBuckets(scheme string) (storage, error) {
	variables, endpoint := endpointVariables, "https://s3.amazonaws.com"
	if scheme == gsScheme {
		variables, endpoint = gsEndpointVariables, "https://storage.googleapis.com"
	}
	endpoint = firstSet(variables, endpoint)
	if !strings.Contains(endpoint, "://") {
		endpoint = "https://" + endpoint
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fault.Usagef("%s=%q: want http://host:port or https://host", variables[0], endpoint[strings.LastIndexByte(endpoint, '@')+1:])
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
	transport, err := impatient(u.Scheme == "https")
	if err != nil {
		return nil, fault.Envf("%s: %w", endpoint, err)
	}
	client, err := minio.New(u.Host, &minio.Options{
		Creds:      credentials.NewChainCredentials(chain),
		Secure:     u.Scheme == "https",
		Region:     firstSet(regionVariables, ""),
		Transport:  transport,
		MaxRetries: requestAttempts,
	})
	if err != nil {
		return nil, fault.Usagef("%s: %w", endpoint, err)
	}
	return bucketStore{client, scheme, endpoint}, nil
}

func (s bucketStore) split(name string) (bucket, key string) {
	bucket, key, _ = strings.Cut(strings.TrimPrefix(name, s.scheme), "/")
	return bucket, key
}

func (s bucketStore) join(dir, name string) string {
	if strings.HasPrefix(name, s.scheme) {
		return name
	}
	return s.scheme + path.Join(strings.TrimPrefix(dir, s.scheme), name)
}

// window: a request takes as long as some megabytes.
func (bucketStore) window() int64 { return 4 << 20 }

func (s bucketStore) dir(name string) string {
	return s.scheme + path.Dir(strings.TrimPrefix(name, s.scheme))
}

func (s bucketStore) stat(ctx context.Context, name string) (size int64, dir bool, err error) {
	size, dir, _, err = s.stamped(ctx, name)
	return size, dir, err
}

func (s bucketStore) stamped(ctx context.Context, name string) (size int64, dir bool, stamp string, err error) {
	err = patiently(ctx, func() error {
		size, dir, stamp, err = s.statOnce(ctx, name)
		return err
	})
	return size, dir, stamp, err
}

func (s bucketStore) statOnce(ctx context.Context, name string) (size int64, dir bool, etag string, err error) {
	bucket, key := s.split(name)
	if key != "" && !strings.HasSuffix(key, "/") {
		info, err := s.client.StatObject(ctx, bucket, key, minio.StatObjectOptions{})
		if err == nil {
			return info.Size, false, info.ETag, nil
		}
		// The answer to HEAD has no body: that to the list below says why a
		// request is bad.
		bad := minio.ToErrorResponse(err).StatusCode == http.StatusBadRequest
		if err = s.explain(name, err); !bad && !errors.Is(err, fs.ErrNotExist) {
			return 0, false, "", err
		}
	}
	// Any object below makes it a folder.
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	o, found := <-s.client.ListObjects(ctx, bucket, minio.ListObjectsOptions{Prefix: prefixOf(key), MaxKeys: 1})
	switch {
	case found && o.Err != nil:
		return 0, false, "", s.explain(name, o.Err)
	case found:
		return 0, true, "", nil
	}
	return 0, false, "", fmt.Errorf("%s: %w", name, fs.ErrNotExist)
}

func prefixOf(key string) string {
	if key = strings.TrimSuffix(key, "/"); key != "" {
		key += "/"
	}
	return key
}

func (s bucketStore) list(ctx context.Context, dir string) (files []file, err error) {
	err = patiently(ctx, func() error {
		files, err = s.listOnce(ctx, dir)
		return err
	})
	return files, err
}

func (s bucketStore) listOnce(ctx context.Context, dir string) ([]file, error) {
	bucket, key := s.split(dir)
	prefix := prefixOf(key)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var out []file
	for o := range s.client.ListObjects(ctx, bucket, minio.ListObjectsOptions{Prefix: prefix, Recursive: true}) {
		if o.Err != nil {
			return nil, s.explain(dir, o.Err)
		}
		if !strings.HasSuffix(o.Key, "/") {
			out = append(out, file{name: strings.TrimPrefix(o.Key, prefix), path: s.scheme + bucket + "/" + o.Key, size: o.Size})
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
	return s.readOf(ctx, name, "", off, n)
}

func (s bucketStore) readOf(ctx context.Context, name, stamp string, off, n int64) ([]byte, error) {
	return readPatiently(ctx, fault.Name(name)+": storage at "+s.endpoint, stamp, off, n, func(off int64, buf []byte, etag string) (int64, string, error) {
		return s.readOnce(ctx, name, off, buf, etag)
	})
}

// readPatiently asks again for what is missing where a body broke off or stalled.
// once sends one request for a file with a stamp, any file when it is empty, and
// returns the file's stamp.
func readPatiently(ctx context.Context, what, stamp string, off, n int64, once func(off int64, buf []byte, stamp string) (int64, string, error)) ([]byte, error) {
	buf := make([]byte, n)
	if n == 0 {
		return buf, nil
	}
	start := time.Now()
	got := int64(0)
	err := patiently(ctx, func() error {
		more, now, err := once(off+got, buf[got:], stamp)
		got, stamp = got+more, now
		var cut *cutError
		if errors.As(err, &cut) {
			cut.progress = more > 0
			return fault.Envf("%s: %w at offset %d, after %s", what, cut, off+got, time.Since(start).Round(time.Millisecond))
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return buf, nil
}

// readOnce sends one request and returns how much came; etag is that of the
// earlier requests, which have to be of the same object.
func (s bucketStore) readOnce(ctx context.Context, name string, off int64, buf []byte, etag string) (int64, string, error) {
	bucket, key := s.split(name)
	o := minio.GetObjectOptions{}
	if err := o.SetRange(off, off+int64(len(buf))-1); err != nil {
		return 0, etag, err
	}
	if etag != "" {
		if err := o.SetMatchETag(etag); err != nil {
			return 0, etag, err
		}
	}
	body, info, header, err := minio.Core{Client: s.client}.GetObject(ctx, bucket, key, o)
	if err != nil {
		return 0, etag, s.explain(name, err)
	}
	defer body.Close()
	// Not every storage sends parts: Google's does not of an object that it decompresses.
	sent, first := header.Get("Content-Range"), int64(0)
	if _, err := fmt.Sscanf(sent, "bytes %d-", &first); sent != "" && err != nil || first != off {
		return 0, etag, fault.Inputf("%s: the storage sent %s instead of %d bytes from offset %d; store the object as it is, without a Content-Encoding, where parts of it can be read", fault.Name(name), fault.Name(strconv.Quote(sent)), len(buf), off)
	}
	if etag != "" && info.ETag != etag { // not every storage honours the condition
		return 0, etag, changed(fault.Name(name))
	}
	n, err := io.ReadFull(body, buf)
	if err != nil && ctx.Err() != nil {
		return int64(n), info.ETag, ctx.Err()
	}
	if err != nil {
		return int64(n), info.ETag, &cutError{err: err}
	}
	return int64(n), info.ETag, nil
}

// cutError is a body that ended early.
type cutError struct {
	err        error
	progress   bool // something came before it
	unanswered bool // not even the headers came
}

func (e *cutError) Error() string {
	if idle.Stalled(e.err) {
		return fmt.Sprintf("no data for %s", idleLimit)
	}
	if e.unanswered {
		return "no answer (" + e.err.Error() + ")"
	}
	return "the connection broke (" + e.err.Error() + ")"
}

func (e *cutError) Unwrap() error { return e.err }

// idleLimit is how long a connection may stall. Tests shorten it.
var idleLimit = 60 * time.Second

// impatient is a transport that gives up on a connection when nothing has come
// for idleLimit, whether the headers of an answer or the rest of a body.
func impatient(secure bool) (*http.Transport, error) {
	t, err := minio.DefaultTransport(secure)
	if err != nil {
		return nil, err
	}
	idle.Limit(t, idleLimit)
	return t, nil
}

const (
	// requestAttempts is how often the client itself sends a request, one after
	// the other.
	requestAttempts = 3
	// readAttempts bounds how often an operation is tried in a row without a
	// byte of progress, and altogether, with a pause that doubles each time.
	readAttempts    = 4
	readAttemptsAll = 12
)

// retryPause is the first pause. Tests shorten it.
var retryPause = time.Second

// patiently tries again what a busy or broken connection spoiled.
func patiently(ctx context.Context, try func() error) error {
	pause, inRow := retryPause, 0
	for all := 1; ; all++ {
		err := try()
		if err == nil || !passing(err) || all == readAttemptsAll {
			return err
		}
		var cut *cutError
		if inRow++; errors.As(err, &cut) && cut.progress {
			pause, inRow = retryPause, 1
		}
		if inRow == readAttempts {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
			pause *= 2
		}
	}
}

// passing says whether an error may not recur: a body that broke off or
// stalled, a connection that failed, a server that is busy. One that never
// answers has had requestAttempts already.
func passing(err error) bool {
	var cut *cutError
	if errors.As(err, &cut) {
		return true
	}
	if idle.Stalled(err) {
		return false
	}
	var request *url.Error
	var answer minio.ErrorResponse
	var refused *webError
	switch {
	case errors.As(err, &request):
		return true
	case errors.As(err, &refused):
		return refused.status >= 500 || refused.status == http.StatusTooManyRequests
	case errors.As(err, &answer):
		return answer.StatusCode >= 500 || answer.StatusCode == http.StatusTooManyRequests || answer.Code == "SlowDown"
	}
	return false
}

// explain says what a storage's answer means for the user.
func (s bucketStore) explain(name string, err error) error {
	r := minio.ToErrorResponse(err)
	name = fault.Name(name)
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case r.Code == "NoSuchBucket":
		return fault.Inputf("%s: no such bucket; check its name", name)
	case strings.HasPrefix(err.Error(), "Bucket name "): // checked before a request
		return fault.Inputf("%s: %w; want %sBUCKET/KEY", name, err, s.scheme)
	case r.Code == "AuthorizationHeaderMalformed" || r.Code == "PermanentRedirect":
		return fault.Envf("%s: the bucket is not in the region %q (%s); set AWS_REGION", name, firstSet(regionVariables, "us-east-1"), r.Code)
	case r.Code == "InvalidAccessKeyId" || r.Code == "SignatureDoesNotMatch":
		return fault.Envf("%s: access denied (%s); AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ~/.aws/credentials, are wrong", name, r.Code)
	case r.Code == "PreconditionFailed" || r.StatusCode == http.StatusPreconditionFailed:
		return changed(name)
	case r.Code == "NoSuchKey":
		return fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	case r.StatusCode == http.StatusForbidden || r.StatusCode == http.StatusUnauthorized:
		return fault.Envf("%s: access denied (%s); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ~/.aws/credentials", name, r.Code)
	case r.Code == "InvalidRange" || r.StatusCode == http.StatusRequestedRangeNotSatisfiable:
		return fault.Inputf("%s: shorter than when it was indexed; %w", name, errChanged)
	}
	if idle.Stalled(err) {
		return fault.Envf("%s: storage at %s: no answer to %d requests, %s each: %w", name, s.endpoint, requestAttempts, idleLimit, os.ErrDeadlineExceeded)
	}
	if text := err.Error(); fault.Name(text) != text { // what a server says
		return fault.Envf("%s: storage at %s: %w", name, s.endpoint, &saidError{text, err})
	}
	return fault.Envf("%s: storage at %s: %w", name, s.endpoint, err)
}

// saidError is an error in a server's words, quoted.
type saidError struct {
	text string
	err  error
}

func (e *saidError) Error() string { return fault.Name(e.text) }
func (e *saidError) Unwrap() error { return e.err }
