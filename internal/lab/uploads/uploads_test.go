package main

import (
	"io"
	"os"
	"strings"
	"testing"
)

// The senders and the server are this program again, whichever that is.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && (os.Args[1] == serveArg || os.Args[1] == sendArg) {
		main()
		return
	}
	os.Exit(m.Run())
}

func TestTheTablesHaveACellForEveryCase(t *testing.T) {
	var out strings.Builder
	const some = "one after another: 64 KiB,chunked 64 at once: 1 KiB,HTTP/2 16 MiB refused"
	if err := run([]string{"-quick", "-only", some}, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	for _, title := range []string{"HTTP/1.1 chunked one after another", "HTTP/2 with a length one after another", "64 at once", "refused once", "x/oauth2: throughput"} {
		if !strings.Contains(out.String(), title) {
			t.Errorf("there is no %q in\n%s", title, out.String())
		}
	}
	if strings.Contains(out.String(), "NaN") || strings.Contains(out.String(), "|  |") {
		t.Errorf("a cell is empty:\n%s", out.String())
	}
}

func TestANameThatNoCaseHasIsAnError(t *testing.T) {
	if err := run([]string{"-only", "HTTP/3"}, io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), "HTTP/3") {
		t.Errorf("got %v, want an error that names it", err)
	}
}
