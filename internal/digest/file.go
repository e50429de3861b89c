package digest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"

	"golang.org/x/sync/errgroup"

	"github.com/evatool/evatool/internal/fault"
)

// File returns the SHA-256 and the size in bytes of a plain file, which must not
// change in the meantime; want is what messages say was expected there. One
// goroutine reads, another hashes.
func File(ctx context.Context, path, want string) (sum string, size int64, err error) {
	if err := fault.RegularFile(path, want); err != nil {
		return "", 0, err
	}
	f, err := os.Open(path)
	if err != nil {
		return "", 0, fault.File(path, want, err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return "", 0, fault.File(path, want, err)
	}
	const block, blocks = 1 << 18, 4
	// Each has room for all blocks, so no send blocks. A reader without a block
	// waits for the hasher, which waits only for a block or the end.
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
				return fault.File(path, want, err)
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

// Changed is the error for a file that changed while it was being read.
func Changed(path string) error {
	return fault.Inputf("%s changed while it was being read; try again when nothing writes to it", path)
}
