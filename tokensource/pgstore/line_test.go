//go:build unix

package pgstore_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/tokentripper/tokentripper/internal/lab/stores"
	"github.com/tokentripper/tokentripper/tokensource/pgstore"
)

// A line is a client's way to a server, and can lose answers.
type line struct {
	mu    sync.Mutex // guards what follows
	match []byte
	times int
	lost  func() error
}

// throughLine returns a store whose answers the line can lose.
func throughLine(t *testing.T, s *server) (*pgstore.Store, *line) {
	t.Helper()
	config, err := pgxpool.ParseConfig(s.address())
	if err != nil {
		t.Fatal(err)
	}
	l := new(line)
	config.ConnConfig.DialFunc = l.dial
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	store := &pgstore.Store{Pool: pool}
	stores.Put(t, store, "k", "before")
	return store, l
}

// lose calls lost in place of the answers to so many statements that hold match, once the server
// has given them. The connection ends if lost returns an error; errSilence loses the answer only.
func (l *line) lose(match string, times int, lost func() error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.match, l.times, l.lost = []byte(match), times, lost
}

var errSilence = errors.New("no answer")

// cut is what ends a connection.
func cut() error { return io.ErrUnexpectedEOF }

// pending returns how many answers are yet to be lost.
func (l *line) pending() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.times
}

// matched returns what to call if b is a statement whose answer is to be lost, else nil.
func (l *line) matched(b []byte) func() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.times == 0 || !bytes.Contains(b, l.match) {
		return nil
	}
	l.times--
	return l.lost
}

func (l *line) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	return &wire{Conn: conn, line: l}, err
}

// A wire is one connection.
type wire struct {
	net.Conn
	line *line

	mu   sync.Mutex // guards lost
	lost func() error
}

func (w *wire) Write(b []byte) (int, error) {
	if lost := w.line.matched(b); lost != nil {
		w.mu.Lock()
		w.lost = lost
		w.mu.Unlock()
	}
	return w.Conn.Write(b)
}

func (w *wire) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	w.mu.Lock()
	lost := w.lost
	w.lost = nil
	w.mu.Unlock()
	if err == nil && lost != nil {
		switch err := lost(); err {
		case nil:
		case errSilence:
			return w.Conn.Read(b)
		default:
			w.Close()
			return 0, err
		}
	}
	return n, err
}
