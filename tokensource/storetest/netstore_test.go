package storetest_test

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"sync"
	"testing"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/storetest"
)

// A netStore is a Memory of another process: the address of a server. A connection
// is for one call. When it ends, so does the lock, even if the process was killed.
type netStore string

// A message is what either side sends.
type message struct {
	Update bool // the first of a connection: Update of Key, not Load
	Key    string
	Value  []byte
	Error  string
}

// serveMemory serves an empty Memory until the test ends.
func serveMemory(t *testing.T) (address string) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	memory := new(storetest.Memory)
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			all.Go(func() { serveConn(memory, conn) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		all.Wait()
	})
	return listener.Addr().String()
}

func serveConn(memory *storetest.Memory, conn net.Conn) {
	defer conn.Close()
	in, out := json.NewDecoder(conn), json.NewEncoder(conn)
	var ask message
	if in.Decode(&ask) != nil {
		return
	}
	if !ask.Update {
		value, err := memory.Load(context.Background(), ask.Key)
		out.Encode(message{Value: value, Error: text(err)})
		return
	}
	err := memory.Update(context.Background(), ask.Key, func(value []byte, save func([]byte) error) error {
		err := out.Encode(message{Value: value})
		for m := (message{}); err == nil && in.Decode(&m) == nil; m = (message{}) {
			err = out.Encode(message{Error: text(save(m.Value))})
		}
		return err
	})
	out.Encode(message{Error: text(err)})
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// A call is the client's side of a connection.
type call struct {
	net.Conn
	in  *json.Decoder
	out *json.Encoder
}

func (s netStore) call(ctx context.Context) (*call, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", string(s))
	if err != nil {
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		conn.SetDeadline(deadline)
	}
	return &call{conn, json.NewDecoder(conn), json.NewEncoder(conn)}, nil
}

// ask sends a message and returns the value of the reply.
func (c *call) ask(m message) ([]byte, error) {
	if err := c.out.Encode(m); err != nil {
		return nil, err
	}
	var reply message
	if err := c.in.Decode(&reply); err != nil {
		return nil, err
	}
	switch reply.Error {
	case "":
		return reply.Value, nil
	case tokensource.ErrLocked.Error():
		return nil, tokensource.ErrLocked
	}
	return nil, errors.New(reply.Error)
}

// end gives the lock back, which the last message confirms.
func (c *call) end() {
	c.Conn.(*net.TCPConn).CloseWrite()
	c.in.Decode(new(message))
	c.Close()
}

func (s netStore) Load(ctx context.Context, key string) ([]byte, error) {
	c, err := s.call(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.ask(message{Key: key})
}

func (s netStore) Update(ctx context.Context, key string, fn func([]byte, func([]byte) error) error) error {
	c, err := s.call(ctx)
	if err != nil {
		return err
	}
	defer c.end()
	value, err := c.ask(message{Update: true, Key: key})
	if err != nil {
		return err
	}
	return fn(value, func(value []byte) error {
		_, err := c.ask(message{Value: value})
		if errors.Is(err, net.ErrClosed) {
			return tokensource.ErrLocked
		}
		return err
	})
}
