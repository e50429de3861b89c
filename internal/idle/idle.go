// Package idle gives up network connections that stall.
package idle

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"time"
)

// Limit makes t give up a connection on which nothing has come for limit, whether
// the headers of an answer or the rest of a body. t has a DialContext.
func Limit(t *http.Transport, limit time.Duration) {
	t.ResponseHeaderTimeout = limit
	dial := t.DialContext
	t.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &conn{c, limit}, nil
	}
}

// Stalled says whether an error is that of a connection that stalled.
func Stalled(err error) bool {
	var late interface{ Timeout() bool }
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &late) && late.Timeout()
}

// conn times out when nothing comes.
type conn struct {
	net.Conn
	limit time.Duration
}

func (c *conn) Read(p []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(c.limit)); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

// Write begins a request: a read that already waits gets its whole time.
func (c *conn) Write(p []byte) (int, error) {
	if err := c.SetDeadline(time.Now().Add(c.limit)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}
