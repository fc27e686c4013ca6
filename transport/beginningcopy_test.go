package transport_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
)

// A stream of a gibibyte takes no more memory than its beginning.
func TestAGibibyteOfJSONIsReadAheadForItsBeginningOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // where time stands still while anything runs
		body := &counted{left: 1 << 30}
		resp := answerOf(t, body)
		if body.read > 64*kib {
			t.Errorf("%d bytes were read ahead, want at most 64 KiB", body.read)
		}
		if n, err := io.Copy(io.Discard, resp.Body); n != 1<<30 || err != nil {
			t.Errorf("the caller got %d bytes and %v, want all", n, err)
		}
	})
}

// counted yields an endless list.
type counted struct{ left, read int64 }

func (c *counted) Read(p []byte) (int, error) {
	if c.left == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(int64(len(p)), c.left)], brackets)
	c.left, c.read = c.left-int64(n), c.read+int64(n)
	return n, nil
}

var brackets = strings.Repeat("[", 64*kib)

func (c *counted) Close() error { return nil }

// fast is a body with a WriterTo, and a writer with a ReaderFrom.
type fast struct {
	io.Reader
	used *string
}

func (f fast) Close() error { return nil }
func (f fast) WriteTo(w io.Writer) (int64, error) {
	*f.used += "WriteTo "
	return io.Copy(struct{ io.Writer }{w}, f.Reader)
}

type fastWriter struct {
	bytes.Buffer
	used *string
}

func (f *fastWriter) ReadFrom(r io.Reader) (int64, error) {
	*f.used += "ReadFrom "
	return f.Buffer.ReadFrom(r)
}

func TestCopyGoesTheFastWayThatItWentWithoutARule(t *testing.T) {
	text := `{"items":"` + strings.Repeat("x", 100*kib) + `"}`
	for _, want := range []string{"WriteTo ", "ReadFrom "} {
		used := ""
		var body io.ReadCloser = fast{strings.NewReader(text), &used}
		if want == "ReadFrom " {
			body = io.NopCloser(struct{ io.Reader }{strings.NewReader(text)})
		}
		resp := answerOf(t, body)
		w := &fastWriter{used: &used}
		n, err := io.Copy(w, resp.Body)
		if used != want || w.String() != text || n != int64(len(text)) || err != nil {
			t.Errorf("got %d bytes by %q and %v, want %d by %q", n, used, err, len(text), want)
		}
	}
}

func TestAWriterThatFailsHasTakenWhatItSays(t *testing.T) {
	full := errors.New("full")
	for _, c := range []struct {
		says int
		err  error
		want int64
		is   error
	}{{3, full, 3, full}, {3, nil, 3, io.ErrShortWrite}, {-1, full, 0, full}, {100, full, 11, full}} {
		resp := answerOf(t, io.NopCloser(strings.NewReader(`{"ok":true}`)))
		n, err := io.Copy(writerFunc(func(p []byte) (int, error) { return c.says, c.err }), resp.Body)
		rest, _ := io.ReadAll(resp.Body)
		if n != c.want || err != c.is || string(rest) != `{"ok":true}`[c.want:] {
			t.Errorf("a writer says %d, %v: got %d, %v and then %q, want %d, %v and the rest", c.says, c.err, n, err, rest, c.want, c.is)
		}
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
