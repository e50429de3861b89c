//go:build unix

package dataset

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/parquet-go/parquet-go"
)

// A pipe named in a table must not be opened: nobody may ever write into it.
func TestPipeInTable(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mkfifo(filepath.Join(dir, "a.png"), 0o600); err != nil {
		t.Skip(err)
	}
	table := filepath.Join(dir, "t.csv")
	if err := os.WriteFile(table, []byte("path,label\na.png,0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := Open(context.Background(), table, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Read(0); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("Read: %v, want an error about the pipe", err)
	}
}

func TestNoLZ4(t *testing.T) {
	type row struct {
		Image []byte `parquet:"image,lz4"`
		Label int64  `parquet:"label"`
	}
	name := filepath.Join(t.TempDir(), "t.parquet")
	if err := parquet.WriteFile(name, []row{{[]byte("x"), 1}}); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(context.Background(), name, Options{}); err == nil || !strings.Contains(err.Error(), "LZ4") {
		t.Errorf("Open: %v, want an error about LZ4", err)
	}
}
