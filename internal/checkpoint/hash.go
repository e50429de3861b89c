package checkpoint

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"

	"golang.org/x/sync/errgroup"

	"github.com/evatool/evatool/internal/fault"
)

// HashFile is the SHA-256 and the size of a file that must not change
// meanwhile. One goroutine reads, the other hashes.
func HashFile(ctx context.Context, path string) (sum string, size int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", 0, fault.File(path, Want, err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return "", 0, fault.File(path, Want, err)
	}
	const block, blocks = 1 << 18, 4
	// Every block is in one of the two: neither send waits for ever.
	full, free := make(chan []byte, blocks), make(chan []byte, blocks)
	for range blocks {
		free <- make([]byte, block)
	}
	h := sha256.New()
	var g errgroup.Group
	g.Go(func() error {
		for b := range full {
			h.Write(b)
			free <- b[:block]
		}
		return nil
	})
	g.Go(func() error {
		defer close(full)
		r := io.LimitReader(f, st.Size()+1)
		for {
			if err := ctx.Err(); err != nil {
				return err
			}
			b := <-free
			n, err := io.ReadFull(r, b)
			size += int64(n)
			full <- b[:n]
			switch {
			case err == io.EOF || err == io.ErrUnexpectedEOF:
				return nil
			case err != nil:
				return fault.File(path, Want, err)
			}
		}
	})
	if err := g.Wait(); err != nil {
		return "", 0, err
	}
	if size != st.Size() {
		return "", 0, Changed(path)
	}
	return hex.EncodeToString(h.Sum(nil)), size, nil
}

// Changed is the error for a file that is another one than before.
func Changed(path string) error {
	return fault.Inputf("%s has changed while it was read; try again when nobody writes it", path)
}
