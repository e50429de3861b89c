package img

import (
	"context"
	"sync/atomic"

	"golang.org/x/sync/semaphore"
)

// DefaultMemory is how much memory, in bytes, all pictures that a process decodes
// at a time may take unless a Budget says otherwise.
const DefaultMemory = 1 << 30

// Budget bounds the memory of the pictures decoded at a time: one that does not
// fit waits, one that is larger than the whole budget is decoded alone. It
// may be used from any number of goroutines.
type Budget struct {
	size int64
	sem  *semaphore.Weighted
}

// NewBudget makes a budget of that many bytes.
func NewBudget(bytes int64) *Budget {
	bytes = max(bytes, 1)
	return &Budget{bytes, semaphore.NewWeighted(bytes)}
}

// process is the budget of pictures that have none of their own.
var process atomic.Pointer[Budget]

func init() { SetMemory(DefaultMemory) }

// SetMemory makes bytes the budget of the pictures of this process that have
// none of their own and are decoded from now on.
func SetMemory(bytes int64) { process.Store(NewBudget(bytes)) }

// take waits for n bytes; the result gives them back.
func (b *Budget) take(n int64) (give func()) {
	if b == nil {
		b = process.Load()
	}
	n = max(1, min(n, b.size))
	// The context does not end and n fits: there is no error.
	_ = b.sem.Acquire(context.Background(), n)
	return func() { b.sem.Release(n) }
}
