package dataset

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/parquet-go/parquet-go"

	"github.com/evatool/evatool/internal/fault"
)

// sick is a disk that fails from a moment on.
type sick struct {
	disk
	from *atomic.Int64 // reads that still work
}

func (s sick) read(ctx context.Context, name string, off, n int64) ([]byte, error) {
	if s.from.Add(-1) < 0 {
		return nil, readError(name, off, n, &os.PathError{Op: "read", Path: name, Err: syscall.EIO})
	}
	return s.disk.read(ctx, name, off, n)
}

// TestEnvironmentIsNotTheData: a read that the disk refuses is the
// environment's in every layout, when a set is opened and when it is read.
func TestEnvironmentIsNotTheData(t *testing.T) {
	dir := t.TempDir()
	emoji := "../../testdata/emoji/train-fxemoji.tar"
	picture := filepath.Join(dir, "a", "x.png")
	table := filepath.Join(dir, "t.csv")
	type row struct {
		Image []byte `parquet:"image"`
		Text  string `parquet:"text"`
	}
	var rows []row
	for i := range 2000 {
		rows = append(rows, row{bytes.Repeat([]byte{byte(i)}, 1000+i), fmt.Sprint(i)})
	}
	pq := filepath.Join(dir, "t.parquet")
	err := errors.Join(os.Mkdir(filepath.Dir(picture), 0o755), os.WriteFile(picture, []byte("png"), 0o644),
		os.WriteFile(table, []byte("path,text\na/x.png,hi\n"), 0o644), parquet.WriteFile(pq, rows))
	if err != nil {
		t.Fatal(err)
	}
	for kind, src := range map[Kind]source{
		WebDataset: {names: []string{emoji}}, CSV: {names: []string{table}}, Parquet: {names: []string{pq}},
		ImageFolder: {names: []string{dir}, dir: true, files: []file{{name: "a/x.png", path: picture, size: 3}}},
	} {
		var from atomic.Int64
		st := sick{from: &from}
		if kind != ImageFolder { // reads nothing to open
			_, err := openers[kind](t.Context(), st, src, Options{})
			if err == nil || fault.Code(err) != 4 {
				t.Errorf("%s: opened on a sick disk: error %v has exit status %d", kind, err, fault.Code(err))
			}
		}
		from.Store(1 << 40)
		d, err := openers[kind](t.Context(), st, src, Options{})
		if err != nil {
			t.Fatal(kind, err)
		}
		from.Store(0)
		if _, err := d.Read(d.Len() - 1); !fault.FromEnvironment(err) || fault.Code(err) != 4 || !errors.Is(err, syscall.EIO) {
			t.Errorf("%s: read: error %v has exit status %d", kind, err, fault.Code(err))
		}
		// The disk gets well between two reads: what is read then is right.
		failed := 0
		for i := d.Len() - 1; i >= 0; i -= 97 {
			from.Store(1 << 40)
			want, err := d.Read(i)
			if err != nil {
				t.Fatal(kind, err)
			}
			for good := range int64(3) {
				from.Store(1 << 40)
				for away := range 6 { // so that nothing of it is in memory
					if _, err := d.Read((i + (away+1)*d.Len()/7) % d.Len()); err != nil {
						t.Fatal(kind, err)
					}
				}
				from.Store(good)
				if _, err := d.Read(i); err != nil {
					failed++
				}
				from.Store(1 << 40)
				if got, err := d.Read(i); err != nil || !bytes.Equal(got.Image, want.Image) || got.Key != want.Key {
					t.Fatalf("%s: example %d, %d reads before the disk failed once: %s with %d bytes, %v; want %s with %d", kind, i, good, got.Key, len(got.Image), err, want.Key, len(want.Image))
				}
			}
		}
		if failed == 0 {
			t.Errorf("%s: no read failed", kind)
		}
		d.Close()
	}
	if runtime.GOOS == "linux" { // memory that is not mapped
		if _, err := (disk{}).read(t.Context(), "/proc/self/mem", 0, 8); !errors.Is(err, syscall.EIO) || fault.Code(err) != 4 {
			t.Errorf("a real read error: %v has exit status %d", err, fault.Code(err))
		}
	}
}
